"""The physics that processors share: branches, lepton working points, cuts as expressions."""
