"""No command changes files that the user keeps in its output folder.

Each command writes its output. Then the test puts files with various names into every folder of it, and runs the same
command again with other settings, without and with --overwrite.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_prep import bootstrap, calibrate, convert, extract, phantom
from data_prep.bootstrap import BootstrapConfig
from data_prep.calibrate import CalibrateConfig
from data_prep.convert import ConvertConfig
from data_prep.extract import ExtractConfig
from data_prep.phantom import PhantomConfig
from descriptor.evaluation.sequences import TestConfig, measure
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from pipeline.command.config import configure
from pipeline.command.run_command import run_command
from pipeline.data.phantom_files import PhantomPaths
from pipeline.paths import RunPaths, SequencePaths
from quick_settings import FAST
from reconstruct import ReconstructConfig, reconstruct
from sfm import view
from sfm.view import ViewConfig
from textured_plane import write_plane

NAMES = ("notes.txt", "mine.bin", "x.jpg", "data.json", "points_old.ply", "a b.csv", "Häßlich.yaml", ".hidden", "table")
_STATUSES = (0, 1)


@dataclass(frozen=True)
class Command:
    """A command: its config and function, and the arguments of a first run and of a second one with other settings."""

    config: type
    run: Callable[[Any], Any]
    output: Path
    first: list[str]
    second: list[str]
    has_overwrite: bool = True


def put_files_of_the_user(folder: Path, seed: int) -> dict[Path, bytes]:
    """Write random files into every folder, some into new subfolders; return path → content."""
    rng = random.Random(seed)
    written: dict[Path, bytes] = {}
    for place in [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir())]:
        for name in rng.sample(NAMES, 2):
            path = place / name if rng.random() < 0.7 else place / f"my folder {seed}" / name
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                written[path] = rng.randbytes(rng.randrange(1, 200))
                path.write_bytes(written[path])
    link = folder / f"link_{seed}"
    link.symlink_to("notes.txt")
    return written


def changed(files: dict[Path, bytes]) -> list[Path]:
    return [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]


def phantom_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    first = [str(folder / "out"), "--frames", "3", "--size", "64", "64"]
    return Command(PhantomConfig, phantom.run, folder / "out", first, [*first, "--seed", "1"])


def extract_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    first = [str(video.video), "--output", str(folder / "out")]
    return Command(ExtractConfig, extract.run, folder / "out", first, [*first, "--stride", "2"])


def bootstrap_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    first = [str(sequence.root), "--points", "300"]
    return Command(BootstrapConfig, bootstrap.run, sequence.root, first, [*first, "--seed", "1"])


def bootstrap_of_an_extraction(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    """Without a calibration, which undistorts the frames in the output of the extraction."""
    extract.run(configure(ExtractConfig, video.video, folder / "out"))
    (own,) = RunPaths(folder / "out").sequences()
    first = [str(own.root), "--points", "300", "--camera_model", "SIMPLE_RADIAL"]
    return Command(BootstrapConfig, bootstrap.run, folder / "out", first, [*first, "--seed", "1"])


def convert_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    first = [str(video.root), "--to", "training", "--output", str(folder / "out")]
    return Command(ConvertConfig, convert.run, folder / "out", first, [*first, "--check"])


def reconstruct_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    settings = ["--preset", "fast", "--points", str(FAST["points"]), "--references", "2"]
    first = [str(video.video), "--output", str(folder / "out"), "--calibration", str(video.calibration), *settings]
    other_input = [str(sequence.root), "--output", str(folder / "out"), *settings]
    return Command(ReconstructConfig, reconstruct, folder / "out", first, other_input)


def train_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    write_plane(folder / "data" / "1" / "plane", frames=6)
    small = "--image_downsampling 4 --network_downsampling 32 --batch_size 2 --feature_length 16 --num_workers 1"
    small += " --filter_growth_rate 4 --num_epoch 1 --num_iter 2 --adjacent_range 1 4 --device cpu"
    roots = ["--training_data_root", str(folder / "data"), "--log_root", str(folder / "out")]
    first = [*roots, "--cache_root", str(folder / "cache"), *small.split()]
    return Command(TrainConfig, train, folder / "out", first, [*first, "--seed", "1"], has_overwrite=False)


def test_command(video: PhantomPaths, sequence: SequencePaths, folder: Path) -> Command:
    write_plane(folder / "data" / "1" / "plane", frames=6)
    roots = ["--testing_data_root", str(folder / "data"), "--log_root", str(folder / "out")]
    first = [*roots, "--cache_root", str(folder / "cache"), "--pairs_per_distance", "1", "--baselines", "random"]
    first += ["--no_reference_floor", "--adjacent_range", "1", "4"]
    return Command(TestConfig, measure, folder / "out", first, [*first, "--seed", "1"], has_overwrite=False)


test_command.__test__ = False  # type: ignore[attr-defined]

COMMANDS = [
    phantom_command,
    extract_command,
    bootstrap_command,
    bootstrap_of_an_extraction,
    convert_command,
    reconstruct_command,
    train_command,
    test_command,
]


@pytest.mark.parametrize("make", COMMANDS, ids=lambda make: make.__name__)
def test_no_command_changes_a_file_of_the_user(
    make: Callable[..., Command], video: PhantomPaths, sequence: SequencePaths, tmp_path: Path
) -> None:
    command = make(video, sequence, tmp_path)
    assert run_command(command.config, command.run, command.first) == 0
    files = put_files_of_the_user(command.output, 0)
    # Commands also write to the work folder that a killed run leaves beside the output.
    partial = command.output.with_name(f".partial.{command.output.name}")
    if partial.exists():
        files |= put_files_of_the_user(partial, 1)
    assert run_command(command.config, command.run, command.first) in _STATUSES
    assert changed(files) == []
    assert run_command(command.config, command.run, command.second) in _STATUSES
    assert changed(files) == []
    if command.has_overwrite:
        assert run_command(command.config, command.run, [*command.second, "--overwrite"]) == 0
        assert changed(files) == []
    assert os.readlink(command.output / "link_0") == "notes.txt"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("make", [each for each in COMMANDS if "bootstrap" not in each.__name__])
def test_a_folder_of_the_user_is_rejected_and_not_changed(
    make: Callable[..., Command], overwrite: bool, video: PhantomPaths, sequence: SequencePaths, tmp_path: Path
) -> None:
    command = make(video, sequence, tmp_path)
    (command.output / "sparse" / "0").mkdir(parents=True)
    files = put_files_of_the_user(command.output, 2)
    names = {str(path.relative_to(tmp_path)) for path in command.output.rglob("*")}
    flags = ["--overwrite"] if overwrite and command.has_overwrite else []
    assert run_command(command.config, command.run, [*command.first, *flags]) == 1
    assert changed(files) == []
    assert {str(path.relative_to(tmp_path)) for path in command.output.rglob("*")} == names


def test_single_files_of_the_user_are_not_replaced(
    video: PhantomPaths, sequence: SequencePaths, tmp_path: Path
) -> None:
    bootstrap.run(configure(BootstrapConfig, sequence.root, points=300))
    for name in ("cloud.png", "calibration.yaml", "calibration.png"):
        (tmp_path / name).write_text("mine")
    assert run_command(ViewConfig, view.run, [str(sequence.root), "--render", str(tmp_path / "cloud.png")]) == 1
    board = ["--pattern", "chessboard", "--rows", "6", "--cols", "9", "--spacing_mm", "3", "--overwrite"]
    output = ["--output", str(tmp_path / "calibration.yaml")]
    assert run_command(CalibrateConfig, calibrate.run, [str(sequence.images), *board, *output]) == 1
    assert {(tmp_path / name).read_text() for name in ("cloud.png", "calibration.yaml", "calibration.png")} == {"mine"}


def test_source_images_are_never_changed(sequence: SequencePaths, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "sparse" / "0").mkdir(parents=True)
    sequence.images.rename(project / "images")
    (project / "sparse" / "0" / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    for output in (project, project / "images", project / "images" / "run"):
        arguments = [str(project / "images"), "--output", str(output), "--preset", "fast", "--overwrite"]
        assert run_command(ReconstructConfig, reconstruct, arguments) == 1
        assert changed(before) == []
    assert {path for path in project.rglob("*") if path.is_file()} == before.keys()


def test_a_folder_with_input_videos_is_rejected_as_output(video: PhantomPaths, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (study / name).write_bytes(video.video.read_bytes())
    (study / "table.csv").write_text("mine")
    before = {path: path.read_bytes() for path in study.iterdir()}
    for name, flags in (("a.mp4", []), ("b.mp4", ["--overwrite"])):
        arguments = [str(study / name), "--output", str(study), "--preset", "fast", *flags]
        assert run_command(ReconstructConfig, reconstruct, arguments) == 1
    assert {path: path.read_bytes() for path in study.iterdir()} == before
