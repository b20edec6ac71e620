"""The configuration: reading it, its schemas, and what is checked of all analyses."""
