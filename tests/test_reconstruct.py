"""A whole reconstruction of a phantom: what it writes, how true it is, going on after a kill, and wrong input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pycolmap
import pytest

from data_prep import phantom
from data_prep.extract import ExtractConfig
from data_prep.extract import run as extract
from data_prep.phantom import PhantomConfig
from descriptor.data_root import find_sequences
from pipeline.command import run_command
from pipeline.config import parse_command_line
from pipeline.errors import LumenError, NoReconstruction
from pipeline.paths import RunPaths, SequencePaths
from pipeline.phantom_files import PhantomPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.tracks import Tracks
from pipeline.training_files import read_training_data
from reconstruction import sequence_run as run_module
from reconstruction.config import ReconstructConfig
from reconstruction.run import reconstruct
from sfm import evaluate, view
from sfm.evaluate import EvaluateConfig
from sfm.surface_truth import SurfaceTruth
from sfm.truth_comparison import evaluate as figures_of
from sfm.view import ViewConfig

FAST: dict[str, Any] = {"correspondences": "flow", "points": 400, "references": 4}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    folder = tmp_path_factory.mktemp("phantom") / "colon"
    phantom.run(PhantomConfig(output=folder, frames=24, size=(320, 256), fps=15.0, seed=2))
    return PhantomPaths(folder)


@pytest.fixture(scope="module")
def whole(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> ReconstructionPaths:
    """A run from the video; not to be changed."""
    output = tmp_path_factory.mktemp("run") / "run"
    reconstruct(ReconstructConfig(video.video, output, calibration=video.calibration, **FAST))
    return ReconstructionPaths(output)


@pytest.fixture(scope="module")
def extracted(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> SequencePaths:
    output = tmp_path_factory.mktemp("sequences") / "video"
    extract(ExtractConfig(video.video, output, calibration=video.calibration))
    return RunPaths(output).sequences()[0]


@pytest.fixture
def sequence(extracted: SequencePaths, tmp_path: Path) -> SequencePaths:
    """An own copy of the sequence."""
    shutil.copytree(extracted.root, tmp_path / "sequence")
    return SequencePaths(tmp_path / "sequence")


def test_the_points_are_on_the_true_surface_and_the_path_is_true(
    whole: ReconstructionPaths, video: PhantomPaths
) -> None:
    figures = figures_of(read_training_data(whole.root), SurfaceTruth.load(video.root))
    assert figures.registered_share >= 0.95
    assert figures.ate_share < 0.02
    assert figures.surface_share < 0.04
    assert figures.completeness is not None and 0.01 < figures.completeness <= 1


def test_both_models_are_colmaps_and_the_dense_one_is_much_denser(whole: ReconstructionPaths) -> None:
    sparse, dense = pycolmap.Reconstruction(whole.sparse()), pycolmap.Reconstruction(whole.dense)
    assert sparse.num_reg_images() == dense.num_reg_images() >= 22
    assert dense.num_points3D() > 5 * sparse.num_points3D()
    assert {camera.model_name for camera in dense.cameras.values()} == {"PINHOLE"}
    assert dense.compute_mean_reprojection_error() < 1.0
    assert min(point.track.length() for point in dense.points3D.values()) >= 4


def test_no_two_points_share_a_cell_of_a_frame(whole: ReconstructionPaths) -> None:
    tracks = Tracks.load(whole.dense_tracks)
    cell_px = json.loads(whole.stage_report("flesh").read_text())["counts"]["cell_px"]
    cells = np.column_stack([tracks.frame, np.floor(tracks.pixels / cell_px).astype(int)])
    assert len(np.unique(cells, axis=0)) == len(cells)


def test_everything_that_others_take_over_is_there(whole: ReconstructionPaths) -> None:
    data = read_training_data(whole.root)
    cloud = whole.point_cloud.read_bytes()
    assert f"element vertex {len(data.points)}".encode() in cloud[:300]
    assert len(whole.trajectory.read_text().splitlines()) == len(data.frame_index) + 1
    frames = json.loads(whole.transforms.read_text())["frames"]
    assert len(frames) == len(data.frame_index)
    assert all((whole.root / frame["file_path"]).exists() for frame in frames)
    assert all((whole.root / frame["mask_path"]).exists() for frame in frames)
    assert find_sequences(whole.root) == [whole.root]


def test_the_overlay_has_a_picture_for_each_frame_with_points_on_it(whole: ReconstructionPaths) -> None:
    with av.open(str(whole.overlay)) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    tracks = Tracks.load(whole.dense_tracks)
    assert len(pictures) == len(tracks.frame_index)
    plain = cv2.imread(str(whole.sequence.image(int(tracks.frame_index[10]))))
    assert plain is not None and plain.shape == pictures[10].shape
    assert np.abs(pictures[10].astype(int) - plain).mean() > 2


def test_the_report_says_it_all_without_a_network(whole: ReconstructionPaths) -> None:
    page = whole.page.read_text()
    assert "frames with a pose" in page and "No warnings." in page
    for name in ("cloud", "frames", "lengths", "errors", "graph"):
        assert f'Plotly.newPlot("{name}"' in page
    for stage in ("correspond", "skeleton", "flesh", "export"):
        assert f"<td>{stage}</td>" in page
    assert 'src="http' not in page and "<link" not in page


def test_the_same_command_does_nothing_twice(
    whole: ReconstructionPaths, video: PhantomPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("done already")

    for name in ("correspond", "map_skeleton", "grow_flesh", "export", "report_on"):
        monkeypatch.setattr(run_module, name, again)
    outputs = reconstruct(ReconstructConfig(video.video, whole.root, calibration=video.calibration, **FAST))
    assert outputs[0] == whole.page and all(path.exists() for path in outputs)


@pytest.mark.parametrize(
    ("stage", "function"),
    [("correspond", "correspond"), ("skeleton", "map_skeleton"), ("flesh", "grow_flesh"), ("export", "export")],
)
def test_a_run_that_is_killed_after_a_stage_goes_on_to_the_same(
    stage: str,
    function: str,
    sequence: SequencePaths,
    whole: ReconstructionPaths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ReconstructConfig(sequence.root, tmp_path / "run", **FAST)
    real = getattr(run_module, function)

    def killed(*arguments: Any) -> Any:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_module, function, killed)
        reconstruct(config)
    reconstruct(config)
    again, once = (read_training_data(root) for root in (tmp_path / "run", whole.root))
    np.testing.assert_allclose(again.cam_from_world, once.cam_from_world, rtol=1e-5, atol=1e-7)
    assert abs(len(again.points) - len(once.points)) <= 0.001 * len(once.points)


def test_it_stops_where_it_is_told_to_and_goes_on(sequence: SequencePaths, tmp_path: Path) -> None:
    output = tmp_path / "run"
    paths = ReconstructionPaths(output)
    assert reconstruct(ReconstructConfig(sequence.root, output, until="correspond", **FAST))[0] == paths.tracks
    assert not paths.sparse().exists()
    assert reconstruct(ReconstructConfig(sequence.root, output, until="skeleton", **FAST))[0] == paths.sparse()
    assert paths.sparse().exists() and not paths.dense.exists()


def test_changed_settings_redo_what_depends_on_them_alone(sequence: SequencePaths, tmp_path: Path) -> None:
    paths = ReconstructionPaths(tmp_path / "run")
    reconstruct(ReconstructConfig(sequence.root, paths.root, until="flesh", **FAST))
    tracks_made, points = paths.tracks.stat().st_mtime_ns, len(read_training_data(paths.root).points)
    reconstruct(ReconstructConfig(sequence.root, paths.root, until="flesh", **(FAST | {"references": 1})))
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
    config = ReconstructConfig(
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


@pytest.fixture(scope="module")
def cut_video(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    """Two places, one after the other."""
    folder = tmp_path_factory.mktemp("cut") / "phantom"
    phantom.run(PhantomConfig(output=folder, frames=40, size=(320, 256), fps=15.0, seed=2, cuts=1, depth=False))
    return PhantomPaths(folder)


def test_each_stretch_between_cuts_is_a_reconstruction_of_its_own(cut_video: PhantomPaths, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**FAST, "calibration": cut_video.calibration, "until": "skeleton"}
    reconstruct(ReconstructConfig(cut_video.video, tmp_path / "run", **settings))
    runs = sorted(each for each in (tmp_path / "run").glob("_start_*"))
    assert len(runs) == 2
    assert all(ReconstructionPaths(each).sparse().exists() for each in runs)


def test_a_place_that_the_model_does_not_reach_is_told(cut_video: PhantomPaths, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**FAST, "calibration": cut_video.calibration, "until": "skeleton"}
    paths = ReconstructionPaths(tmp_path / "run")
    reconstruct(ReconstructConfig(cut_video.video, paths.root, split_at_cuts=False, **settings))
    registered = pycolmap.Reconstruction(paths.sparse()).num_reg_images()
    missing = paths.unregistered.read_text().splitlines()
    assert registered >= 18 and len(missing) == 40 - registered
    report = json.loads(paths.stage_report("skeleton").read_text())
    assert any(f"{len(missing)} of 40 frames have no pose" in warning for warning in report["warnings"])
    assert report["counts"]["models"][0] == registered


def test_a_run_of_an_older_format_is_refused(sequence: SequencePaths, tmp_path: Path) -> None:
    paths = ReconstructionPaths(tmp_path / "run")
    paths.root.mkdir()
    paths.manifest.write_text('{"format_version": 0, "stages": {}}')
    with pytest.raises(LumenError, match="format"):
        reconstruct(ReconstructConfig(sequence.root, paths.root, **FAST))


def test_frames_that_cannot_be_read_or_show_nothing_are_told_and_the_rest_is_reconstructed(
    sequence: SequencePaths, tmp_path: Path
) -> None:
    images = sorted(sequence.images.glob("*.jpg"))
    images[5].write_bytes(images[5].read_bytes()[:2000])
    for dark in images[10:13]:
        cv2.imwrite(str(dark), np.zeros((256, 320, 3), np.uint8))
    paths = ReconstructionPaths(tmp_path / "run")
    reconstruct(ReconstructConfig(sequence.root, paths.root, **FAST))
    missing = paths.unregistered.read_text().splitlines()
    assert f"{int(images[5].stem)} its image cannot be read" in missing
    assert {int(line.split()[0]) for line in missing} >= {int(image.stem) for image in images[10:13]}
    assert len(read_training_data(paths.root).frame_index) == len(images) - len(missing) >= 18


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"correspondences": "both", "train_minutes": 0}, "there is no descriptor: give --weights"),
        ({"references": 0}, "--references 0: choose 1 or more"),
        ({"coverage": 1.5}, "--coverage 1.5"),
        ({"inlier_percentage": 99}, "--inlier_percentage 99"),
        ({"pairs": "ddl"}, "--pairs ddl is for --correspondences descriptor"),
        ({"correspondences": "descriptor", "sigma": 0.0}, "--sigma 0"),
        ({"correspondences": "flow", "rounds": 2}, "--rounds is for a descriptor that is trained"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match=message):
        ReconstructConfig(tmp_path, **settings)


def test_a_preset_is_taken_and_flags_override_it(tmp_path: Path) -> None:
    config = parse_command_line(ReconstructConfig, ["clip.mp4", "--preset", "fast", "--references", "3"], "test")
    assert (config.correspondences, config.references) == ("flow", 3)
    with pytest.raises(LumenError, match="--preset fats: there is none of that name; did you mean 'fast'"):
        parse_command_line(ReconstructConfig, ["clip.mp4", "--preset", "fats"], "test")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"no")])
def test_what_is_no_video_is_said(make: Callable[[Path], Any], tmp_path: Path) -> None:
    given = tmp_path / "input.mp4"
    make(given)
    with pytest.raises(LumenError, match="input.mp4"):
        reconstruct(ReconstructConfig(given, tmp_path / "run", **FAST))
    assert not (tmp_path / "run").exists(), "nothing is left of it"


def test_weights_of_nothing_known_are_refused_before_the_work(sequence: SequencePaths, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no weights")
    settings = FAST | {"correspondences": "both", "train_minutes": 0.0}
    with pytest.raises(LumenError, match=r"weights\.pt"):
        reconstruct(ReconstructConfig(sequence.root, tmp_path / "run", weights=weights, **settings))


def test_frames_without_texture_are_no_reconstruction(sequence: SequencePaths, tmp_path: Path) -> None:
    for image in sequence.images.glob("*.jpg"):
        cv2.imwrite(str(image), np.zeros((256, 320, 3), np.uint8))
    with pytest.raises(NoReconstruction, match="texture"):
        reconstruct(ReconstructConfig(sequence.root, tmp_path / "run", **FAST))


def test_another_input_does_not_replace_a_run_unasked(
    sequence: SequencePaths, cut_video: PhantomPaths, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    reconstruct(ReconstructConfig(sequence.root, output, until="correspond", **FAST))
    settings: dict[str, Any] = {**FAST, "calibration": cut_video.calibration, "until": "extract"}
    with pytest.raises(LumenError, match="holds the reconstruction of another input: choose another --output"):
        reconstruct(ReconstructConfig(cut_video.video, output, **settings))
    assert ReconstructionPaths(output).tracks.exists()
    reconstruct(ReconstructConfig(cut_video.video, output, overwrite=True, **settings))
    assert not ReconstructionPaths(output).tracks.exists()


def test_a_wrong_calibration_costs_nothing_that_is_there(
    whole: ReconstructionPaths, video: PhantomPaths, tmp_path: Path
) -> None:
    before = whole.extraction_manifest.read_bytes()
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no calibration")
    with pytest.raises(LumenError, match=r"notes\.txt"):
        reconstruct(ReconstructConfig(video.video, whole.root, calibration=wrong, **FAST))
    assert whole.extraction_manifest.read_bytes() == before


def test_settings_of_the_extraction_are_refused_for_what_is_extracted(sequence: SequencePaths, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="--stride is for videos and images"):
        reconstruct(ReconstructConfig(sequence.root, tmp_path / "run", stride=2, **FAST))


def test_images_may_not_hold_the_output(sequence: SequencePaths) -> None:
    with pytest.raises(LumenError, match="is inside the images' folder"):
        reconstruct(ReconstructConfig(sequence.images, sequence.images / "run", **FAST))


def test_a_training_that_is_stopped_is_not_taken_for_done(
    sequence: SequencePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def stopped(config: Any, *, to_the_end: bool) -> None:
        asked.append(to_the_end)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "train", stopped)
    monkeypatch.setattr(run_module.bootstrap, "run", lambda config: [])
    settings: dict[str, Any] = FAST | {"correspondences": "both", "cache_root": tmp_path / "cache"}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reconstruct(ReconstructConfig(sequence.root, tmp_path / "run", **settings))
    assert asked == [True, True]


def test_no_path_is_kept_in_the_run(whole: ReconstructionPaths, video: PhantomPaths) -> None:
    for text in (whole.config, whole.manifest, whole.input, whole.extraction_manifest):
        assert str(video.root) not in text.read_text()


def test_the_output_may_not_be_the_input(sequence: SequencePaths) -> None:
    with pytest.raises(LumenError, match="is the input: choose another --output"):
        reconstruct(ReconstructConfig(sequence.root, sequence.root, **FAST))


def test_evaluation_prints_figures_against_truth_and_against_another(
    whole: ReconstructionPaths, video: PhantomPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.run(EvaluateConfig(whole.root, truth=video.root))
    printed = capsys.readouterr().out
    for name in ("ATE", "RPE", "points to the surface", "completeness"):
        assert name in printed
    evaluate.run(EvaluateConfig(whole.sparse(), against=whole.root))
    printed = capsys.readouterr().out
    assert "frames in common         24" in printed and "position RMSE            0.000%" in printed


def test_evaluation_says_what_is_missing(whole: ReconstructionPaths, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="--truth PHANTOM, or --against"):
        EvaluateConfig(whole.root)
    with pytest.raises(LumenError, match="is no folder of a phantom"):
        evaluate.run(EvaluateConfig(whole.root, truth=tmp_path))
    with pytest.raises(LumenError, match="holds no COLMAP model"):
        evaluate.run(EvaluateConfig(tmp_path, truth=tmp_path))


def test_without_a_display_the_viewer_says_what_to_do(
    whole: ReconstructionPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LumenError, match="no display to show it on: write a picture with --render"):
        view.run(ViewConfig(whole.root))


def test_the_cloud_is_drawn_without_a_display(whole: ReconstructionPaths, tmp_path: Path) -> None:
    assert run_command(ViewConfig, view.run, [str(whole.root), "--render", str(tmp_path / "cloud.png")]) == 0
    picture = cv2.imread(str(tmp_path / "cloud.png"))
    assert picture is not None and picture.shape == (1000, 1600, 3)
    # Each of the four sides shows something.
    for rows in (slice(0, 500), slice(500, 1000)):
        for columns in (slice(0, 800), slice(800, 1600)):
            assert picture[rows, columns].std() > 5
