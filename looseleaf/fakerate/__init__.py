"""The lepton fake rate: processor, measurement, and the map as files."""
