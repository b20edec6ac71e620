"""The lepton fake rate: processor, measurement, and the files of the map."""
