"""Fixtures: the video of a small phantom, its sequence, and a video with a cut."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep import phantom
from data_prep.extract import ExtractConfig
from data_prep.extract import run as extract
from data_prep.phantom import PhantomConfig
from pipeline.command.config import configure
from pipeline.command.run_command import _OURS
from pipeline.data.phantom_files import PhantomPaths
from pipeline.paths import RunPaths, SequencePaths


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo what a command changes in logging, so that no test depends on those before it."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in _OURS}
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name, each in levels.items():
        logging.getLogger(name).setLevel(each)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    folder = tmp_path_factory.mktemp("phantom") / "colon"
    phantom.run(PhantomConfig(output=folder, frames=24, size=(320, 256), fps=15.0, seed=2))
    return PhantomPaths(folder)


@pytest.fixture(scope="module")
def extracted(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> SequencePaths:
    output = tmp_path_factory.mktemp("sequences") / "video"
    extract(configure(ExtractConfig, video.video, output, calibration=video.calibration))
    return RunPaths(output).sequences()[0]


@pytest.fixture
def sequence(extracted: SequencePaths, tmp_path: Path) -> SequencePaths:
    """A copy of the sequence that the test may change."""
    shutil.copytree(extracted.root, tmp_path / "sequence")
    return SequencePaths(tmp_path / "sequence")


@pytest.fixture(scope="module")
def cut_video(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    """A video of two places with a hard cut in between."""
    folder = tmp_path_factory.mktemp("cut") / "phantom"
    phantom.run(PhantomConfig(output=folder, frames=40, size=(320, 256), fps=15.0, seed=2, cuts=1, depth=False))
    return PhantomPaths(folder)
