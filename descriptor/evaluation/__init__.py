"""Evaluation of dense descriptors on sequences, beside baselines, as run by `test.py`."""
