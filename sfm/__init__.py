"""Correspondences → pycolmap → poses and points; evaluation against truth, export, viewing."""
