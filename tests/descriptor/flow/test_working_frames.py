"""Working frames: mapping of their pixels to the frame, and masks of allowed points."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from descriptor.flow.working_frames import WorkingFrames
from pipeline.conventions import WORKING_SIZE_PX
from pipeline.paths import SequencePaths

INDEX = 12
# Column, row, width, height of the content area, and width and height of the frame: at full size, and downsampled by a
# non-integer factor.
SMALL = ((13, 7, 241, 187), (270, 211))
LARGE = ((31, 17, 971, 723), (1023, 771))
MARGIN_PX = 3


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    left, top, width, height = box
    mask = np.zeros(size[::-1], np.uint8)
    mask[top : top + height, left : left + width] = 255
    return mask


def one_frame(folder: Path, image: np.ndarray, mask: np.ndarray, own_mask: np.ndarray | None = None) -> WorkingFrames:
    paths = SequencePaths(folder)
    paths.images.mkdir()
    cv2.imwrite(str(paths.image(INDEX)), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    if own_mask is not None:
        paths.frame_masks.mkdir()
        cv2.imwrite(str(paths.frame_mask(INDEX)), own_mask)
    return WorkingFrames(paths, [INDEX], mask)


def dots(centers: np.ndarray, sigma_px: float, size: tuple[int, int]) -> np.ndarray:
    """Round bright dots centred at positions (N, 2), COLMAP's convention."""
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    light = np.zeros(size[::-1])
    for x, y in centers:
        light += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma_px**2))
    return np.dstack([np.round(40 + 180 * light).astype(np.uint8)] * 3)


def center_of_dot(image: np.ndarray, near: np.ndarray, radius: int = 5) -> np.ndarray:
    """The centre of mass of bright pixels, OpenCV's convention."""
    column, row = np.round(near).astype(int)
    around = image[row - radius : row + radius + 1, column - radius : column + radius + 1].astype(float)
    weight = np.maximum(around - np.median(around), 0)
    offset = np.arange(-radius, radius + 1)
    return np.array(
        [column + weight.sum(axis=0) @ offset / weight.sum(), row + weight.sum(axis=1) @ offset / weight.sum()]
    )


@pytest.mark.parametrize(("box", "size"), [SMALL, LARGE])
def test_working_pixels_map_back_to_the_frame(
    tmp_path: Path, box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    left, top, width, height = box
    lattice = np.stack(np.meshgrid(np.linspace(0.1, 0.9, 6), np.linspace(0.1, 0.9, 5)), axis=-1).reshape(-1, 2)
    centers = [left, top] + lattice * [width, height] + rng.uniform(-2, 2, lattice.shape)
    factor = min(1.0, WORKING_SIZE_PX / max(width, height))
    frames = one_frame(tmp_path, dots(centers, 2 / factor, size), box_mask(box, size))
    frame = frames[0]
    assert frame is not None and frame.image.shape == frame.mask.shape == frames.size[::-1]
    near = (centers - [left, top]) * factor - 0.5
    found = np.array([center_of_dot(frame.image, each) for each in near], np.float32)
    error_px = frames.colmap_from_working(found) - centers
    np.testing.assert_allclose(np.median(error_px, axis=0), 0, atol=0.1)
    np.testing.assert_allclose(error_px, 0, atol=0.4 / factor)


@pytest.mark.parametrize(("box", "size"), [SMALL, LARGE])
def test_the_corners_of_the_working_frame_are_those_of_the_content_area(
    tmp_path: Path, box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    left, top, width, height = box
    frames = WorkingFrames(SequencePaths(tmp_path), [], box_mask(box, size))
    assert max(frames.size) == min(WORKING_SIZE_PX, max(width, height))
    # Outer corners of the first and the last pixel.
    corners = np.array([[0, 0], frames.size], np.float32) - 0.5
    expected = [[left, top], [left + width, top + height]]
    np.testing.assert_allclose(frames.colmap_from_working(corners), expected, atol=1e-3)


def test_no_points_on_highlights_or_at_edges(tmp_path: Path) -> None:
    box, size = SMALL
    left, top, width, height = box
    content, own = box_mask(box, size), np.full(size[::-1], 255, np.uint8)
    own[80:100, 120:150] = 0
    texture = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    frame = one_frame(tmp_path, texture, content, own)[0]
    assert frame is not None
    expected = np.zeros((height, width), bool)
    expected[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = True
    columns, rows = np.meshgrid(np.arange(width) + left, np.arange(height) + top)
    gap_px = np.hypot(columns - np.clip(columns, 120, 149), rows - np.clip(rows, 80, 99))
    # A disc of pixels is round to half a pixel only.
    assert not frame.mask[(gap_px < MARGIN_PX - 0.5) | ~expected].any()
    assert (frame.mask[(gap_px > MARGIN_PX + 0.5) & expected] == 255).all()


def test_an_unreadable_frame_is_none(tmp_path: Path) -> None:
    box, size = SMALL
    assert WorkingFrames(SequencePaths(tmp_path), [INDEX], box_mask(box, size))[0] is None


@pytest.mark.parametrize("value", [0, 255])
def test_no_points_in_a_frame_without_texture(tmp_path: Path, value: int) -> None:
    box, size = SMALL
    content = box_mask(box, size)
    frame = one_frame(tmp_path, np.full((*size[::-1], 3), value, np.uint8), content, content)[0]
    assert frame is not None and not frame.mask.any()
