"""What a reconstruction is handed on as: exports, overlay video, plots, report."""
