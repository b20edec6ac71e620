"""Applying measured rates, and holding what they predict against what is observed."""
