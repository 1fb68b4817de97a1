"""Image → dense descriptors → correspondences: networks, training, evaluation and the matching engine."""
