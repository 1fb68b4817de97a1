"""Registration of the files that pycolmap writes in the record of their output."""

from pathlib import Path

import pycolmap

from pipeline.errors import explain_os_errors
from pipeline.outputs.owned_files import own, own_scratch

_MODEL_FILES = tuple(f"{name}.bin" for name in ("cameras", "images", "points3D", "rigs", "frames"))
# SQLite's files beside a database, and pair lists for pycolmap.
_SCRATCH_FILES = (*_MODEL_FILES, "database.db*", "*.pairs.txt")


def write_binary_model(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write a binary COLMAP model.

    Raises:
        LumenError: if it cannot be written, or would overwrite a file of the user.
    """
    with explain_os_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in _MODEL_FILES:
            own(folder / name)
        model.write_binary(folder)


def own_mapping_files(folder: Path) -> None:
    """Record the databases and models in a working folder of pycolmap as written by this tool."""
    own_scratch(folder, _SCRATCH_FILES)
