"""Choosing the frames of a sequence: content area, quality, cuts, and writing what was chosen."""
