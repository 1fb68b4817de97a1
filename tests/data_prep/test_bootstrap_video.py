"""Several sequences of one video get one camera, and one bad place does not cost the rest."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfm.mapping.self_calibration
from data_prep import bootstrap, bootstrap_video
from data_prep.bootstrap import BootstrapConfig
from data_prep.calibration.files import read_calibration
from data_prep.extract import ExtractConfig
from data_prep.extract import run as extract
from data_prep.phantom import PhantomConfig
from pipeline.command.config import configure
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.sequence import Sequence
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError, NoReconstruction
from pipeline.paths import RunPaths, SequencePaths, TrainingPaths
from sfm.evaluation.surface import SurfaceTruth
from sfm.evaluation.truth import evaluate
from turning_phantom import render_turning_phantom


@pytest.fixture(autouse=True)
def one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sfm.mapping.self_calibration._STARTS_DEG, "SIMPLE_RADIAL", (80.0,))


@pytest.fixture(scope="module")
def extracted_cut(cut_video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    output = tmp_path_factory.mktemp("cut_sequences") / "video"
    extract(configure(ExtractConfig, cut_video.video, output))
    return output


@pytest.fixture
def stretches(extracted_cut: Path, tmp_path: Path) -> list[SequencePaths]:
    """Own copies of the two uncalibrated sequences of a video."""
    shutil.copytree(extracted_cut, tmp_path / "video")
    found = RunPaths(tmp_path / "video").sequences()
    assert len(found) == 2
    return found


def settings(paths: SequencePaths, **others: Any) -> BootstrapConfig:
    given: dict[str, Any] = {"points": 400, "camera_model": "SIMPLE_RADIAL", **others}
    return configure(BootstrapConfig, paths.root, **given)


def camera_of(paths: SequencePaths) -> np.ndarray:
    facts = Sequence.load(paths.sequence)
    return read_calibration(paths.calibration, (facts.width, facts.height)).params


def frames_of(paths: SequencePaths) -> int:
    return len(Sequence.load(paths.sequence).frames)


def test_two_uncalibrated_sequences_of_a_video_get_one_camera(
    stretches: list[SequencePaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = bootstrap.follow_points
    followed: list[Path] = []

    def noted(*arguments: Any) -> Any:
        followed.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(bootstrap, "follow_points", noted)
    outcomes = bootstrap_video.bootstrap_video([settings(paths) for paths in stretches])
    assert list(outcomes) == [paths.root for paths in stretches]
    assert len(followed) == 2, "the points of each are followed once"
    first, second = stretches
    np.testing.assert_array_equal(camera_of(first), camera_of(second))
    pinholes = [Sequence.load(paths.sequence).calibration.pinhole for paths in stretches]
    assert pinholes[0] is not None
    np.testing.assert_allclose(pinholes[0], pinholes[1], rtol=1e-12)
    for paths in stretches:
        assert outcomes[paths.root] == [
            TrainingPaths(paths.root).model,
            TrainingPaths(paths.root).model.parent / "overview.png",
        ]
        assert len(read_training_data(paths.root).frame_index) >= 0.9 * frames_of(paths)


def test_a_sequence_that_fails_does_not_stop_the_others(stretches: list[SequencePaths]) -> None:
    longest = max(stretches, key=frames_of)
    other = next(paths for paths in stretches if paths is not longest)
    for frame in Sequence.load(longest.sequence).frames:
        longest.image(frame.index).unlink()
    missing = SequencePaths(longest.root.parent / "missing")
    outcomes = bootstrap_video.bootstrap_video([settings(paths) for paths in (longest, missing, other)])
    assert isinstance(outcomes[longest.root], NoReconstruction)
    assert isinstance(outcomes[missing.root], LumenError)
    assert TrainingPaths(other.root).motion.exists()


def test_a_model_that_is_there_is_kept_and_its_camera_is_taken(
    stretches: list[SequencePaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it is the model of the shorter sequence: a killed call resumes this way."""
    done, other = sorted(stretches, key=frames_of)
    bootstrap.run(settings(done))
    before = TrainingPaths(done.root).motion.stat()
    monkeypatch.setattr(bootstrap, "find_camera", lambda *_: pytest.fail("the camera is known"))
    monkeypatch.setattr(bootstrap_video, "find_camera", lambda *_: pytest.fail("the camera is known"))
    bootstrap_video.bootstrap_video([settings(paths) for paths in stretches])
    assert TrainingPaths(done.root).motion.stat() == before
    np.testing.assert_array_equal(camera_of(done), camera_of(other))


def test_a_given_calibration_is_used_as_it_is(
    stretches: list[SequencePaths],
    cut_video: PhantomPaths,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "find_camera", lambda *_: pytest.fail("the camera is known"))
    bootstrap.run(settings(stretches[0], calibration=cut_video.calibration))
    facts = Sequence.load(stretches[0].sequence)
    expected = read_calibration(cut_video.calibration, (facts.width, facts.height))
    np.testing.assert_allclose(camera_of(stretches[0]), expected.params)


def test_a_calibrated_sequence_takes_no_other_calibration(
    sequence: SequencePaths,  # noqa: F811
    video: PhantomPaths,  # noqa: F811
) -> None:
    with pytest.raises(LumenError, match="is calibrated already: leave out --calibration"):
        bootstrap.run(settings(sequence, calibration=video.calibration))


def test_another_calibration_does_not_go_on_with_what_a_killed_run_mapped(
    stretches: list[SequencePaths],
    cut_video: PhantomPaths,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders: list[Path] = []

    def stop(*arguments: Any, **_: Any) -> Any:
        folder = arguments[4]
        folders.append(folder)
        assert not folder.exists() or len(folders) == 2
        folder.mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("sfm.map_stage.map_video", stop)
    other = stretches[0].root / "other.txt"
    other.write_text("1 PINHOLE 320 256 150 150 160 128\n")
    for calibration in (cut_video.calibration, cut_video.calibration, other):
        with pytest.raises(KeyboardInterrupt):
            bootstrap.run(settings(stretches[0], calibration=calibration))
    assert len(folders) == 3


def test_turning_in_the_middle_of_an_uncalibrated_video_costs_no_moving_frame(tmp_path: Path) -> None:
    config = PhantomConfig(output=tmp_path / "phantom", frames=32, size=(320, 256), fps=15.0, depth=False, seed=2)
    phantom = render_turning_phantom(config, [16, 16], 12, turned_rad=0.45)
    extract(configure(ExtractConfig, phantom.video, tmp_path / "sequences"))
    (paths,) = RunPaths(tmp_path / "sequences").sequences()
    bootstrap.run(settings(paths))
    models = [
        read_training_data(TrainingPaths(paths.root, number=number).model)
        for number in range(len(list(TrainingPaths(paths.root).model.parent.glob("[0-9]"))))
    ]
    placed = {index for model in models for index in model.frame_index.tolist()}
    assert len(placed & {*range(16), *range(28, 44)}) >= 31
    assert evaluate(models[0], SurfaceTruth.load(phantom.root)).focal_share == pytest.approx(1, abs=0.1)
