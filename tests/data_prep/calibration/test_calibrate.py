"""The calibration command on rendered boards with known cameras, on real endoscope images, and on bad input."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from data_prep.calibrate import CalibrateConfig, run
from data_prep.calibration.files import read_calibration
from data_prep.calibration.opencv_storage import parse_storage
from data_prep.calibration.pattern import Pattern, find_pattern
from data_prep.calibration.solve import Lens, View, solve
from pipeline.command.run_command import run_command
from pipeline.conventions import opencv_from_colmap
from pipeline.errors import LumenError
from repository import ROOT

SIZE = (480, 400)
CAMERAS = {
    "opencv": ("OPENCV", [381.0, 384.0, 246.3, 195.6, -0.28, 0.09, 0.0, 0.0]),
    "fisheye": ("OPENCV_FISHEYE", [205.0, 206.0, 236.2, 203.4, 0.03, -0.008, 0.0, 0.0]),
}
PATTERNS = {
    "chessboard": Pattern("chessboard", 6, 8, 3.0, 3.0),
    "circles": Pattern("circles", 6, 7, 3.5, 3.5),
    "asymmetric_circles": Pattern("asymmetric_circles", 9, 4, 6.0, 3.0),
}
SUPERSAMPLING = 3
VIEWS = 10


def make_camera(lens: str) -> pycolmap.Camera:
    model, params = CAMERAS[lens]
    return pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=params)


def fine_rays(camera: pycolmap.Camera) -> np.ndarray:
    """Rays of a supersampled image, (h, w, 3): exact at every fourth pixel, linear in between."""
    step = 4
    rows, columns = np.mgrid[: SIZE[1] // step, : SIZE[0] // step]
    centres = np.column_stack([(columns.ravel() + 0.5) * step, (rows.ravel() + 0.5) * step])
    coarse = camera.cam_ray_from_img(centres).reshape(*rows.shape, 3)
    fine = (SIZE[0] * SUPERSAMPLING, SIZE[1] * SUPERSAMPLING)
    return cv2.resize(coarse, fine, interpolation=cv2.INTER_LINEAR)


def poses(pattern: Pattern, lens: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotation matrices and translations, cam_from_board: a tilted and shifted board, always in view."""
    random = np.random.default_rng(5)
    centre = pattern.object_points_mm().mean(axis=0)
    shift, distance = ((5.5, 4.5), 24.0) if lens == "fisheye" else ((4.0, 2.5), 36.0)
    result = []
    for index in range(VIEWS):
        azimuth = 2.4 * index
        tilt = np.deg2rad(14 + 2.2 * index)
        axis = np.array([np.cos(azimuth), np.sin(azimuth), 0.0]) * tilt
        rotation = cv2.Rodrigues(axis)[0] @ cv2.Rodrigues(np.array([0, 0, random.uniform(-0.3, 0.3)]))[0]
        aside = np.array([shift[0] * np.cos(1.7 * index), shift[1] * np.sin(1.7 * index), distance])
        result.append((rotation, aside - rotation @ centre))
    return result


def board(pattern: Pattern, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness in [0, 1] of the board's plane at mm coordinates, with soft edges half a pixel wide.

    Hard edges would be quantised to the supersampled grid, an error larger than the tolerance of the detection test.
    """
    soft_mm = 0.06
    column, row = np.floor(x / pattern.spacing_mm), np.floor(y / pattern.row_spacing_mm)
    if pattern.kind == "chessboard":
        inside = (column >= -1) & (row >= -1) & (column < pattern.cols) & (row < pattern.rows)
        to_line = [
            np.clip(((v / step + 0.5) % 1 - 0.5) * step / soft_mm, -1, 1) * np.where(np.round(v / step) % 2 == 0, 1, -1)
            for v, step in ((x, pattern.spacing_mm), (y, pattern.row_spacing_mm))
        ]
        return np.where(inside, 0.5 - 0.35 * to_line[0] * to_line[1], 0.85)
    row = np.round(y / pattern.row_spacing_mm)
    shift = 0.5 * (row % 2) if pattern.kind == "asymmetric_circles" else 0.0
    column = np.round(x / pattern.spacing_mm - shift)
    radius_mm = 0.75
    distance_mm = np.hypot(x - (column + shift) * pattern.spacing_mm, y - row * pattern.row_spacing_mm)
    inside = (row >= 0) & (row < pattern.rows) & (column >= 0) & (column < pattern.cols)
    return np.where(inside, 0.5 + 0.35 * np.clip((distance_mm - radius_mm) / soft_mm, -1, 1), 0.85)


def render(pattern: Pattern, lens: str, invert: bool = False, seed: int = 1) -> list[np.ndarray]:
    """Endoscopic images: light falloff, a round content area, noise and glare."""
    random = np.random.default_rng(seed)
    rays = fine_rays(make_camera(lens))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    radius = np.hypot(x - SIZE[0] / 2, y - SIZE[1] / 2)
    light = np.clip(1.1 - (radius / 300) ** 2, 0.2, 1) * (radius < 0.49 * SIZE[0])
    images = []
    for rotation, translation in poses(pattern, lens):
        normal = rotation[:, 2]
        on_board = rays * (normal @ translation / (rays @ normal))[..., None]
        local = (on_board - translation) @ rotation
        plane = board(pattern, local[..., 0], local[..., 1])
        grey = cv2.resize(1 - plane if invert else plane, SIZE, interpolation=cv2.INTER_AREA)
        values = 200 * grey * light + random.normal(0, 2.5, grey.shape)
        values = cv2.GaussianBlur(values, (0, 0), 0.6)
        cv2.circle(values, (int(random.uniform(20, 60)), int(SIZE[1] / 2)), 6, 255, -1)
        images.append(np.clip(values, 0, 255).astype(np.uint8))
    return images


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """Folder of rendered images by pattern and lens, each rendered once."""
    folders: dict[tuple, Path] = {}

    def get(kind: str, lens: str, invert: bool = False) -> Path:
        key = (kind, lens, invert)
        if key not in folders:
            folder = tmp_path_factory.mktemp(f"{kind}_{lens}_{invert}")
            for index, image in enumerate(render(PATTERNS[kind], lens, invert)):
                cv2.imwrite(str(folder / f"view_{index:02d}.png"), image)
            folders[key] = folder
        return folders[key]

    return get


def arguments(folder: Path, kind: str, output: Path, *more: str) -> list[str]:
    pattern = PATTERNS[kind]
    numbers = ["--rows", str(pattern.rows), "--cols", str(pattern.cols), "--spacing_mm", str(pattern.spacing_mm)]
    return [str(folder), "--pattern", kind, *numbers, "--output", str(output), *more]


def turn_between(truth: pycolmap.Camera, found: pycolmap.Camera, seen: np.ndarray) -> np.ndarray:
    """The rotation that best aligns the true rays at points (N, 3) with the rays of the estimated camera."""
    pixels = truth.img_from_cam(seen)
    u, _, vt = np.linalg.svd(found.cam_ray_from_img(pixels).T @ truth.cam_ray_from_img(pixels))
    return u @ vt


@pytest.mark.parametrize(
    ("kind", "lens", "invert"),
    [
        ("chessboard", "opencv", False),
        ("chessboard", "fisheye", False),
        ("circles", "opencv", False),
        ("asymmetric_circles", "opencv", True),
        ("asymmetric_circles", "fisheye", False),
    ],
)
def test_recovers_the_camera(rendered, tmp_path, capsys, kind, lens, invert):
    output = tmp_path / "my calibration ü.yaml"
    more = ["--fisheye"] if lens == "fisheye" else []
    status = run_command(CalibrateConfig, run, arguments(rendered(kind, lens, invert), kind, output, *more))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.split("\n")[:2] == [str(output), str(output.with_suffix(".png"))]
    truth, found = make_camera(lens), read_calibration(output, SIZE)
    assert found.model_name == truth.model_name
    assert found.params[:2] == pytest.approx(truth.params[:2], rel=0.01)
    seen = np.concatenate([PATTERNS[kind].object_points_mm() @ r.T + t for r, t in poses(PATTERNS[kind], lens)])
    difference_px = np.hypot(*(found.img_from_cam(seen) - truth.img_from_cam(seen)).T)
    assert difference_px.max() < 0.3
    # A shifted principal point is equivalent to a rotated camera, which every pose compensates.
    difference_px = np.hypot(
        *(found.img_from_cam(seen @ turn_between(truth, found, seen).T) - truth.img_from_cam(seen)).T
    )
    assert difference_px.max() < 0.2
    record = parse_storage(output.read_text(encoding="utf-8"))
    assert record["reprojection_error_px"] < 0.2
    assert record["number_of_views"] >= VIEWS - 1
    assert len(record["per_image_error_px"]) == len(record["images"]) == record["number_of_views"]
    image = cv2.imread(str(output.with_suffix(".png")))
    assert image is not None and image.shape[0] > 500 and image.std() > 5


@pytest.mark.parametrize("kind", PATTERNS)
def test_detected_points_match_the_projected_points(rendered, kind):
    """Detected points are exact without a fit, which could hide an offset of half a pixel."""
    camera = make_camera("opencv")
    for index, (rotation, translation) in enumerate(poses(PATTERNS[kind], "opencv")[:4]):
        image = cv2.imread(str(rendered(kind, "opencv") / f"view_{index:02d}.png"), cv2.IMREAD_GRAYSCALE)
        points_px = find_pattern(image, PATTERNS[kind]).points_px
        assert points_px is not None
        seen = camera.img_from_cam(PATTERNS[kind].object_points_mm() @ rotation.T + translation)
        expected = opencv_from_colmap(seen)
        # A symmetric board may be numbered from another corner.
        distance = np.linalg.norm(points_px[:, None] - expected[None], axis=-1).min(axis=1)
        assert distance.max() < 0.5 and np.sqrt((distance**2).mean()) < 0.15
        offset = points_px.mean(axis=0) - expected.mean(axis=0)
        assert np.abs(offset).max() < 0.08


def ideal_views(count: int = VIEWS, turned: bool = False) -> list[View]:
    camera, pattern = make_camera("opencv"), PATTERNS["chessboard"]
    random = np.random.default_rng(3)
    views = []
    for index, (rotation, translation) in enumerate(poses(pattern, "opencv")[:count]):
        if turned:
            rotation = rotation @ cv2.Rodrigues(np.array([0, 0, 0.7 * index]))[0]
            translation = np.array([0, 0, 40.0]) - rotation @ pattern.object_points_mm().mean(axis=0)
        points = camera.img_from_cam(pattern.object_points_mm() @ rotation.T + translation)
        noise = random.normal(0, 0.1, points.shape)
        views.append(View(f"view_{index}.png", opencv_from_colmap(points) + noise))
    return views


def test_outlier_view_is_left_out():
    views = ideal_views()
    bad = View("bad.png", views[4].points_px + np.random.default_rng(1).normal(0, 3, views[4].points_px.shape))
    solution = solve([*views[:4], bad, *views[5:]], PATTERNS["chessboard"], SIZE, Lens(False, 2, False))
    assert [view.name for view, _ in solution.dropped] == ["bad.png"]
    assert solution.dropped[0][1] > 2
    assert solution.error_px == pytest.approx(0.14, abs=0.02)
    assert not solve(views, PATTERNS["chessboard"], SIZE, Lens(False, 2, False)).dropped


@pytest.mark.parametrize("tangential", [False, True])
def test_deviations_agree_with_opencv(tangential):
    views, pattern = ideal_views(), PATTERNS["chessboard"]
    solution = solve(views, pattern, SIZE, Lens(False, 3, tangential))
    objects = [pattern.object_points_mm().astype(np.float32)] * len(views)
    points = [view.points_px.astype(np.float32) for view in views]
    flags = 0 if tangential else cv2.CALIB_ZERO_TANGENT_DIST
    result = cv2.calibrateCameraExtended(objects, points, SIZE, None, None, flags=flags)
    expected = dict(zip(["fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3"], result[5].ravel()[:9], strict=True))
    for name, deviation in solution.deviations.items():
        assert deviation == pytest.approx(expected[name], rel=0.02), name


def test_wrong_shape_of_the_pattern_is_an_error():
    """On boards rotated in all directions, no pixel aspect ratio can compensate."""
    flat = Pattern("chessboard", 6, 8, 3.0, 1.0)
    with pytest.raises(LumenError, match="row_spacing_mm"):
        solve(ideal_views(turned=True), flat, SIZE, Lens(False, 2, False))
    with pytest.raises(LumenError, match="too few"):
        solve(ideal_views(2), PATTERNS["chessboard"], SIZE, Lens(False, 2, False))


@pytest.fixture
def few(rendered, tmp_path) -> Path:
    """Four of the chessboard's images in a separate folder."""
    folder = tmp_path / "few images"
    folder.mkdir()
    for path in sorted(rendered("chessboard", "opencv").glob("*.png"))[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def fails(capsys, *command: str) -> str:
    """Run the command, which must fail with a single line; return that line."""
    assert run_command(CalibrateConfig, run, command) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_non_square_pixels_give_a_warning(few, tmp_path, capsys):
    command = arguments(few, "chessboard", tmp_path / "out.yaml", "--row_spacing_mm", "2.7")
    assert run_command(CalibrateConfig, run, command) == 0
    assert "--row_spacing_mm, unless" in capsys.readouterr().err


def test_unusable_images_are_reported(few, tmp_path, capsys):
    (few / "broken.png").write_bytes(b"no image")
    cv2.imwrite(str(few / "dark.png"), np.zeros(SIZE[::-1], np.uint8))
    cv2.imwrite(str(few / "noise.png"), np.random.default_rng(0).integers(0, 255, SIZE[::-1]).astype(np.uint8))
    output = tmp_path / "out.yaml"
    assert run_command(CalibrateConfig, run, arguments(few, "chessboard", output)) == 0
    log = capsys.readouterr().err
    assert "broken.png is not used: it cannot be decoded" in log
    assert "dark.png is not used: the image has almost no contrast" in log
    assert "noise.png is not used: no board of 8 x 6 inner corners" in log
    record = parse_storage(output.read_text())
    assert sorted(record["unused_images"]) == ["broken.png", "dark.png", "noise.png"]


def test_too_few_images(few, tmp_path, capsys):
    for path in sorted(few.glob("*.png"))[2:]:
        path.unlink()
    message = fails(capsys, *arguments(few, "chessboard", tmp_path / "out.yaml"))
    assert "pattern found in 2 of 2 images, 3 are needed" in message
    assert list(tmp_path.glob("out*")) == []


def test_wrong_grid_is_explained(few, tmp_path, capsys):
    command = [str(few), "--pattern", "chessboard", "--rows", "9", "--cols", "11", "--spacing_mm", "3"]
    message = fails(capsys, *command, "--output", str(tmp_path / "out.yaml"))
    assert "found in 0 of 4 images" in message and "tried 11 x 9" in message and "--rows/--cols" in message


def test_swapped_rows_and_columns_are_recognised(rendered, tmp_path, capsys):
    folder = rendered("asymmetric_circles", "fisheye")
    command = [str(folder), "--pattern", "asymmetric_circles", "--rows", "4", "--cols", "9", "--spacing_mm", "6"]
    message = fails(capsys, *command, "--output", str(tmp_path / "out.yaml"))
    assert "--rows 9 --cols 4" in message


def test_images_of_different_sizes(few, tmp_path, capsys):
    cv2.imwrite(str(few / "view_99.png"), np.zeros((100, 120), np.uint8))
    message = fails(capsys, *arguments(few, "chessboard", tmp_path / "out.yaml"))
    assert "view_99.png has 120x100" in message and "480x400" in message


def test_existing_output_needs_overwrite(few, tmp_path, capsys):
    output = tmp_path / "out.yaml"
    assert run_command(CalibrateConfig, run, arguments(few, "chessboard", output)) == 0
    before = output.read_bytes()
    capsys.readouterr()
    assert "--overwrite" in fails(capsys, *arguments(few, "chessboard", output))
    assert output.read_bytes() == before
    assert run_command(CalibrateConfig, run, arguments(few, "chessboard", output, "--overwrite")) == 0
    assert read_calibration(output, SIZE).model_name == "OPENCV"


@pytest.mark.parametrize("name", ["out.yaml", "out.png"])
@pytest.mark.parametrize("text", ["mine", "%YAML:1.0\n---\ncamera_matrix: mine\n", ""])
def test_user_file_is_never_replaced(few, tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text)
    message = fails(capsys, *arguments(few, "chessboard", tmp_path / "out.yaml", "--overwrite"))
    assert f"{name} exists and was not written by this command" in message
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--spacing_mm", "0"], "--spacing_mm 0: choose more than 0"),
        (["--spacing_mm", "nan"], "--spacing_mm nan: choose more than 0"),
        (["--spacing_mm", "inf"], "--spacing_mm inf: choose a finite number"),
        (["--row_spacing_mm", "-1"], "--row_spacing_mm -1: choose more than 0"),
        (["--rows", "1"], "--rows 1: choose 2 or more"),
        (["--rows", "2"], "--rows 2 --cols 8: a chessboard needs at least 3 of each"),
        (["--radial", "4"], "--radial 4 needs --fisheye"),
        (["--fisheye", "--tangential"], "exclude each other"),
        (["--output", "calibration.txt"], ".yaml"),
    ],
)
def test_bad_options(few, tmp_path, capsys, more, problem):
    assert problem in fails(capsys, *arguments(few, "chessboard", tmp_path / "out.yaml"), *more)


def test_no_images(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images" in fails(capsys, *arguments(empty, "chessboard", tmp_path / "out.yaml"))
    assert "matches no file" in fails(
        capsys, *arguments(tmp_path / "no" / "*.png", "chessboard", tmp_path / "out.yaml")
    )
    (empty / "a.png").write_text("text")
    assert "can be decoded" in fails(capsys, *arguments(empty, "chessboard", tmp_path / "out.yaml"))


def test_script_runs(few, tmp_path):
    script = ROOT / "data_prep" / "calibrate.py"
    command = [sys.executable, str(script), *arguments(few / "*.png", "chessboard", tmp_path / "out.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.yaml").exists() and "free parameters: fx" in done.stderr


@pytest.mark.parametrize(
    ("sample", "row_spacing_mm", "focal_px", "centre_px", "published_error_px"),
    [
        ("sample_001", 1.5, (649.505, 649.708), (420.620, 361.972), 0.2843),
        ("sample_002", 1.0, (438.079, 438.364), (996.331, 548.305), 0.3729),
    ],
)
def test_real_endoscopes(tmp_path, sample, row_spacing_mm, focal_px, centre_px, published_error_px):
    """The endocal package's images and its author's results, with grids of 2 : 1 and 3 : 1.

    The published points of sample_001 determine its focal length only to 36 px.
    """
    package = importlib.util.find_spec("endocal")
    if package is None or package.origin is None:
        pytest.skip("the package endocal is not installed")
    folder = Path(package.origin).parent / "data" / sample
    config = CalibrateConfig(folder, "asymmetric_circles", 11, 3, 3.0, row_spacing_mm, output=tmp_path / "out.yaml")
    output, _ = run(config)
    record = parse_storage(output.read_text())
    found = read_calibration(output, (record["image_width"], record["image_height"]))
    assert record["number_of_views"] == 11
    assert record["reprojection_error_px"] < published_error_px
    assert found.params[:2] == pytest.approx(focal_px, rel=0.06 if sample == "sample_001" else 0.01)
    assert found.params[2:4] == pytest.approx(centre_px, abs=1.5)


def test_meaningless_fit_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    pattern = Pattern("chessboard", 5, 7, 4.0, 4.0)
    columns, rows = np.meshgrid(np.arange(7), np.arange(5))
    grid = np.column_stack([columns.ravel(), rows.ravel()]) * 40.0 + 100
    views = [
        View(f"{i}.png", grid @ np.array([[1, 0.05 * i], [0.1, 1]]) + rng.normal(0, 25, grid.shape)) for i in range(8)
    ]
    with pytest.raises(LumenError, match="does not explain|do not determine|folds"):
        solve(views, pattern, (640, 480), Lens(fisheye=False, radial=2, tangential=False))
