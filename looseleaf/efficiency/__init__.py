"""Efficiencies by tag and probe in Z boson decays: processor, measurement, and maps as files."""
