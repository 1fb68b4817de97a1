"""Frame selection: content area, quality, cuts, and writing the selected frames."""
