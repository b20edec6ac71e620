"""EFT processing: histograms whose bins are quadratics in the Wilson coefficients."""
