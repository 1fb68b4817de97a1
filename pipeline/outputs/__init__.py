"""Output folders and their records, atomic writes and locks."""
