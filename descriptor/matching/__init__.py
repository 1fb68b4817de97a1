"""Descriptors → correspondences: where each point of one frame is in another, without ever holding a heatmap."""
