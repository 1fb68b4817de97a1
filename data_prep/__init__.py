"""Video → sequence → training data. `extract.py`, `calibrate.py` and `phantom.py` are commands."""
