"""Correspondences from descriptors: matches points of one frame to another without storing heatmaps."""
