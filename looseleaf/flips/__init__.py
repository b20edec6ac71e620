"""Charge flips of electrons: processor, measurement, and the files of the map."""
