"""Pixel conventions, checked against OpenCV and pycolmap."""

import cv2
import numpy as np
import pycolmap
import pytest

from pipeline.conventions import colmap_from_index, colmap_from_opencv, index_from_colmap, opencv_from_colmap

WIDTH, HEIGHT, FOCAL_PX = 640, 512, 400.0


@pytest.fixture
def points_in_camera() -> np.ndarray:
    """(200, 3) float64 in front of the camera and inside its field of view."""
    random = np.random.default_rng(0)
    depth = random.uniform(5.0, 80.0, 200)
    slope = random.uniform(-0.6, 0.6, (200, 2))
    return np.column_stack([slope * depth[:, None], depth])


def test_pycolmap_and_opencv_project_to_the_same_converted_pixel(points_in_camera: np.ndarray) -> None:
    centre_px = np.array([WIDTH / 2, HEIGHT / 2])
    camera = pycolmap.Camera(
        model="PINHOLE", width=WIDTH, height=HEIGHT, params=[FOCAL_PX, FOCAL_PX, centre_px[0], centre_px[1]]
    )
    through_colmap = camera.img_from_cam(points_in_camera)

    matrix = np.diag([FOCAL_PX, FOCAL_PX, 1.0])
    matrix[:2, 2] = opencv_from_colmap(centre_px)
    projected, _ = cv2.projectPoints(points_in_camera, np.zeros(3), np.zeros(3), matrix, None)
    through_opencv = projected[:, 0]

    np.testing.assert_allclose(colmap_from_opencv(through_opencv), through_colmap, atol=1e-9)
    np.testing.assert_allclose(opencv_from_colmap(through_colmap), through_opencv, atol=1e-9)


def test_rays_of_opposite_corner_pixels_are_symmetric() -> None:
    camera = pycolmap.Camera(model="PINHOLE", width=4, height=2, params=[1.0, 1.0, 2.0, 1.0])
    corners = colmap_from_index(np.array([[0, 0], [3, 1]]))
    rays = np.stack([np.asarray(camera.cam_from_img(corner)) for corner in corners])
    np.testing.assert_allclose(rays[0], -rays[1])


def test_opencv_samples_the_value_of_a_pixel_at_its_centre() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    pixel_index = np.array([[0, 0], [3, 2], [1, 2]])
    at = opencv_from_colmap(colmap_from_index(pixel_index)).astype(np.float32)
    sampled = cv2.remap(image, at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR)
    np.testing.assert_array_equal(sampled[0], image[pixel_index[:, 1], pixel_index[:, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_opencv_round_trip_keeps_the_type_and_does_not_change_the_input(dtype: type) -> None:
    points_px = np.array([[0.5, 0.5], [319.25, 10.0]], dtype=dtype)
    before = points_px.copy()
    there = opencv_from_colmap(points_px)
    assert there.dtype == dtype and there[0].tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(colmap_from_opencv(there), points_px)
    np.testing.assert_array_equal(points_px, before)


def test_index_round_trip() -> None:
    pixel_index = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1)
    assert colmap_from_index(pixel_index)[0, 0].tolist() == [0.5, 0.5]
    np.testing.assert_array_equal(index_from_colmap(colmap_from_index(pixel_index)), pixel_index)


def test_every_point_in_a_pixel_has_the_index_of_the_pixel() -> None:
    points_px = np.array([[0.0, 0.0], [0.999, 0.001], [1.0, 0.5], [-0.25, 3.75]])
    assert index_from_colmap(points_px).tolist() == [[0, 0], [0, 0], [1, 0], [-1, 3]]
