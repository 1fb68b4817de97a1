"""Dense descriptors: networks, training, evaluation, and matching."""
