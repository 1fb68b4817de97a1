"""The first SfM as a whole: from a phantom's video to training data, and from what is no good to an error."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pycolmap
import pytest

from data_prep import bootstrap, phantom
from data_prep.bootstrap import BootstrapConfig
from data_prep.extract import ExtractConfig
from data_prep.extract import run as extract
from data_prep.phantom import PhantomConfig
from descriptor.flow import follow as point_tracking
from pipeline.command.config import configure
from pipeline.command.run_command import run_command
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.pose_direction import explained_shares
from pipeline.data.sequence import Sequence
from pipeline.data.training_files import read_mask, read_training_data
from pipeline.errors import LumenError, NoReconstruction
from pipeline.paths import BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from sfm.evaluation.surface import SurfaceTruth
from sfm.evaluation.truth import evaluate

POINTS = 400


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    folder = tmp_path_factory.mktemp("phantom") / "colon"
    phantom.run(PhantomConfig(output=folder, frames=24, size=(320, 256), fps=15.0, depth=False, seed=2))
    return PhantomPaths(folder)


@pytest.fixture(scope="module")
def extracted(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], SequencePaths]:
    """The video's sequence, calibrated or not; extracted once."""
    folder = tmp_path_factory.mktemp("sequences")

    def sequence(calibrated: bool) -> SequencePaths:
        output = folder / ("calibrated" if calibrated else "uncalibrated")
        if not output.exists():
            extract(
                configure(ExtractConfig, video.video, output, calibration=video.calibration if calibrated else None)
            )
        return RunPaths(output).sequences()[0]

    return sequence


@pytest.fixture(scope="module")
def reconstructed(
    extracted: Callable[[bool], SequencePaths], tmp_path_factory: pytest.TempPathFactory
) -> SequencePaths:
    """The calibrated sequence with its training data; not to be changed."""
    folder = tmp_path_factory.mktemp("reconstructed") / "sequence"
    shutil.copytree(extracted(True).root, folder)
    reconstruct(SequencePaths(folder))
    return SequencePaths(folder)


@pytest.fixture
def sequence(extracted: Callable[[bool], SequencePaths], tmp_path: Path) -> SequencePaths:
    """An own copy of the calibrated sequence."""
    shutil.copytree(extracted(True).root, tmp_path / "sequence")
    return SequencePaths(tmp_path / "sequence")


def reconstruct(paths: SequencePaths, **settings: Any) -> BootstrapPaths:
    bootstrap.run(configure(BootstrapConfig, paths.root, **{"points": POINTS, **settings}))
    return BootstrapPaths.of(paths)


def test_the_training_data_are_those_of_the_true_scene(reconstructed: SequencePaths, video: PhantomPaths) -> None:
    data = read_training_data(reconstructed.root)
    figures = evaluate(data, SurfaceTruth.load(video.root))
    assert figures.registered_share >= 0.95
    assert figures.ate_share < 0.02
    assert figures.rotation_deg < 1
    assert figures.surface_share < 0.05
    assert figures.focal_share == pytest.approx(1, abs=1e-9)
    assert len(data.points) > 200
    assert np.bincount(data.observation_point).min() >= 3
    assert data.colors is not None and data.colors.std() > 5


def test_every_observation_is_inside_the_mask_in_front_of_the_camera(reconstructed: SequencePaths) -> None:
    data = read_training_data(reconstructed.root)
    observations = data.observation_point, data.observation_view
    shares = explained_shares(data.cam_from_world, data.points, data.pinhole, observations, data.mask)
    assert data.direction == "cam_from_world"
    assert shares["cam_from_world"] >= 0.999


def test_the_folder_is_a_colmap_model_as_well(reconstructed: SequencePaths) -> None:
    data = read_training_data(reconstructed.root)
    model = pycolmap.Reconstruction(TrainingPaths(reconstructed.root).model)
    assert model.num_reg_images() == len(data.frame_index)
    assert model.num_points3D() == len(data.points)
    assert model.compute_num_observations() == len(data.observation_point)
    assert model.compute_mean_reprojection_error() < 1.5
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}


def test_beside_the_model_are_a_picture_the_settings_the_log_and_the_numbers(reconstructed: SequencePaths) -> None:
    paths = BootstrapPaths.of(reconstructed)
    image = cv2.imread(str(paths.overview))
    assert image is not None and image.std() > 10
    report = json.loads(paths.report.read_text())
    assert report["counts"]["registered"] == len(read_training_data(reconstructed.root).frame_index)
    assert {"keyframes", "match", "mapping", "clean", "write"} <= set(report["times_s"])
    assert "Global bundle adjustment" in paths.log.read_text()
    assert f"points: {POINTS}" in paths.config.read_text()
    assert not paths.correspondences.exists() and not paths.mapping.exists()


def test_an_uncalibrated_sequence_is_calibrated_and_undistorted(
    extracted: Callable[[bool], SequencePaths], video: PhantomPaths, tmp_path: Path
) -> None:
    shutil.copytree(extracted(False).root, tmp_path / "sequence")
    paths = SequencePaths(tmp_path / "sequence")
    reconstruct(paths, camera_model="SIMPLE_RADIAL")
    figures = evaluate(read_training_data(paths.root), SurfaceTruth.load(video.root))
    assert figures.focal_share == pytest.approx(1, abs=0.1)
    assert figures.registered_share >= 0.9
    facts = Sequence.load(paths.sequence)
    assert (facts.calibration.state, facts.calibration.origin) == ("undistorted", "self")
    assert Sequence.load(paths.recorded.sequence).calibration.state == "uncalibrated"
    original = extracted(False)
    index = facts.frames[3].index
    assert paths.recorded.image(index).read_bytes() == original.image(index).read_bytes()


def test_sift_gives_training_data_too(tmp_path: Path) -> None:
    folder = tmp_path / "sinus"
    phantom.run(PhantomConfig(folder, anatomy="sinus", frames=40, size=(320, 256), fps=15.0, depth=False, seed=2))
    paths = PhantomPaths(folder)
    extract(configure(ExtractConfig, paths.video, tmp_path / "sequences", calibration=paths.calibration))
    sequence = RunPaths(tmp_path / "sequences").sequences()[0]
    reconstruct(sequence, method="sift", max_depth_uncertainty=0.05)
    figures = evaluate(read_training_data(sequence.root), SurfaceTruth.load(folder))
    assert figures.registered_share > 0.7
    assert figures.ate_share < 0.02


def test_models_are_not_replaced_unasked(reconstructed: SequencePaths) -> None:
    with pytest.raises(LumenError, match="already exists: pass --overwrite"):
        reconstruct(reconstructed)


def test_a_killed_run_goes_on_and_gives_the_same(
    sequence: SequencePaths, reconstructed: SequencePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[int] = []
    original = point_tracking._follow_from

    def kill_at_the_third(frames: Any, row: int, find: Any, points: int) -> Any:
        followed.append(row)
        if len(followed) == 3:
            raise KeyboardInterrupt
        return original(frames, row, find, points)

    monkeypatch.setattr(point_tracking, "_follow_from", kill_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(sequence)
    assert not BootstrapPaths.of(sequence).root.exists()
    reconstruct(sequence)
    assert followed[2] == followed[3] and len(set(followed)) == len(followed) - 1, "each is followed once"
    again, once = (read_training_data(paths.root) for paths in (sequence, reconstructed))
    # Adjusting on several threads adds up in any order.
    np.testing.assert_allclose(again.cam_from_world, once.cam_from_world, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(again.points, once.points, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(again.observation_point, once.observation_point)
    np.testing.assert_array_equal(again.observation_view, once.observation_view)


def test_other_settings_do_not_go_on_from_a_killed_run(
    sequence: SequencePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("sfm.map_stage.map_video", stop)
        reconstruct(sequence)
    reconstruct(sequence, points=POINTS // 2)
    first = json.loads(BootstrapPaths.of(sequence).report.read_text())["counts"]
    assert first["tracks"] <= POINTS // 2 * first["keyframes"]


def test_a_frame_that_cannot_be_read_is_passed_over_and_listed(sequence: SequencePaths) -> None:
    frames = Sequence.load(sequence.sequence).frames
    damaged, missing = frames[10].index, frames[15].index
    content = sequence.image(damaged).read_bytes()
    sequence.image(damaged).write_bytes(content[: len(content) // 2])
    sequence.image(missing).unlink()
    paths = reconstruct(sequence)
    data = read_training_data(sequence.root)
    assert not {damaged, missing} & set(data.frame_index.tolist())
    assert len(data.frame_index) == len(frames) - 2
    listed = paths.unregistered.read_text().splitlines()
    assert listed == [f"{index} its image cannot be read" for index in (damaged, missing)]
    assert {damaged, missing} <= set(data.selected_index.tolist())


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_frame_or_a_flash_costs_no_more_than_itself(sequence: SequencePaths, value: int) -> None:
    frames = Sequence.load(sequence.sequence).frames
    index = frames[len(frames) // 2].index
    cv2.imwrite(str(sequence.image(index)), np.full((256, 320, 3), value, np.uint8))
    paths = reconstruct(sequence)
    assert len(read_training_data(sequence.root).frame_index) == len(frames) - 1
    assert [line.split()[0] for line in paths.unregistered.read_text().splitlines()] == [str(index)]


@pytest.mark.parametrize(
    ("value", "message"), [(0, "no frame shows any texture"), (None, "of 24 frames cannot be read")]
)
def test_frames_of_which_none_can_be_used_give_no_reconstruction(
    sequence: SequencePaths, value: int | None, message: str
) -> None:
    for frame in Sequence.load(sequence.sequence).frames:
        if value is None:
            sequence.image(frame.index).unlink()
        else:
            cv2.imwrite(str(sequence.image(frame.index)), np.full((256, 320, 3), value, np.uint8))
    with pytest.raises(NoReconstruction, match=message):
        reconstruct(sequence)
    unregistered = BootstrapPaths.of(sequence).unregistered
    if value is None:
        indices = [frame.index for frame in Sequence.load(sequence.sequence).frames]
        assert unregistered.read_text().splitlines() == [f"{index} its image cannot be read" for index in indices]
    else:
        assert not unregistered.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"pinhole": None}, "must be fx, fy, cx, cy"),
        ({"pinhole": [100.0, 160.0, 128.0]}, "must be fx, fy, cx, cy"),
        ({"pinhole": [0.0, 100.0, 160.0, 128.0]}, "must be fx, fy, cx, cy"),
    ],
)
def test_a_calibration_that_is_none_is_refused(sequence: SequencePaths, damage: dict[str, Any], message: str) -> None:
    facts = Sequence.load(sequence.sequence)
    replace(facts, calibration=replace(facts.calibration, **damage)).save(sequence.sequence)
    with pytest.raises(LumenError, match=message):
        reconstruct(sequence)


def test_a_frame_listed_twice_is_refused(sequence: SequencePaths) -> None:
    facts = Sequence.load(sequence.sequence)
    replace(facts, frames=[*facts.frames, facts.frames[3]]).save(sequence.sequence)
    with pytest.raises(LumenError, match="lists a frame twice"):
        reconstruct(sequence)


def test_a_failed_attempt_leaves_the_earlier_reconstruction(
    reconstructed: SequencePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = SequencePaths(tmp_path / "sequence")
    shutil.copytree(reconstructed.root, copy.root)
    before = TrainingPaths(copy.root).motion.read_bytes()
    missing = Sequence.load(copy.sequence).frames[7].index
    copy.image(missing).unlink()
    with pytest.raises(NoReconstruction, match="kept in .*colmap_failed"):
        reconstruct(copy, overwrite=True, max_depth_uncertainty=1e-5)
    assert TrainingPaths(copy.root).motion.read_bytes() == before
    failed = BootstrapPaths(BootstrapPaths.of(copy).failed)
    assert failed.report.exists() and failed.found_tracks.exists()
    assert f"{missing} its image cannot be read" in failed.unregistered.read_text().splitlines()


def test_frames_of_another_camera_never_lie_beside_an_earlier_model(
    extracted: Callable[[bool], SequencePaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = SequencePaths(tmp_path / "sequence")
    shutil.copytree(extracted(False).root, copy.root)
    reconstruct(copy, camera_model="SIMPLE_RADIAL")

    def full(*_: Any, **__: Any) -> Any:
        raise LumenError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(LumenError, match="^the disk is full$"):
        patched.setattr(bootstrap, "write_model", full)
        reconstruct(copy, camera_model="SIMPLE_RADIAL", overwrite=True, seed=1)
    assert not TrainingPaths(copy.root).motion.exists()
    reconstruct(copy, camera_model="SIMPLE_RADIAL", overwrite=True, seed=1)
    focal_px = Sequence.load(copy.sequence).calibration.pinhole
    np.testing.assert_allclose(read_training_data(copy.root).pinhole[0], focal_px)


@pytest.mark.parametrize("which", ["content", "frame"])
def test_a_mask_of_another_size_is_named(sequence: SequencePaths, which: str) -> None:
    frame = Sequence.load(sequence.sequence).frames[5].index
    path = sequence.mask if which == "content" else sequence.frame_mask(frame)
    cv2.imwrite(str(path), np.full((120, 160), 255, np.uint8))
    with pytest.raises(LumenError, match=f"{path.name} .*160x120 pixels, .*320x256"):
        reconstruct(sequence)


def test_what_is_no_failure_to_reconstruct_leaves_the_work_to_go_on_from(
    sequence: SequencePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise LumenError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(LumenError, match="^the disk is full$"):
        patched.setattr("sfm.map_stage.map_video", full)
        reconstruct(sequence)
    assert not BootstrapPaths.of(sequence).root.exists()
    monkeypatch.setattr(bootstrap, "follow_points", full)
    reconstruct(sequence)


def test_frames_without_masks_of_their_own_use_the_content_area(sequence: SequencePaths) -> None:
    shutil.rmtree(sequence.frame_masks)
    reconstruct(sequence)
    assert len(read_training_data(sequence.root).frame_index) >= 20


def test_a_black_mask_is_refused(sequence: SequencePaths) -> None:
    cv2.imwrite(str(sequence.mask), np.zeros_like(read_mask(sequence.mask)))
    with pytest.raises(LumenError, match="is black, so no pixel is usable"):
        reconstruct(sequence)


def test_without_overlap_there_is_no_reconstruction_and_what_was_found_is_kept(
    sequence: SequencePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for frame in Sequence.load(sequence.sequence).frames:
        noise = cv2.GaussianBlur(rng.uniform(0, 255, (256, 320, 3)), (0, 0), 3)
        noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
        cv2.imwrite(str(sequence.image(frame.index)), noise.astype(np.uint8))
    assert run_command(BootstrapConfig, bootstrap.run, [str(sequence.root)]) == 1
    paths = BootstrapPaths.of(sequence)
    message = capsys.readouterr().err
    assert "no reconstruction: neighbouring keyframes" in message and message.rstrip().endswith(paths.root.name)
    assert paths.found_tracks.exists() and paths.report.exists()
    assert "no reconstruction" in json.loads(paths.report.read_text())["warnings"][-1]
    assert not TrainingPaths(sequence.root).motion.exists()


def test_a_camera_that_does_not_move_gives_no_reconstruction_and_can_be_tried_again(sequence: SequencePaths) -> None:
    frames = Sequence.load(sequence.sequence).frames
    originals = {frame.index: sequence.image(frame.index).read_bytes() for frame in frames}
    for index in originals:
        sequence.image(index).write_bytes(originals[frames[0].index])
    with pytest.raises(LumenError, match="no reconstruction: .*the camera has to translate"):
        reconstruct(sequence)
    for index, content in originals.items():
        sequence.image(index).write_bytes(content)
    reconstruct(sequence)
    assert len(read_training_data(sequence.root).frame_index) >= 0.95 * len(frames)


def test_what_is_no_sequence_is_told_apart(
    tmp_path: Path, extracted: Callable[[bool], SequencePaths], sequence: SequencePaths
) -> None:
    with pytest.raises(LumenError, match="is not a folder"):
        reconstruct(SequencePaths(tmp_path / "missing"))
    with pytest.raises(LumenError, match=r"not a sequence \(no sequence.yaml\); extract one with data_prep/extract.py"):
        (tmp_path / "empty").mkdir()
        reconstruct(SequencePaths(tmp_path / "empty"))
    with pytest.raises(LumenError, match="choose one of its sequences, such as .*segment_00"):
        reconstruct(SequencePaths(extracted(True).root.parent))
    sequence.sequence.write_text("format_version: 1\n")
    with pytest.raises(LumenError, match="sequence.yaml"):
        reconstruct(sequence)


@pytest.mark.parametrize("part", ["images", "masks", "recorded", "colmap", "colmap/0"])
def test_a_part_of_a_sequence_names_the_whole(sequence: SequencePaths, part: str) -> None:
    folder = sequence.root / part
    folder.mkdir(parents=True, exist_ok=True)
    if part == "recorded":
        shutil.copy(sequence.sequence, folder)
    with pytest.raises(LumenError, match=f"is part of a sequence: give the sequence itself, {sequence.root}$"):
        reconstruct(SequencePaths(folder))


@pytest.mark.parametrize(("layout", "images"), [(1, "training"), (2, "training/images")])
def test_training_data_are_told_from_a_sequence(tmp_path: Path, layout: Literal[1, 2], images: str) -> None:
    motion = TrainingPaths(tmp_path / "training", layout).motion
    motion.parent.mkdir(parents=True)
    motion.touch()
    with pytest.raises(LumenError, match=f"already have poses: .*data_prep/extract.py {tmp_path / images}$"):
        reconstruct(SequencePaths(tmp_path / "training"))


def test_a_video_and_a_sequence_without_its_mask_say_what_to_do(sequence: SequencePaths, video: PhantomPaths) -> None:
    with pytest.raises(LumenError, match=f"extract a sequence with python data_prep/extract.py {video.video}$"):
        reconstruct(SequencePaths(video.video))
    sequence.mask.unlink()
    with pytest.raises(LumenError, match=r"undistorted_mask.bmp is missing: extract .* again, .*320x256 pixels, 255"):
        reconstruct(sequence)


def test_models_of_somebody_else_are_not_touched(sequence: SequencePaths) -> None:
    other = TrainingPaths(sequence.root).motion
    other.parent.mkdir(parents=True)
    other.write_text("poses of somebody else")
    with pytest.raises(LumenError, match="has no record of"):
        reconstruct(sequence, overwrite=True)
    assert other.read_text() == "poses of somebody else"
