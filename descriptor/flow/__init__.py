"""Correspondences by dense optical flow: working frames, point search, point tracking through a video."""
