"""Demo samples: synthetic NanoAOD whose loose-to-tight probability is known."""
