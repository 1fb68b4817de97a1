"""COLMAP's models and databases: reading, checking, writing."""
