"""Reading the configuration, its schemas, and the checks that all analyses share."""
