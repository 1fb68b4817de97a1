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

TESTS = Path(__file__).parent
# Modules, or folders of them, that take more than a few seconds each.
SLOW = (
    "benchmarks/test_scripts.py",
    "data_prep/calibration",
    "data_prep/simulation",
    "data_prep/test_",
    "data_prep/video",
    "descriptor/clips",
    "descriptor/evaluation",
    "descriptor/fcdensenet",
    "descriptor/gift",
    "descriptor/keypoints",
    "descriptor/matching/test_cupy",
    "descriptor/training",
    "pipeline/command/test_command.py",
    "pipeline/command/test_console_command.py",
    "pipeline/command/test_interruption.py",
    "pipeline/command/test_privacy.py",
    "pipeline/outputs",
    "reconstruct",
    "sfm/mapping",
    "sfm/output",
    "sfm/test_view.py",
    "test_imports.py",
    "test_python_page.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, which `make test-fast` leaves out."""
    for item in items:
        if item.path.relative_to(TESTS).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


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
