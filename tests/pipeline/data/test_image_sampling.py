"""Pictures read between their pixels, also at more places than OpenCV takes at once."""

import numpy as np
import pytest

from pipeline.image_sampling import sample


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 100_000])
def test_a_plane_is_read_as_it_is(count: int) -> None:
    rows, columns = np.indices((40, 60), np.float32)
    picture = np.dstack([columns, rows, 2 * columns - rows])
    points = np.random.default_rng(0).uniform([0, 0], [59, 39], (count, 2)).astype(np.float32)
    found = sample(picture, points)
    truth = np.column_stack([points, 2 * points[:, 0] - points[:, 1]])
    assert found.shape == (count, 3)
    np.testing.assert_allclose(found, truth, atol=0.1)


def test_one_channel_of_bytes_stays_so_and_goes_on_beyond_the_edge() -> None:
    picture = np.array([[10, 20], [30, 40]], np.uint8)
    found = sample(picture, np.array([[0.5, 0.0], [-5.0, 0.0], [9.0, 9.0]], np.float32))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [15, 10, 40])
