"""Inputs of a reconstruction: invalid inputs and settings, and videos with cuts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest

from pipeline.command.config import configure, parse_command_line
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.sequence import Sequence
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError, NoReconstruction
from pipeline.outputs.files import write_json
from pipeline.outputs.folders import output_folder
from pipeline.paths import SequencePaths
from pipeline.reconstruction_paths import ReconstructionPaths
from quick_settings import FAST
from reconstruct import ReconstructConfig, reconstruct
from videos import endoscopic_frames

# The fixtures video, extracted, sequence and cut_video.


def test_each_sequence_between_cuts_is_reconstructed_separately(cut_video: PhantomPaths, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**FAST, "calibration": cut_video.calibration, "until": "map"}
    reconstruct(configure(ReconstructConfig, cut_video.video, tmp_path / "run", **settings))
    runs = sorted(each for each in (tmp_path / "run").glob("_start_*"))
    assert len(runs) == 2
    assert all(ReconstructionPaths(each).sparse.exists() for each in runs)


def test_frames_that_do_not_match_the_first_model_become_a_second_model(
    cut_video: PhantomPaths, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**FAST, "calibration": cut_video.calibration, "until": "map"}
    paths = ReconstructionPaths(tmp_path / "run")
    reconstruct(configure(ReconstructConfig, cut_video.video, paths.root, split_at_cuts=False, **settings))
    counts = json.loads(paths.stage_report("map").read_text())["counts"]
    frames = [pycolmap.Reconstruction(paths.of_model(number).sparse).num_reg_images() for number in (0, 1)]
    assert counts["models"] == frames and min(frames) >= 15
    missing = paths.unregistered.read_text().splitlines()
    assert counts["registered"] == sum(frames) == 40 - len(missing)


def test_image_settings_are_passed_to_the_extraction(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(endoscopic_frames(12)):
        cv2.imwrite(str(folder / f"{('left', 'right')[i % 2]}_{40 * (i // 2)}.png"), image)
    settings: dict[str, Any] = {**FAST, "calibration": None, "until": "extract", "keep_all": True}
    with pytest.raises(LumenError, match="--image_kind"):
        reconstruct(configure(ReconstructConfig, folder, tmp_path / "run", **settings))
    settings |= {"image_kind": "right", "image_numbers": "ms", "split_at_cuts": False}
    (sequence,) = reconstruct(configure(ReconstructConfig, folder, tmp_path / "run", **settings))
    frames = Sequence.load(SequencePaths(sequence).sequence).frames
    assert [frame.timestamp_s for frame in frames] == pytest.approx([0.04 * i for i in range(6)])


def test_image_settings_are_rejected_for_a_sequence(sequence: SequencePaths, tmp_path: Path) -> None:
    for settings in ({"image_kind": "left"}, {"image_numbers": "ms"}):
        (name,) = settings
        with pytest.raises(LumenError, match=f"--{name} is for videos and images"):
            reconstruct(configure(ReconstructConfig, sequence.root, tmp_path / "run", **{**FAST, **settings}))


def test_a_run_of_an_earlier_version_is_redone_and_the_log_says_so(
    sequence: SequencePaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ReconstructionPaths(tmp_path / "run")
    config = configure(ReconstructConfig, sequence.root, paths.root, until="match", **FAST)
    reconstruct(config)
    made = paths.tracks.stat().st_mtime_ns
    earlier = json.loads(paths.manifest.read_text())
    earlier |= {"format_version": 2, "stages": {"correspond": earlier["stages"]["match"]}}
    paths.manifest.write_text(json.dumps(earlier))
    with output_folder(paths.root, "reconstruct.py"):
        write_json(paths.stage_report("skeleton"), {})
    (paths.root / "mine.txt").write_text("mine")
    reconstruct(config)
    assert "was made by an earlier version of LumenSfM" in caplog.text
    assert paths.tracks.stat().st_mtime_ns > made and not paths.stage_report("skeleton").exists()
    assert (paths.root / "mine.txt").read_text() == "mine"


def test_a_run_of_a_later_version_is_rejected(sequence: SequencePaths, tmp_path: Path) -> None:
    paths = ReconstructionPaths(tmp_path / "run")
    with output_folder(paths.root, "reconstruct.py"):
        write_json(paths.manifest, {"format_version": 99, "stages": {}})
    with pytest.raises(LumenError, match="has format 99; this version reads up to"):
        reconstruct(configure(ReconstructConfig, sequence.root, paths.root, **FAST))


def test_unreadable_and_black_frames_are_reported_and_the_rest_is_reconstructed(
    sequence: SequencePaths, tmp_path: Path
) -> None:
    images = sorted(sequence.images.glob("*.jpg"))
    images[5].write_bytes(images[5].read_bytes()[:2000])
    for dark in images[10:13]:
        cv2.imwrite(str(dark), np.zeros((256, 320, 3), np.uint8))
    paths = ReconstructionPaths(tmp_path / "run")
    reconstruct(configure(ReconstructConfig, sequence.root, paths.root, **FAST))
    missing = paths.unregistered.read_text().splitlines()
    assert f"{int(images[5].stem)} its image cannot be read" in missing
    assert {int(line.split()[0]) for line in missing} >= {int(image.stem) for image in images[10:13]}
    assert len(read_training_data(paths.root).frame_index) == len(images) - len(missing) >= 18
    warnings = json.loads(paths.stage_report("map").read_text())["warnings"]
    assert any(f"{len(missing)} of {len(images)} frames are in no model" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"correspondences": "both", "train_minutes": 0}, "there is no descriptor: give --weights"),
        ({"references": 0}, "--references 0: choose 1 or more"),
        ({"coverage": 1.5}, "--coverage 1.5"),
        ({"inlier_percentage": 99}, "--inlier_percentage 99"),
        ({"pairs": "ddl"}, "--pairs ddl is for --correspondences descriptor"),
        ({"pairs": "exhaustive", "correspondences": "both"}, "--pairs exhaustive is for"),
        ({"correspondences": "descriptor", "sigma": 0.0}, "--sigma 0"),
        ({"correspondences": "flow", "rounds": 2}, "--rounds needs a descriptor"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match=message):
        configure(ReconstructConfig, tmp_path, **settings)


def test_flags_override_a_preset(tmp_path: Path) -> None:
    config = parse_command_line(ReconstructConfig, ["clip.mp4", "--preset", "fast", "--references", "3"], "test")
    assert (config.descriptor.correspondences, config.densify.references) == ("flow", 3)
    with pytest.raises(LumenError, match="--preset fats: there is none of that name; did you mean 'fast'"):
        parse_command_line(ReconstructConfig, ["clip.mp4", "--preset", "fats"], "test")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"no")])
def test_an_input_that_is_not_a_video_is_reported(make: Callable[[Path], Any], tmp_path: Path) -> None:
    given = tmp_path / "input.mp4"
    make(given)
    with pytest.raises(LumenError, match="input.mp4"):
        reconstruct(configure(ReconstructConfig, given, tmp_path / "run", **FAST))
    assert not (tmp_path / "run").exists(), "no output must be left behind"


def test_unknown_weights_are_rejected_before_the_first_stage(sequence: SequencePaths, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no weights")
    settings = FAST | {"correspondences": "both", "train_minutes": 0.0}
    with pytest.raises(LumenError, match=r"weights\.pt"):
        reconstruct(configure(ReconstructConfig, sequence.root, tmp_path / "run", weights=weights, **settings))


def test_frames_without_texture_raise_no_reconstruction(sequence: SequencePaths, tmp_path: Path) -> None:
    for image in sequence.images.glob("*.jpg"):
        cv2.imwrite(str(image), np.zeros((256, 320, 3), np.uint8))
    with pytest.raises(NoReconstruction, match="texture"):
        reconstruct(configure(ReconstructConfig, sequence.root, tmp_path / "run", **FAST))


def test_a_run_on_another_input_is_replaced_only_with_overwrite(
    sequence: SequencePaths, cut_video: PhantomPaths, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    reconstruct(configure(ReconstructConfig, sequence.root, output, until="match", **FAST))
    settings: dict[str, Any] = {**FAST, "calibration": cut_video.calibration, "until": "extract"}
    with pytest.raises(LumenError, match="holds the reconstruction of another input: choose another --output"):
        reconstruct(configure(ReconstructConfig, cut_video.video, output, **settings))
    assert ReconstructionPaths(output).tracks.exists()
    reconstruct(configure(ReconstructConfig, cut_video.video, output, overwrite=True, **settings))
    assert not ReconstructionPaths(output).tracks.exists()


def test_extraction_settings_are_rejected_for_a_sequence(sequence: SequencePaths, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="--stride is for videos and images"):
        reconstruct(configure(ReconstructConfig, sequence.root, tmp_path / "run", stride=2, **FAST))


def test_the_output_must_not_be_inside_the_image_folder(sequence: SequencePaths) -> None:
    with pytest.raises(LumenError, match="lies inside the input"):
        reconstruct(configure(ReconstructConfig, sequence.images, sequence.images / "run", **FAST))


def test_the_output_must_not_be_the_input(sequence: SequencePaths) -> None:
    with pytest.raises(LumenError, match="is the input"):
        reconstruct(configure(ReconstructConfig, sequence.root, sequence.root, **FAST))
