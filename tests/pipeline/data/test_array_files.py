"""Intermediate arrays of a stage are read back exactly, or rejected if damaged."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.array_files import read_arrays, write_arrays


def test_written_arrays_are_read_back(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"x": np.arange(5), "y": np.zeros((0, 2))})
    found = read_arrays(tmp_path / "a.npz", ("x", "y"))
    assert found is not None
    np.testing.assert_array_equal(found["x"], np.arange(5))
    assert found["y"].shape == (0, 2)


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_reading_a_damaged_missing_or_different_file_returns_none(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.npz"
    assert read_arrays(path, ("x",)) is None
    write_arrays(path, {"x": np.arange(500)})
    assert read_arrays(path, ("y",)) is None
    path.write_bytes(path.read_bytes()[:keep])
    assert read_arrays(path, ("x",)) is None
