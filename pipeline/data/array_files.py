"""Arrays by name in a file: what a long stage has done so far, which is made again where a file is no good."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pipeline.errors import explain_os_errors
from pipeline.outputs.files import atomic_write


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray]) -> None:
    """Write an NPZ file, atomically."""
    with atomic_write(path) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray] | None:
    """Read what `write_arrays` wrote; None if it is missing, damaged, or lacks one of the names.

    Raises:
        LumenError: if the system does not let it be read.
    """
    if not path.exists():
        return None
    with explain_os_errors("read", path):
        try:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in names}
        except (ValueError, KeyError, EOFError, BadZipFile):
            return None
