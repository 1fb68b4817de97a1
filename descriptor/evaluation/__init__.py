"""Measuring a dense descriptor on sequences, beside baselines: what `test.py` runs."""
