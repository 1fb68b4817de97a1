"""Videos with several sequences or models: all are finished and listed, and no stale outputs are left behind."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import plyfile
import pycolmap
import pytest

from data_prep import phantom
from data_prep.extract import ExtractConfig
from data_prep.extract import run as extract
from data_prep.phantom import PhantomConfig
from pipeline.command.config import configure
from pipeline.command.run_command import run_command
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.training_files import read_training_data
from pipeline.errors import PartialSuccess
from pipeline.paths import RunPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from quick_settings import FAST
from reconstruct import ReconstructConfig, reconstruct

FRAMES = 44


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    """A video of two places with a cut in between, each long enough for its own model."""
    folder = tmp_path_factory.mktemp("cut") / "phantom"
    phantom.run(PhantomConfig(output=folder, frames=FRAMES, size=(320, 256), fps=15.0, seed=2, cuts=1, depth=False))
    return PhantomPaths(folder)


@pytest.fixture(scope="module")
def whole(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> ReconstructionPaths:
    """A run with both places in one sequence. Tests must not change it."""
    output = tmp_path_factory.mktemp("run") / "run"
    reconstruct(
        configure(ReconstructConfig, video.video, output, calibration=video.calibration, split_at_cuts=False, **FAST)
    )
    return ReconstructionPaths(output)


def test_every_model_has_dense_points_exports_overlay_and_report(whole: ReconstructionPaths) -> None:
    frames: list[int] = []
    for number in (0, 1):
        paths = whole.of_model(number)
        dense = pycolmap.Reconstruction(paths.dense)
        data = read_training_data(paths.training_data.model)
        frames += data.frame_index.tolist()
        assert dense.num_points3D() == len(data.points) > 1000
        assert plyfile.PlyData.read(str(paths.point_cloud))["vertex"].count == len(data.points)
        assert len(paths.trajectory.read_text().splitlines()) == len(data.frame_index) + 1
        listed = json.loads(paths.transforms.read_text())["frames"]
        assert len(listed) == len(data.frame_index)
        assert all((paths.transforms.parent / frame["file_path"]).exists() for frame in listed)
        assert paths.overlay.stat().st_size > 10_000
    assert sorted(frames) == list(range(FRAMES)), "each frame must be in exactly one model"
    assert whole.unregistered.read_text() == ""


def test_reports_state_that_scales_are_unrelated_and_count_unregistered_frames(whole: ReconstructionPaths) -> None:
    for number in (0, 1):
        page = whole.of_model(number).page.read_text()
        assert f"model {number} of 2" in page
        assert "their scales and world coordinates are unrelated" in page
        assert '<div class="fact"><b>0</b>frames without a pose</div>' in page
        assert "explains only" not in page, "the explained share must refer to the frames of the model"


def test_the_overlay_of_a_model_marks_frames_of_the_other_model(whole: ReconstructionPaths) -> None:
    capture = cv2.VideoCapture(str(whole.of_model(1).overlay))
    images = [capture.read()[1] for _ in range(FRAMES)]
    in_other = read_training_data(whole.training_data.model).frame_index
    red = [int(((image[:40, :160, 2] > 150) & (image[:40, :160, 1] < 90)).sum()) for image in images]
    assert min(red[index] for index in in_other) > 30


def test_the_index_links_the_report_of_every_model(whole: ReconstructionPaths) -> None:
    index = whole.index.read_text()
    assert re.findall(r'href="([^"]+)"', index) == ["report.html", "model_1/report.html"]
    assert "default-src 'none'" in index and "unrelated" in index


def test_a_run_with_other_sequences_removes_the_outputs_of_the_previous_run(
    whole: ReconstructionPaths, video: PhantomPaths, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**FAST, "calibration": video.calibration, "references": 2}
    output = ReconstructionPaths(tmp_path / "run")
    reconstruct(configure(ReconstructConfig, video.video, output.root, split_at_cuts=False, until="map", **settings))
    (output.root / "notes.txt").write_text("mine")
    assert output.sparse.exists() and output.tracks.exists()
    reconstruct(configure(ReconstructConfig, video.video, output.root, **settings))
    folders = RunPaths(output.root).segments()
    assert len(folders) == 2 and all(ReconstructionPaths(each).page.exists() for each in folders)
    for stale in (output.sparse, output.tracks, output.manifest, output.page, output.unregistered):
        assert not stale.exists()
    links = re.findall(r'href="([^"]+)"', output.index.read_text())
    assert links == [f"{each.name}/report.html" for each in folders]
    reconstruct(configure(ReconstructConfig, video.video, output.root, split_at_cuts=False, until="map", **settings))
    assert not any(each.exists() for each in folders) and output.sparse.exists()
    assert (output.root / "notes.txt").read_text() == "mine"


@pytest.fixture
def half_good(video: PhantomPaths, tmp_path: Path) -> Path:
    """A folder of two sequences. All frames of the second are black."""
    output = tmp_path / "sequences"
    extract(configure(ExtractConfig, video.video, output, calibration=video.calibration))
    for image in RunPaths(output).sequences()[1].images.iterdir():
        cv2.imwrite(str(image), np.zeros((256, 320, 3), np.uint8))
    return output


def test_a_failed_sequence_does_not_stop_the_others_and_exits_with_3(
    half_good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(half_good), "--output", str(tmp_path / "run"), "--preset", "fast", "--points", "400"]
    assert run_command(ReconstructConfig, reconstruct, [*arguments, "--references", "2"]) == 3
    printed = capsys.readouterr()
    output = ReconstructionPaths(tmp_path / "run")
    good, bad = RunPaths(output.root).segments()
    assert str(ReconstructionPaths(good).page) in printed.out and str(output.index) in printed.out
    table = [line.split() for line in printed.err.splitlines() if line.startswith(("_start_", "sequence"))]
    assert [row[0] for row in table] == ["sequence", good.name, bad.name]
    assert table[1][-1] == "done" and "texture" in table[2]
    error = printed.err.splitlines()[-1]
    assert error.startswith("1 of 2 sequences and models could not be finished")
    assert str(output.index) in error
    assert "no frame shows any texture" in output.index.read_text()
    assert str(tmp_path) not in output.index.read_text()


def test_repeating_the_command_reports_the_failed_sequence_again(half_good: Path, tmp_path: Path) -> None:
    config = configure(ReconstructConfig, half_good, tmp_path / "run", **(FAST | {"references": 2}))
    for _ in range(2):
        with pytest.raises(PartialSuccess, match="1 of 2 sequences and models could not be finished"):
            reconstruct(config)


def test_no_reconstruction_at_all_exits_with_1(half_good: Path, tmp_path: Path) -> None:
    for image in RunPaths(half_good).sequences()[0].images.iterdir():
        cv2.imwrite(str(image), np.zeros((256, 320, 3), np.uint8))
    arguments = [str(half_good), "--output", str(tmp_path / "run"), "--preset", "fast"]
    assert run_command(ReconstructConfig, reconstruct, arguments) == 1
    assert ReconstructionPaths(tmp_path / "run").index.read_text().count("no frame shows any texture") == 2
