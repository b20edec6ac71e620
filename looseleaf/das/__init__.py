"""From a dataset name to its files: what DAS is asked for, and what it answers."""
