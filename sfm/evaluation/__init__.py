"""Metrics of a reconstruction against ground truth or another reconstruction."""
