"""Charge flips of electrons: processor, measurement, and the map as files."""
