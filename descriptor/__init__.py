"""Dense descriptors: networks, training, evaluation, and matching."""

import sys
from pathlib import Path

# `python -m` puts the current folder first: a folder named pipeline in it would hide ours.
if sys.argv[:1] == ["-m"]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
