"""Search engines for the best match in a dense map: torch, CuPy, a NumPy reference, and coarse-to-fine."""
