"""Structure from Motion: tracks → camera, poses and points."""
