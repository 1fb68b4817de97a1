"""A reconstruction against ground truth or another reconstruction."""
