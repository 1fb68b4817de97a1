"""Training data from a phantom, through the command line, against its ground truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest

from data_prep import phantom
from data_prep.convert import ConvertConfig, run
from data_prep.phantom import PhantomConfig
from data_prep.simulation.endoscope import directions_from_img, pixel_centres
from data_prep.simulation.truth import PhantomTruth
from data_prep.video.frame_source import open_source
from descriptor.clips.data_root import DataSettings, load_clips
from descriptor.clips.depth_correspondence import DepthCorrespondence
from pipeline.color_consistency import color_inconsistency
from pipeline.data.depth_files import read_depth, read_depth_scale
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.training_data import TrainingData, inside_mask, project
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError
from pipeline.paths import ConversionPaths, SequencePaths, TrainingPaths
from sfm.colmap.model import read_model

SIZE = (256, 208)
PHANTOMS: dict[str, dict[str, Any]] = {
    "pinhole": {"anatomy": "colon", "content_area": "octagonal", "seed": 3, "overlay_text": True},
    "fisheye": {"anatomy": "sinus", "fisheye": True, "seed": 4},
}


@dataclass(frozen=True)
class Case:
    """A phantom and its training data."""

    truth: PhantomTruth
    paths: PhantomPaths
    root: Path
    data: TrainingData

    @property
    def pinhole(self) -> pycolmap.Camera:
        return pycolmap.Camera(model="PINHOLE", width=SIZE[0], height=SIZE[1], params=self.data.pinhole[0])

    def depth(self, row: int) -> np.ndarray:
        """(H, W) float64, mm."""
        paths = TrainingPaths(self.root)
        steps = read_depth(paths.depth(int(self.data.frame_index[row])), SIZE)
        return steps * read_depth_scale(paths.depth_scale)


def render(output: Path, **settings: Any) -> Path:
    phantom.run(PhantomConfig(output, **{"frames": 10, "fps": 15.0, "size": SIZE, "depth": False, **settings}))
    return output


def convert(source: Path, output: Path, to: Any = "training", **settings: Any) -> Path:
    run(ConvertConfig(source, to, output, **settings))
    return output


@pytest.fixture(scope="module", params=PHANTOMS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("phantom")
    source = render(folder / "phantom", black_s=0.12, duplicates=2, **PHANTOMS[request.param])
    root = convert(source, folder / "root" / "7" / "sequence")
    return Case(PhantomTruth.load(source), PhantomPaths(source), root, read_training_data(root))


def test_black_frames_and_duplicates_are_left_out(case: Case) -> None:
    expected = [frame.index for frame in case.truth.frames if not frame.is_black and not frame.is_duplicate]
    assert len(expected) == 6
    assert case.data.frame_index.tolist() == case.data.selected_index.tolist() == expected
    paths = SequencePaths(case.root)
    assert sorted(path.name for path in paths.images.iterdir()) == [paths.image(index).name for index in expected]


def test_poses_match_the_phantom_and_their_direction_is_detected(case: Case) -> None:
    assert case.data.direction == "cam_from_world"
    np.testing.assert_allclose(case.data.cam_from_world, case.truth.cam_from_world[case.data.frame_index], atol=1e-9)


def test_images_are_undistorted_video_frames_and_black_outside(case: Case) -> None:
    rays = directions_from_img(case.pinhole, pixel_centres(*SIZE))
    source = np.asarray(case.truth.camera.img_from_cam(rays)).reshape(SIZE[1], SIZE[0], 2).astype(np.float32) - 0.5
    inner = cv2.erode(case.data.mask, np.ones((5, 5), np.uint8)) > 0
    assert inner.mean() > 0.4
    frames = {frame.index: frame.image for frame in open_source(case.paths.video, 1.0).frames()}
    for index, path in zip(case.data.frame_index, case.data.image_paths, strict=True):
        expected = cv2.remap(frames[int(index)], source[..., 0], source[..., 1], cv2.INTER_LINEAR)
        found = np.asarray(cv2.imread(str(path)))
        assert np.abs(found.astype(int) - expected)[inner].mean() < 2.5
        outside = cv2.dilate(case.data.mask, np.ones((17, 17), np.uint8)) == 0
        assert found[outside].max(initial=0) < 8


def test_the_mask_is_the_content_area(case: Case) -> None:
    pixels = np.asarray(case.truth.camera.img_from_cam(directions_from_img(case.pinhole, pixel_centres(*SIZE))))
    distance = case.truth.content.signed_distance_px(pixels).reshape(SIZE[1], SIZE[0])
    inside = (case.data.mask > 0) & (distance < 1)
    np.testing.assert_array_equal(inside, case.data.mask > 0)
    assert (case.data.mask > 0)[distance < -1].mean() > 0.999


def test_depth_is_exact_at_pixel_centres(case: Case) -> None:
    step = read_depth_scale(TrainingPaths(case.root).depth_scale)
    assert step < 0.005
    pixels = pixel_centres(*SIZE).reshape(SIZE[1], SIZE[0], 2)
    for row, index in enumerate(case.data.frame_index):
        depth = case.depth(row)
        # Depth extends one pixel beyond the mask, for interpolation at its edge.
        assert (depth > 0)[cv2.dilate(case.data.mask, np.ones((3, 3), np.uint8)) > 0].mean() > 0.999
        tissue = (case.data.mask > 0) & (depth > 0)
        rays = directions_from_img(case.pinhole, pixels[tissue])
        recorded = np.asarray(case.truth.camera.img_from_cam(rays), np.float64)
        points, shown = case.truth.points(int(index), recorded)
        pose = case.truth.cam_from_world[index]
        expected = (points @ pose[:, :3].T + pose[:, 3])[:, 2]
        assert shown.mean() > 0.98
        # Rounding alone decides which side of an edge a grazing ray hits.
        assert (np.abs(depth[tissue] - expected)[shown] <= step).mean() > 0.9995


def test_points_lie_on_the_surface_and_have_the_image_colours(case: Case) -> None:
    assert 3000 < len(case.data.points) <= 4000
    assert case.truth.distance_to_surface(case.data.points).max() < 0.01
    assert case.data.colors is not None
    colors = []
    for point, view in zip(case.data.observation_point, case.data.observation_view, strict=True):
        column, row = np.floor(case.data.project(np.array([point]), np.array([view]))[0][0]).astype(int)
        colors.append((view, row, column))
    images = [np.asarray(cv2.imread(str(path)), np.float64)[..., ::-1] for path in case.data.image_paths]
    seen = np.array([images[view][row, column] for view, row, column in colors])
    mixed = np.random.default_rng(0).permutation(seen)
    change, by_chance = (
        np.nanmedian(color_inconsistency(case.data.observation_point, each, len(case.data.points)))
        for each in (seen, mixed)
    )
    assert change < 0.5 * by_chance
    # Each point comes from a pixel of one of the frames, which also gives its colour.
    same = (np.abs(seen - case.data.colors[case.data.observation_point]) == 0).all(axis=1)
    assert len(np.unique(case.data.observation_point[same])) > 0.99 * len(case.data.points)


def test_tracks_are_exact(case: Case) -> None:
    data = case.data
    listed = np.zeros((len(data.points), len(data.frame_index)), bool)
    listed[data.observation_point, data.observation_view] = True
    assert (listed.sum(axis=1) >= 2).all()
    for row, pose in enumerate(data.cam_from_world):
        count = len(data.points)
        poses, pinhole = np.broadcast_to(pose, (count, 3, 4)), np.broadcast_to(data.pinhole[row], (count, 4))
        inside = inside_mask(*project(data.points, poses, pinhole), data.mask)
        centre = -pose[:, :3].T @ pose[:, 3]
        rays = data.points - centre
        # The first hit of the ray, cast in 32 bits as in the renderer.
        nearest = case.truth.scene.cast(centre, rays).distance
        hidden = (1 - nearest) * np.linalg.norm(rays, axis=1) > 0.02
        assert (listed[:, row] == (inside & ~hidden)).mean() > 0.998
        assert not (listed[:, row] & ~inside).any()
    assert 0.05 < listed.mean() < 1


def test_clips_and_depth_correspondences_read_the_training_data(case: Case, tmp_path: Path) -> None:
    settings = DataSettings(image_downsampling=2.0, network_downsampling=32, cache_root=tmp_path)
    (clip,) = load_clips([case.root], settings)
    assert clip.name == "7/sequence"
    assert len(clip.correspondence.between(0, 1)) > 100
    assert DepthCorrespondence.is_known_for(case.root)
    dense = DepthCorrespondence(case.data, case.root, clip.frame, clip.mask)
    assert len(dense.between(0, 1)) > 0.5 * clip.mask.sum()


def test_training_data_converts_to_other_formats_with_depth(case: Case, tmp_path: Path) -> None:
    colmap = convert(case.root, tmp_path / "colmap", "colmap")
    assert read_model(ConversionPaths(colmap).model).num_reg_images() == 6
    assert convert(case.root, tmp_path / "nerf", "nerfstudio").exists()
    again = convert(case.root, tmp_path / "again")
    for index in case.data.frame_index:
        before, after = (TrainingPaths(root).depth(int(index)) for root in (case.root, again))
        assert before.read_bytes() == after.read_bytes()
    scales = {read_depth_scale(TrainingPaths(root).depth_scale) for root in (case.root, again)}
    assert len(scales) == 1


def test_the_same_phantom_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    again = convert(case.paths.root, tmp_path / "again")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file() and path.suffix != ".json")
    assert len(files) > 25
    for file in files:
        assert (again / file).read_bytes() == (case.root / file).read_bytes(), file


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of a few frames; read-only."""
    return render(tmp_path_factory.mktemp("small") / "phantom", frames=4, size=(96, 80))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 20, "cuts": 1}, r"has hard cuts \(1\).*--cuts"),
        ({"frames": 3, "black_s": 0.12}, "has 1 frames that are neither black nor duplicates"),
    ],
)
def test_phantom_that_is_not_one_sequence_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    source = render(tmp_path / "phantom", size=(96, 80), **settings)
    with pytest.raises(LumenError, match=message):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


@pytest.mark.parametrize(
    ("to", "settings", "message"),
    [
        ("colmap", {}, "--to training first"),
        ("nerfstudio", {}, "--to training first"),
        ("tum", {"fps": 15.0}, "--to training first"),
        ("training", {"images": Path("x")}, "--images does not apply to phantoms"),
        ("training", {"mask": Path("x")}, "--mask does not apply to phantoms"),
        ("training", {"pose_direction": "world_from_cam"}, "--pose_direction does not apply to phantoms"),
    ],
)
def test_options_that_do_not_apply_to_phantoms_are_refused(
    small: Path, tmp_path: Path, to: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(LumenError, match=message):
        convert(small, tmp_path / "out", to, **settings)
    assert not list(tmp_path.iterdir())


def copy_of(small: Path, target: Path) -> PhantomPaths:
    target.mkdir()
    for file in small.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    return PhantomPaths(target)


def test_damaged_or_foreign_video_is_reported(small: Path, tmp_path: Path) -> None:
    paths = copy_of(small, tmp_path / "phantom")
    video = paths.video.read_bytes()
    other = PhantomPaths(render(tmp_path / "other", frames=4, size=(128, 80))).video.read_bytes()
    short = PhantomPaths(render(tmp_path / "short", frames=2, size=(96, 80))).video.read_bytes()
    for bad in (None, b"", video[: len(video) // 2], other, short):
        paths.video.unlink(missing_ok=True)
        if bad is not None:
            paths.video.write_bytes(bad)
        with pytest.raises(LumenError, match=r"video\.mp4"):
            convert(paths.root, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_phantom_is_not_replaced_by_its_conversion(small: Path, tmp_path: Path) -> None:
    paths = copy_of(small, tmp_path / "phantom")
    with pytest.raises(LumenError, match="the input"):
        convert(paths.root, paths.root, overwrite=True)
    with pytest.raises(LumenError, match="the input"):
        convert(paths.root, tmp_path, overwrite=True)
    assert paths.truth.exists()


def test_existing_conversion_is_replaced_only_on_request(small: Path, tmp_path: Path) -> None:
    out = convert(small, tmp_path / "1" / "out", check=True)
    assert len(list(ConversionPaths(out).check.iterdir())) == 4
    with pytest.raises(LumenError, match="--overwrite"):
        convert(small, out)
    assert read_training_data(convert(small, out, overwrite=True)).frame_index.tolist() == [0, 1, 2, 3]
