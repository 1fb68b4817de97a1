"""Fixtures of the matching tests."""

from pathlib import Path

import pytest

from known_plane import Plane


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return Plane(tmp_path / "plane")
