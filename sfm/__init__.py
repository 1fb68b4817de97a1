"""Structure from Motion: matches → poses and points with pycolmap; densification, evaluation, export and viewing."""
