"""Structure from Motion: matches → poses and points with pycolmap; densification, evaluation, export and viewing."""

import sys
from pathlib import Path

# `python -m` puts the current folder first: a folder named pipeline in it would hide ours.
if sys.argv[:1] == ["-m"]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
