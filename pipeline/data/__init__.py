"""Data on disk: sequences and their images, SfM training data, tracks, depth maps, phantoms."""
