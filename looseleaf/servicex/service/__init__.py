"""A ServiceX of one's own: its REST protocol, a queue in SQLite, worker processes, a volume."""
