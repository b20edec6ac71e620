"""Ratios with intervals, histograms on disk, and the pictures of them."""
