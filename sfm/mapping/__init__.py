"""Structure from Motion: tracks → cameras, poses and points."""
