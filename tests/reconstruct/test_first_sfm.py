"""The first SfM: redone with new settings if the run created it, kept with a warning if the user did."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reconstruct as recipe
from data_prep import bootstrap, phantom
from data_prep.bootstrap import BootstrapConfig
from data_prep.calibration.files import read_calibration
from data_prep.extract import ExtractConfig
from data_prep.extract import run as extract
from data_prep.first_sfm import make_first_sfms
from data_prep.phantom import PhantomConfig
from pipeline.command.config import configure
from pipeline.data.phantom_files import PhantomPaths
from pipeline.errors import NoReconstruction, PartialSuccess
from pipeline.paths import BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from quick_settings import FAST
from reconstruct import ReconstructConfig, reconstruct


@pytest.fixture
def made(sequence: SequencePaths) -> SequencePaths:
    bootstrap.run(configure(BootstrapConfig, sequence.root, points=300))
    return sequence


def first_sfms(settings: ReconstructConfig, sequence: SequencePaths, *, are_own: bool = True) -> Any:
    wanted = [recipe._first_sfm_config(settings, sequence)]
    return make_first_sfms(wanted, are_own=are_own, needs_model=settings.descriptor.trains_on_model)


def config(sequence: SequencePaths, output: Path, **settings: Any) -> ReconstructConfig:
    return configure(ReconstructConfig, sequence.root, output, **(FAST | {"points": 300} | settings))


@pytest.mark.parametrize(
    "settings", [{"points": 350}, {"min_views": 5}, {"seed": 1}, {"max_error_px": 1.0}, {"inlier_percentage": 0.9}]
)
def test_new_settings_redo_the_first_sfm_of_this_run(
    made: SequencePaths, settings: dict[str, Any], tmp_path: Path
) -> None:
    assert first_sfms(config(made, tmp_path), made) == {made.root: []}
    before = BootstrapPaths.of(made).manifest.stat().st_mtime_ns
    assert first_sfms(config(made, tmp_path), made) == {made.root: []}
    assert BootstrapPaths.of(made).manifest.stat().st_mtime_ns == before, "the same settings change nothing"
    first_sfms(config(made, tmp_path, **settings), made)
    assert BootstrapPaths.of(made).manifest.stat().st_mtime_ns > before
    wanted = configure(BootstrapConfig, made.root, **({"points": 300} | settings))
    assert bootstrap.reason_to_run(wanted) is None


def test_the_first_sfm_of_the_user_is_kept_and_its_settings_are_reported(made: SequencePaths, tmp_path: Path) -> None:
    before = TrainingPaths(made.root).motion.read_bytes()
    output = ReconstructionPaths(tmp_path / "run")
    reconstruct(config(made, output.root, points=350, min_views=5))
    assert TrainingPaths(made.root).motion.read_bytes() == before
    (warning,) = re.findall(r'<div class="warning">([^<]*first SfM[^<]*)<', output.page.read_text())
    assert "--points 300 (now 350)" in warning and "--min_views 4 (now 5)" in warning and "is kept" in warning


@pytest.mark.parametrize("name", ["intrinsics", "views_per_point", "structure", "motion"])
def test_a_change_in_any_file_of_the_first_sfm_redoes_the_mapping(
    made: SequencePaths, name: str, tmp_path: Path
) -> None:
    output = ReconstructionPaths(tmp_path / "run")
    reconstruct(config(made, output.root, until="map"))
    before = output.sparse.stat().st_mtime_ns
    reconstruct(config(made, output.root, until="map"))
    assert output.sparse.stat().st_mtime_ns == before
    path = getattr(TrainingPaths(made.root), name)
    # Blanks at the end change what is read of none of them.
    path.write_bytes(path.read_bytes() + b"\n")
    reconstruct(config(made, output.root, until="map"))
    assert output.sparse.stat().st_mtime_ns > before


@pytest.mark.parametrize("library", ["opencv", "pycolmap", "torch", "lumensfm"])
def test_another_version_redoes_every_stage(
    sequence: SequencePaths, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ReconstructionPaths(tmp_path / "run")
    reconstruct(config(sequence, output.root, until="match"))
    before = output.tracks.stat().st_mtime_ns
    monkeypatch.setattr("pipeline.manifest.versions", lambda: {"opencv": "5", library: "another"})
    reconstruct(config(sequence, output.root, until="match"))
    assert output.tracks.stat().st_mtime_ns > before


def test_uncalibrated_sequences_of_one_video_get_one_camera(tmp_path: Path) -> None:
    folder = tmp_path / "phantom"
    phantom.run(PhantomConfig(output=folder, frames=64, size=(320, 256), fps=15.0, seed=2, cuts=1, depth=False))
    output = ReconstructionPaths(tmp_path / "run")
    settings = FAST | {"until": "map"}
    reconstruct(configure(ReconstructConfig, PhantomPaths(folder).video, output.root, **settings))
    first, second = (read_calibration(each.calibration, (320, 256)) for each in RunPaths(output.extracted).sequences())
    assert first.model_name == second.model_name
    np.testing.assert_allclose(first.params, second.params, rtol=1e-9)


def test_the_same_command_continues_on_a_sequence_that_it_has_calibrated(video: PhantomPaths, tmp_path: Path) -> None:
    extract(configure(ExtractConfig, video.video, tmp_path / "sequences"))
    (sequence,) = RunPaths(tmp_path / "sequences").sequences()
    for _ in range(2):
        reconstruct(config(sequence, tmp_path / "run", until="match"))
    assert TrainingPaths(sequence.root).motion.exists()


def test_a_later_round_that_fails_is_a_partial_success(
    sequence: SequencePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: ReconstructConfig) -> list[Path]:
        raise NoReconstruction("no reconstruction: nothing agrees")

    monkeypatch.setattr(recipe, "make_first_sfms", lambda *_, **__: {sequence.root: []})
    monkeypatch.setattr(recipe, "reconstruct_sequence", lambda *given: [ReconstructionPaths(given[2]).page])
    monkeypatch.setattr(recipe, "reconstruct", fails)
    settings = {"correspondences": "both", "rounds": 2, "cache_root": tmp_path / "cache"}
    with pytest.raises(PartialSuccess) as caught:
        reconstruct(config(sequence, tmp_path / "run", **settings))
    output = ReconstructionPaths(tmp_path / "run")
    assert caught.value.outputs == [output.page, output.index]
    assert "the next round: no reconstruction: nothing agrees" in output.index.read_text()
