"""Descriptors judged on photographs: keypoints of two images, described, matched, and compared with the truth."""
