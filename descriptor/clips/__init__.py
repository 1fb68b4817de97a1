"""Training data at the network's size: clips of downsampled frames, and the points their frames share."""
