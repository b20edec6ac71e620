"""A ServiceX: its REST protocol, a queue in SQLite, worker processes, a volume."""
