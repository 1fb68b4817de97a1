"""What commands write: output folders and their records, atomic files, locks."""
