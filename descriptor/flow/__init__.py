"""Correspondences by dense optical flow: working frames, point search, following points through a video."""
