"""Video → sequence → training data. `extract.py`, `calibrate.py`, `convert.py` and `phantom.py` are commands."""
