"""Evaluation of descriptors on photographs: keypoints are detected, described, matched and compared with the truth."""
