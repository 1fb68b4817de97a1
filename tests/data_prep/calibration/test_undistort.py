"""Undistortion: exact maps, complete content, no folding."""

import time

import cv2
import numpy as np
import pycolmap
import pytest

from data_prep.calibration.undistort import plan_undistortion
from pipeline.conventions import colmap_from_index, colmap_from_opencv, opencv_from_colmap
from pipeline.errors import LumenError

FISHEYE_130 = ("OPENCV_FISHEYE", 640, 512, [222.0, 223.0, 322.3, 254.7, 0.02, -0.01, 0.003, -0.001])
FULL = ("FULL_OPENCV", 768, 710, [649.5, 649.7, 420.6, 362.0, -0.488, 0.347, 5e-4, -3e-4, -0.1448, 0.01, -0.01, 0.0])
OPENCV = ("OPENCV", 1920, 1080, [1000.0, 1003.0, 980.0, 530.0, -0.3, 0.08, 0.001, -0.001])
PINCUSHION = ("OPENCV", 640, 512, [420.0, 420.0, 320.0, 256.0, 0.2, 0.02, 0.0, 0.0])
LENSES = {"fisheye": FISHEYE_130, "full": FULL, "opencv": OPENCV, "pincushion": PINCUSHION}


def make_camera(lens) -> pycolmap.Camera:
    model, width, height, params = lens
    return pycolmap.Camera(model=model, width=width, height=height, params=params)


def round_mask(camera: pycolmap.Camera, radius_share: float = 0.48) -> np.ndarray:
    mask = np.zeros((camera.height, camera.width), np.uint8)
    radius = int(radius_share * min(camera.width, camera.height))
    return cv2.circle(mask, (camera.width // 2 + 5, camera.height // 2 - 3), radius, 255, -1)


def outline_points(mask: np.ndarray) -> np.ndarray:
    """The centres of the mask's border pixels, (N, 2), in COLMAP's convention."""
    contour = max(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    return colmap_from_index(contour.reshape(-1, 2))


def through_maps(plan, points: np.ndarray) -> np.ndarray:
    """Source positions of points of the result (N, 2) in the maps, both in COLMAP's convention."""
    x, y = opencv_from_colmap(points).astype(np.float32).T[..., None]
    sampled = [cv2.remap(each, x, y, cv2.INTER_LINEAR).ravel() for each in (plan.map_x, plan.map_y)]
    return colmap_from_opencv(np.stack(sampled, axis=-1))


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_maps_agree_with_both_cameras_at_the_mask_edge(lens):
    camera = make_camera(lens)
    mask = round_mask(camera)
    plan = plan_undistortion(camera, mask)
    assert plan.content_kept == 1.0
    # Just inside the edge, where bilinear sampling of the maps has all four neighbours.
    inner = cv2.erode(mask, np.ones((9, 9), np.uint8))
    distorted = outline_points(inner)
    rays = camera.cam_ray_from_img(distorted)
    undistorted = plan.camera.img_from_cam(rays)
    error_px = np.hypot(*(through_maps(plan, undistorted) - distorted).T)
    # Distances in the distorted image; equal to those in the undistorted image up to the local magnification.
    magnification = np.hypot(*(plan.camera.img_from_cam(camera.cam_ray_from_img(distorted + [0, 1])) - undistorted).T)
    assert (error_px * np.maximum(1, magnification)).max() < 0.05


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
@pytest.mark.parametrize("full_frame", [False, True])
def test_content_fits_and_fills_the_frame(lens, full_frame):
    camera = make_camera(lens)
    mask = np.full((camera.height, camera.width), 255, np.uint8) if full_frame else round_mask(camera)
    plan = plan_undistortion(camera, mask)
    points = outline_points(mask)
    rays = camera.cam_ray_from_img(points)
    angle_deg = np.rad2deg(np.arccos(rays[:, 2]))
    if plan.content_kept == 1.0:
        landed = plan.camera.img_from_cam(rays)
        size = np.array([camera.width, camera.height])
        assert (landed > 0.5 - 1e-6).all() and (landed < size - 0.5 + 1e-6).all()
        fills = np.isclose(np.ptp(landed, axis=0), size - 1).any()
        assert fills or plan.camera.focal_length_x == pytest.approx(camera.mean_focal_length())
    else:
        assert full_frame and not (angle_deg < 75).all()
    assert plan.camera.focal_length_x == plan.camera.focal_length_y <= camera.mean_focal_length()
    assert (plan.camera.model_name, plan.camera.width, plan.camera.height) == ("PINHOLE", camera.width, camera.height)
    assert plan.map_x.dtype == plan.map_y.dtype == np.float32


def dot_image(camera: pycolmap.Camera, pixels: np.ndarray) -> np.ndarray:
    """White Gaussian dots, sigma 3 px, centred at pixels (N, 2) in COLMAP's convention."""
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    image = np.zeros((camera.height, camera.width))
    for u, v in pixels:
        image = np.maximum(image, 250 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 18))
    return np.repeat(image[..., None], 3, axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("lens", [FISHEYE_130, FULL, PINCUSHION], ids=["fisheye", "full", "pincushion"])
def test_undistorted_dots_match_the_pinhole_projection(lens):
    camera = make_camera(lens)
    plan = plan_undistortion(camera, round_mask(camera))
    angle_deg = 12 if camera.model_name == "OPENCV_FISHEYE" else 7
    steps = np.tan(np.deg2rad(angle_deg * np.arange(-3, 4)))
    rays = np.array([[x, y, 1.0] for x in steps for y in steps if np.hypot(x, y) < steps[-1]])
    image = plan.image(dot_image(camera, camera.img_from_cam(rays)))[..., 0].astype(float)
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    for ray, (u, v) in zip(rays, plan.camera.img_from_cam(rays), strict=True):
        # A small window: in a large one, the lens's distortion of the dot would shift its centroid.
        window = np.exp(-((x - u) ** 2 + (y - v) ** 2) / 4) * image
        centroid = np.array([(window * x).sum(), (window * y).sum()]) / window.sum()
        assert np.hypot(*(centroid - [u, v])) < 0.1, ray


def test_wide_content_is_cropped_and_reported():
    camera = make_camera(FISHEYE_130)
    mask = np.full((512, 640), 255, np.uint8)
    plan = plan_undistortion(camera, mask, max_field_of_view_deg=120)
    assert 0.5 < plan.content_kept < 0.9
    assert plan.field_of_view_after.largest == pytest.approx(120, abs=0.5)
    assert plan.field_of_view_before.largest > 150
    shown = np.count_nonzero(plan.mask(mask)) / mask.size
    assert shown > 0.6
    rays = plan.camera.cam_from_img(colmap_from_index(np.argwhere(plan.mask(mask))[:, ::-1]))
    assert np.rad2deg(np.arctan(np.hypot(*rays.T))).max() <= 60


def test_field_of_view_of_an_ideal_fisheye():
    focal_px = 480 / np.deg2rad(120)
    camera = pycolmap.Camera(
        model="OPENCV_FISHEYE", width=640, height=512, params=[focal_px, focal_px, 320, 256, 0, 0, 0, 0]
    )
    mask = np.zeros((512, 640), np.uint8)
    mask[136:376, 80:560] = 255
    plan = plan_undistortion(camera, mask)
    # Between the centres of the first and last pixels: 479 and 239 pixels.
    assert plan.field_of_view_before.horizontal == pytest.approx(479 / 4, abs=0.01)
    assert plan.field_of_view_before.vertical == pytest.approx(239 / 4, abs=0.01)
    assert plan.field_of_view_before.largest == pytest.approx(np.hypot(479, 239) / 4, abs=0.01)
    assert plan.field_of_view_after == plan.field_of_view_before


def test_no_pixel_folds_back():
    """This model folds at 48 degrees; the frame's corners are beyond."""
    camera = pycolmap.Camera(model="OPENCV", width=640, height=512, params=[250, 250, 320, 256, -0.3, 0.02, 0, 0])
    mask = np.full((512, 640), 255, np.uint8)
    plan = plan_undistortion(camera, mask)
    assert plan.content_kept < 0.5
    shown = plan.mask(mask) > 0
    index = np.argwhere(shown)[:, ::-1]
    source = np.stack([plan.map_x, plan.map_y], axis=-1)[shown]
    radius = np.hypot(*(colmap_from_index(index) - [plan.camera.principal_point_x, plan.camera.principal_point_y]).T)
    source_radius = np.hypot(*(colmap_from_opencv(source) - [320, 256]).T)
    order = np.argsort(radius)
    assert (np.diff(source_radius[order]) > -1e-3).all()
    assert (plan.image(np.full((512, 640, 3), 255, np.uint8))[~shown] == 0).all()


def test_pixels_outside_the_content_are_black():
    camera = make_camera(FULL)
    mask = round_mask(camera, 0.3)
    frame = np.full((camera.height, camera.width, 3), 200, np.uint8)
    plan = plan_undistortion(camera, mask)
    image, shown = plan.image(frame), plan.mask(mask)
    assert set(np.unique(shown)) == {0, 255}
    assert (image[shown == 0] == 0).all() and (image[shown == 255] == 200).all()


def test_small_content_is_neither_enlarged_nor_moved():
    camera = make_camera(FULL)
    mask = np.zeros((camera.height, camera.width), np.uint8)
    cv2.circle(mask, (300, 300), 100, 255, -1)
    plan = plan_undistortion(camera, mask)
    assert plan.camera.focal_length_x == camera.mean_focal_length()
    assert plan.camera.principal_point_x == camera.principal_point_x
    centre = np.argwhere(plan.mask(mask))[:, ::-1].mean(axis=0)
    assert np.hypot(*(centre - [300, 300])) < 15


@pytest.mark.parametrize(
    ("model", "params", "expected"),
    [
        ("PINHOLE", [400, 400, 320, 256], [400, 400, 320, 256]),
        ("PINHOLE", [400, 410, 321, 255], [400, 410, 321, 255]),
        ("SIMPLE_PINHOLE", [400, 320, 256], [400, 400, 320, 256]),
        ("OPENCV", [400, 410, 320, 256, 0, 0, 0, 0], [400, 410, 320, 256]),
    ],
)
def test_pinhole_is_unchanged(model, params, expected):
    camera = pycolmap.Camera(model=model, width=640, height=512, params=params)
    frame = np.random.default_rng(0).integers(0, 256, (512, 640, 3)).astype(np.uint8)
    mask = round_mask(camera)
    plan = plan_undistortion(camera, mask)
    assert plan.is_identity and plan.content_kept == 1.0
    assert plan.image(frame) is frame and plan.mask(mask) is mask
    assert (plan.camera.model_name, plan.camera.params.tolist()) == ("PINHOLE", expected)
    assert np.array_equal(cv2.remap(frame, plan.map_x, plan.map_y, cv2.INTER_LINEAR), frame)


def test_fisheye_without_coefficients_is_not_a_pinhole():
    camera = pycolmap.Camera(model="OPENCV_FISHEYE", width=640, height=512, params=[250, 250, 320, 256, 0, 0, 0, 0])
    assert not plan_undistortion(camera, round_mask(camera)).is_identity


def test_bad_input():
    camera = make_camera(FISHEYE_130)
    with pytest.raises(LumenError, match="empty"):
        plan_undistortion(camera, np.zeros((512, 640), np.uint8))
    for limit in (0, -10, 180, float("nan")):
        with pytest.raises(LumenError, match="field of view"):
            plan_undistortion(camera, round_mask(camera), max_field_of_view_deg=limit)
    with pytest.raises(ValueError, match="640x512"):
        plan_undistortion(camera, np.ones((10, 10), np.uint8))
    with pytest.raises(ValueError, match="height"):
        plan_undistortion(camera, round_mask(camera)).image(np.zeros((10, 10, 3), np.uint8))


def test_invalid_content_is_an_error():
    camera = pycolmap.Camera(model="OPENCV", width=640, height=512, params=[250, 250, 320, 256, -0.9, 0, 0, 0])
    mask = np.zeros((512, 640), np.uint8)
    mask[:20, :20] = 255
    with pytest.raises(LumenError, match="not valid"):
        plan_undistortion(camera, mask)


def test_is_fast():
    camera = make_camera(OPENCV)
    plan = plan_undistortion(camera, round_mask(camera))
    frame = np.zeros((1080, 1920, 3), np.uint8)
    times_s = []
    for _ in range(5):
        started = time.perf_counter()
        plan.image(frame)
        times_s.append(time.perf_counter() - started)
    # Measured 5 to 10 ms on one core; the bound only detects a change of order, even on a busy machine.
    assert min(times_s) < 0.1
