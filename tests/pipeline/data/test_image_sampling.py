"""Bilinear sampling of images, also at more points than one call of OpenCV accepts."""

import numpy as np
import pytest

from pipeline.image_sampling import sample


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 100_000])
def test_a_linear_image_is_interpolated_exactly(count: int) -> None:
    rows, columns = np.indices((40, 60), np.float32)
    image = np.dstack([columns, rows, 2 * columns - rows])
    points = np.random.default_rng(0).uniform([0, 0], [59, 39], (count, 2)).astype(np.float32)
    found = sample(image, points)
    truth = np.column_stack([points, 2 * points[:, 0] - points[:, 1]])
    assert found.shape == (count, 3)
    np.testing.assert_allclose(found, truth, atol=0.1)


def test_a_uint8_image_keeps_its_type_and_points_outside_get_the_border_value() -> None:
    image = np.array([[10, 20], [30, 40]], np.uint8)
    found = sample(image, np.array([[0.5, 0.0], [-5.0, 0.0], [9.0, 9.0]], np.float32))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [15, 10, 40])
