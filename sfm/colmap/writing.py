"""Files that pycolmap writes, listed in the record of the output that they belong to."""

from pathlib import Path

import pycolmap

from pipeline.errors import explain_os_errors
from pipeline.outputs.record import own, own_scratch

_MODEL_FILES = tuple(f"{name}.bin" for name in ("cameras", "images", "points3D", "rigs", "frames"))
# SQLite's files beside a database, and lists of pairs that are handed to pycolmap.
_SCRATCH_FILES = (*_MODEL_FILES, "database.db*", "*.pairs.txt")


def write_binary_model(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write a COLMAP model in binary form.

    Raises:
        LumenError: if it cannot be written, or a file of the user has one of the names.
    """
    with explain_os_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in _MODEL_FILES:
            own(folder / name)
        model.write_binary(folder)


def own_mapping_files(folder: Path) -> None:
    """List the databases and models in a folder in which pycolmap works as written by this tool."""
    own_scratch(folder, _SCRATCH_FILES)
