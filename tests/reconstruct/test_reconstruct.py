"""Reconstruction of a phantom: outputs, accuracy, resuming after a kill, and invalid inputs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pycolmap
import pytest

import reconstruct as recipe
from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from descriptor.clips.data_root import find_sequences
from descriptor.flow.flow_finder import FlowFinder
from descriptor.registry import load_descriptor
from descriptor.training import train_stage
from pipeline.command.config import configure
from pipeline.command.run_command import run_command
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError
from pipeline.paths import BootstrapPaths, SequencePaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from quick_settings import FAST
from reconstruct import ReconstructConfig, reconstruct
from sfm import evaluate, view
from sfm.evaluate import EvaluateConfig
from sfm.evaluation.surface import SurfaceTruth
from sfm.evaluation.truth import evaluate as figures_of
from sfm.view import ViewConfig

# The fixtures video, extracted, sequence and cut_video.


@pytest.fixture(scope="module")
def whole(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> ReconstructionPaths:
    """A complete run on the video. Tests must not change it."""
    output = tmp_path_factory.mktemp("run") / "run"
    reconstruct(configure(ReconstructConfig, video.video, output, calibration=video.calibration, **FAST))
    return ReconstructionPaths(output)


def test_points_and_trajectory_are_close_to_ground_truth(whole: ReconstructionPaths, video: PhantomPaths) -> None:
    figures = figures_of(read_training_data(whole.root), SurfaceTruth.load(video.root))
    assert figures.registered_share >= 0.95
    assert figures.ate_share < 0.02
    assert figures.surface_share < 0.04
    assert figures.completeness is not None and 0.01 < figures.completeness <= 1


def test_both_models_are_colmap_models_and_the_dense_one_has_many_more_points(whole: ReconstructionPaths) -> None:
    sparse, dense = pycolmap.Reconstruction(whole.sparse), pycolmap.Reconstruction(whole.dense)
    assert sparse.num_reg_images() == dense.num_reg_images() >= 22
    assert dense.num_points3D() > 5 * sparse.num_points3D()
    assert {camera.model_name for camera in dense.cameras.values()} == {"PINHOLE"}
    assert dense.compute_mean_reprojection_error() < 1.0
    assert min(point.track.length() for point in dense.points3D.values()) >= 4


def test_no_two_points_share_a_cell_of_a_frame(whole: ReconstructionPaths) -> None:
    tracks = Tracks.load(whole.dense_tracks)
    cell_px = json.loads(whole.stage_report("densify").read_text())["counts"]["cell_px"]
    cells = np.column_stack([tracks.frame, np.floor(tracks.pixels / cell_px).astype(int)])
    assert len(np.unique(cells, axis=0)) == len(cells)


def test_all_exports_are_complete(whole: ReconstructionPaths) -> None:
    data = read_training_data(whole.root)
    cloud = whole.point_cloud.read_bytes()
    assert f"element vertex {len(data.points)}".encode() in cloud[:300]
    assert len(whole.trajectory.read_text().splitlines()) == len(data.frame_index) + 1
    frames = json.loads(whole.transforms.read_text())["frames"]
    assert len(frames) == len(data.frame_index)
    assert all((whole.root / frame["file_path"]).exists() for frame in frames)
    assert all((whole.root / frame["mask_path"]).exists() for frame in frames)
    assert find_sequences(whole.root) == [whole.root]


def test_the_overlay_shows_points_on_every_frame(whole: ReconstructionPaths) -> None:
    with av.open(str(whole.overlay)) as container:
        images = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    tracks = Tracks.load(whole.dense_tracks)
    assert len(images) == len(tracks.frame_index)
    plain = cv2.imread(str(whole.sequence.image(int(tracks.frame_index[10]))))
    assert plain is not None and plain.shape == images[10].shape
    assert np.abs(images[10].astype(int) - plain).mean() > 2


def test_the_report_is_complete_and_loads_nothing_from_the_network(whole: ReconstructionPaths) -> None:
    page = whole.page.read_text()
    assert "frames in this model" in page and "frames without a pose" in page and "No warnings." in page
    for name in ("cloud", "frames", "lengths", "errors", "graph"):
        assert f'Plotly.newPlot("{name}"' in page
    for stage in ("match", "map", "densify", "export"):
        assert f"<td>{stage}</td>" in page
    assert 'src="http' not in page and "<link" not in page


def test_the_same_command_skips_finished_stages(
    whole: ReconstructionPaths, video: PhantomPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("done already")

    for name in ("match_stage", "map_stage", "densify_stage", "export_stage", "report_stage"):
        monkeypatch.setattr(recipe, name, again)
    outputs = reconstruct(configure(ReconstructConfig, video.video, whole.root, calibration=video.calibration, **FAST))
    assert outputs[0] == whole.page and all(path.exists() for path in outputs)


@pytest.mark.parametrize(
    ("stage", "function"),
    [("match", "match_stage"), ("map", "map_stage"), ("densify", "densify_stage"), ("export", "export_stage")],
)
def test_a_run_killed_after_a_stage_resumes_with_the_same_result(
    stage: str,
    function: str,
    sequence: SequencePaths,
    whole: ReconstructionPaths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(ReconstructConfig, sequence.root, tmp_path / "run", **FAST)
    real = getattr(recipe, function)

    def killed(*arguments: Any) -> Any:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(recipe, function, killed)
        reconstruct(config)
    reconstruct(config)
    again, once = (read_training_data(root) for root in (tmp_path / "run", whole.root))
    np.testing.assert_allclose(again.cam_from_world, once.cam_from_world, rtol=1e-5, atol=1e-7)
    assert abs(len(again.points) - len(once.points)) <= 0.001 * len(once.points)


def test_tracks_of_the_first_sfm_are_reused_while_the_frames_are_unchanged(
    sequence: SequencePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def match(output: str) -> Tracks:
        config = configure(ReconstructConfig, sequence.root, tmp_path / output, until="match", **FAST)
        return Tracks.load(reconstruct(config)[0])

    first = match("first")
    bootstrap.run(configure(BootstrapConfig, sequence.root, points=FAST["points"]))
    with monkeypatch.context() as patched:
        patched.setattr(FlowFinder, "__call__", None)
        patched.setattr("descriptor.matching.match_stage.choose_keyframes", None)
        known = match("known")
    for name in ("frame_index", "frame", "track", "pixels"):
        np.testing.assert_array_equal(getattr(known, name), getattr(first, name))
    assert bootstrap.followed_before(sequence.root, FAST["points"] + 1) is None
    paths = BootstrapPaths.of(sequence)
    for path in (paths.keyframes, paths.tracks, paths.config):
        kept = path.read_bytes()
        path.write_bytes(b"{}" if path == paths.keyframes else kept[: len(kept) // 2])
        assert bootstrap.followed_before(sequence.root, FAST["points"]) is None, f"a damaged {path.name}"
        path.write_bytes(kept)
    assert bootstrap.followed_before(sequence.root, FAST["points"]) is not None
    image = next(iter(sorted(sequence.images.iterdir())))
    image.write_bytes(image.read_bytes() + b" ")
    assert bootstrap.followed_before(sequence.root, FAST["points"]) is None


def test_until_stops_after_a_stage_and_the_next_run_resumes(sequence: SequencePaths, tmp_path: Path) -> None:
    output = tmp_path / "run"
    paths = ReconstructionPaths(output)
    assert reconstruct(configure(ReconstructConfig, sequence.root, output, until="match", **FAST))[0] == paths.tracks
    assert not paths.sparse.exists()
    assert reconstruct(configure(ReconstructConfig, sequence.root, output, until="map", **FAST))[0] == paths.sparse
    assert paths.sparse.exists() and not paths.dense.exists()


def test_changed_settings_redo_only_the_stages_that_depend_on_them(sequence: SequencePaths, tmp_path: Path) -> None:
    paths = ReconstructionPaths(tmp_path / "run")
    reconstruct(configure(ReconstructConfig, sequence.root, paths.root, until="densify", **FAST))
    tracks_made, points = paths.tracks.stat().st_mtime_ns, len(read_training_data(paths.root).points)
    reconstruct(configure(ReconstructConfig, sequence.root, paths.root, until="densify", **(FAST | {"references": 1})))
    assert paths.tracks.stat().st_mtime_ns == tracks_made
    assert len(read_training_data(paths.root).points) < points


def test_a_descriptor_is_trained_on_the_video_and_used(
    sequence: SequencePaths, tmp_path: Path, video: PhantomPaths
) -> None:
    settings = tmp_path / "quick.yaml"
    settings.write_text(
        "network_pixels: 4096\nnetwork_downsampling: 32\nbatch_size: 2\ncontrast_radius: 6.0\n"
        "feature_length: 32\nfilter_growth_rate: 4\nnum_iter: 5\nadjacent_range: [1, 20]\nnum_workers: 1\n"
    )
    config = configure(
        ReconstructConfig,
        sequence.root,
        tmp_path / "run",
        **(FAST | {"correspondences": "both", "train_minutes": 0.1, "references": 2}),
        train_config=settings,
        cache_root=tmp_path / "cache",
        device="cpu",
    )
    reconstruct(config)
    figures = figures_of(read_training_data(tmp_path / "run"), SurfaceTruth.load(video.root))
    assert figures.registered_share >= 0.95 and figures.surface_share < 0.04
    assert "<td>train</td>" in ReconstructionPaths(tmp_path / "run").page.read_text()


def test_gift_is_trained_on_the_video_without_poses_and_used(
    sequence: SequencePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preset(stage: int) -> Path:
        path = tmp_path / f"gift{stage}.yaml"
        if not path.exists():
            small = "image_size: [64, 80]\nbatch_size: 1\npoints_per_pair: 32\nnum_workers: 1\nmax_minutes: 1\n"
            path.write_text(f"method: gift\nstage: {stage}\n{small}")
        return path

    monkeypatch.setattr(train_stage, "_gift_preset", preset)
    settings = FAST | {"correspondences": "both", "descriptor": "gift", "train_minutes": 0.1, "until": "match"}
    config = configure(ReconstructConfig, sequence.root, tmp_path / "run", device="cpu", **settings)
    (tracks,) = [path for path in reconstruct(config) if path == ReconstructionPaths(config.output).tracks]  # type: ignore[arg-type]
    assert Tracks.load(tracks).track_count > 100
    assert not TrainingPaths(sequence.root).motion.exists()
    trained = tmp_path / "run" / "training" / "stage2" / "last.pt"
    made = trained.stat().st_mtime_ns
    # The same command has nothing to do, another preset has.
    reconstruct(config)
    assert trained.stat().st_mtime_ns == made
    preset(2).write_text(preset(2).read_text() + "margin: 0.4\n")
    reconstruct(replace(config, until="train"))
    assert load_descriptor(trained).name == "gift" and trained.stat().st_mtime_ns > made


def test_an_invalid_calibration_does_not_change_existing_outputs(
    whole: ReconstructionPaths, video: PhantomPaths, tmp_path: Path
) -> None:
    before = whole.extraction_manifest.read_bytes()
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no calibration")
    with pytest.raises(LumenError, match=r"notes\.txt"):
        reconstruct(configure(ReconstructConfig, video.video, whole.root, calibration=wrong, **FAST))
    assert whole.extraction_manifest.read_bytes() == before


def test_a_stopped_training_is_not_treated_as_finished(
    sequence: SequencePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []

    def stopped(config: Any) -> None:
        trained.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_stage, "train", stopped)
    monkeypatch.setattr("data_prep.bootstrap.run", lambda *_: [])
    settings: dict[str, Any] = FAST | {"correspondences": "both", "cache_root": tmp_path / "cache"}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reconstruct(configure(ReconstructConfig, sequence.root, tmp_path / "run", **settings))
    assert len(trained) == 2


def test_the_run_records_no_paths(whole: ReconstructionPaths, video: PhantomPaths) -> None:
    for text in (whole.config, whole.manifest, whole.input, whole.extraction_manifest):
        assert str(video.root) not in text.read_text()


def test_evaluation_prints_errors_against_ground_truth_and_another_reconstruction(
    whole: ReconstructionPaths, video: PhantomPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.run(EvaluateConfig(whole.root, truth=video.root))
    printed = capsys.readouterr().out
    for name in ("ATE", "RPE", "distance to surface", "completeness"):
        assert name in printed
    evaluate.run(EvaluateConfig(whole.sparse, against=whole.root))
    printed = capsys.readouterr().out
    assert "frames in common         24" in printed and "position RMSE            0.000%" in printed


def test_evaluation_reports_missing_inputs(whole: ReconstructionPaths, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="--truth PHANTOM or --against"):
        EvaluateConfig(whole.root)
    with pytest.raises(LumenError, match="is not a phantom folder"):
        evaluate.run(EvaluateConfig(whole.root, truth=tmp_path))
    with pytest.raises(LumenError, match="holds no COLMAP model"):
        evaluate.run(EvaluateConfig(tmp_path, truth=tmp_path))


def test_without_a_display_the_viewer_suggests_render(
    whole: ReconstructionPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LumenError, match="there is no display: render an image with --render"):
        view.run(ViewConfig(whole.root))


def test_the_point_cloud_is_rendered_without_a_display(whole: ReconstructionPaths, tmp_path: Path) -> None:
    assert run_command(ViewConfig, view.run, [str(whole.root), "--render", str(tmp_path / "cloud.png")]) == 0
    image = cv2.imread(str(tmp_path / "cloud.png"))
    assert image is not None and image.shape == (1000, 1600, 3)
    # Each of the four sides shows something.
    for rows in (slice(0, 500), slice(500, 1000)):
        for columns in (slice(0, 800), slice(800, 1600)):
            assert image[rows, columns].std() > 5
