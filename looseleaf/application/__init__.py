"""Applying measured rates, and comparing the prediction with the observed events."""
