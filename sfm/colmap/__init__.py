"""COLMAP models and databases: reading, validation and writing."""
