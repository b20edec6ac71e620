"""ServiceX transforms: columns and selected events of a dataset, written to a POSIX volume."""
