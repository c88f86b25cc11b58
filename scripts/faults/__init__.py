"""Random kills, damaged files and wrong values for `scripts/torture.py`."""
