"""Outputs of a reconstruction: exports, overlay video, plots and report."""
