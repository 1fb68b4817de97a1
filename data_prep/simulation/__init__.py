"""Endoscopy with exact truth: anatomy and mucosa → camera path → rendered frames and their truth."""
