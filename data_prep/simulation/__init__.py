"""Simulated endoscopy with exact ground truth: anatomy, mucosa, camera path, rendered frames."""
