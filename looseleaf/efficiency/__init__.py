"""Efficiencies by tag and probe in Z boson decays: processor, measurement, files of the maps."""
