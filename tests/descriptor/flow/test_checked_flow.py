"""Point search in a rotated and scaled frame, where flow needs an approximate motion."""

import cv2
import numpy as np
import pytest

from descriptor.flow.checked_flow import PointSearch

SIZE = 256


def texture(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32)
    smooth = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 4.0))
    return np.clip(128 + 40 * (smooth - smooth.mean()) / smooth.std(), 0, 255).astype(np.uint8)


def rotated(angle_deg: float, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, its rotated and scaled copy, and the (2, 3) map of pixels between them."""
    image = texture()
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), angle_deg, scale)
    return image, cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderValue=128), matrix


def grid() -> np.ndarray:
    return (
        np.stack(np.meshgrid(np.arange(70, 190, 8), np.arange(70, 190, 8)), axis=-1).reshape(-1, 2).astype(np.float32)
    )


def motion_of(matrix: np.ndarray, offset: tuple[float, float]) -> np.ndarray:
    """The motion of every pixel, with an error of `offset`."""
    place = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).astype(np.float32)
    return (place @ matrix[:, :2].T + matrix[:, 2] - place + offset).astype(np.float32)


@pytest.mark.parametrize(("angle_deg", "scale"), [(40.0, 1.0), (0.0, 1.5), (-90.0, 0.8)])
def test_an_approximate_motion_is_refined(angle_deg: float, scale: float) -> None:
    image, other, matrix = rotated(angle_deg, scale)
    points, everywhere = grid(), np.full((SIZE, SIZE), 255, np.uint8)
    truth = points @ matrix[:, :2].T + matrix[:, 2]
    inside = ((truth > 10) & (truth < SIZE - 10)).all(axis=1)
    alone, places = PointSearch(image, points).advance(other, everywhere)
    assert (alone & (np.linalg.norm(places - truth, axis=1) < 1)).mean() < 0.3
    found, places = PointSearch(image, points).jump(other, everywhere, motion_of(matrix, (3.0, -2.0)))
    assert found[inside].mean() > 0.9
    error = np.linalg.norm(places - truth, axis=1)[found & inside]
    assert np.median(error) < 0.15 and np.quantile(error, 0.95) < 0.5


def test_points_that_land_outside_or_off_tissue_are_not_found() -> None:
    image, other, matrix = rotated(30.0, 1.0)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    motion = motion_of(matrix, (0.0, 0.0))
    found, places = PointSearch(image, grid()).jump(other, mask, motion)
    assert found.any() and (places[found, 0] < SIZE // 2 + 1).all()
    found, _ = PointSearch(image, grid()).jump(other, mask, motion + np.float32(10 * SIZE))
    assert not found.any()


def test_a_jump_does_not_affect_later_steps() -> None:
    image = texture()
    near = np.roll(image, 2, axis=1)
    everywhere = np.full((SIZE, SIZE), 255, np.uint8)
    search, fresh = PointSearch(image, grid()), PointSearch(image, grid())
    _, other, matrix = rotated(40.0, 1.0)
    search.jump(other, everywhere, motion_of(matrix, (0.0, 0.0)))
    after, places = search.advance(near, everywhere)
    known, truth = fresh.advance(near, everywhere)
    np.testing.assert_array_equal(after, known)
    np.testing.assert_array_equal(places, truth)


def test_all_points_of_a_frame_can_be_searched_at_once() -> None:
    image = texture()
    points = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 2).astype(np.float32)
    found, places = PointSearch(image, points).advance(np.roll(image, 1, axis=0), np.full((SIZE, SIZE), 255, np.uint8))
    assert len(found) == SIZE**2 and found.mean() > 0.9
    np.testing.assert_allclose(np.median(places[found] - points[found], axis=0), [0, 1], atol=0.05)
