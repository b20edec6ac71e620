"""ServiceX transforms: columns and selected events of a dataset, on a POSIX volume."""
