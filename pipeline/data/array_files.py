"""Named arrays in NPZ files: intermediate results of long stages, which recompute a damaged file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.arrays import AnyArray
from pipeline.errors import explain_os_errors
from pipeline.outputs.files import atomic_write


def write_arrays(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Write an NPZ file, atomically."""
    with atomic_write(path) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, AnyArray] | None:
    """Read the file that `write_arrays` wrote; None if it is missing or damaged, or lacks one of the names.

    Raises:
        LumenError: if the operating system denies reading it.
    """
    if not path.exists():
        return None
    with explain_os_errors("read", path):
        try:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in names}
        except (ValueError, KeyError, EOFError, BadZipFile):
            return None
