"""Reading frames and masks of a sequence: intact, missing, damaged or of the wrong size."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.data.sequence_images import read_frame, read_frame_mask
from pipeline.errors import LumenError
from pipeline.paths import SequencePaths

SIZE = (48, 32)


@pytest.fixture
def paths(tmp_path: Path) -> SequencePaths:
    """A sequence of one frame, 7: blue on the left, red on the right."""
    paths = SequencePaths(tmp_path)
    paths.images.mkdir()
    paths.frame_masks.mkdir()
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    image[:, :24, 0] = image[:, 24:, 2] = 200
    cv2.imwrite(str(paths.image(7)), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return paths


def content_mask() -> np.ndarray:
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[4:28] = 255
    return mask


def test_a_frame_is_read_unchanged(paths: SequencePaths) -> None:
    image = read_frame(paths, 7, SIZE)
    assert image is not None and image.shape == (32, 48, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image[16, 8], [200, 0, 0], atol=4)
    np.testing.assert_allclose(image[16, 40], [0, 0, 200], atol=4)


def test_reading_a_missing_or_damaged_frame_returns_none(paths: SequencePaths) -> None:
    assert read_frame(paths, 8, SIZE) is None
    paths.image(7).write_bytes(paths.image(7).read_bytes()[:20])
    assert read_frame(paths, 7, SIZE) is None


def test_a_frame_of_the_wrong_size_is_rejected(paths: SequencePaths) -> None:
    with pytest.raises(LumenError, match="00000007.jpg has 48x32 pixels, the sequence has 32x48"):
        read_frame(paths, 7, SIZE[::-1])


def test_the_content_area_is_the_mask_of_a_frame_without_one(paths: SequencePaths) -> None:
    np.testing.assert_array_equal(read_frame_mask(paths, 7, content_mask()), content_mask())


def test_the_mask_of_a_frame_is_limited_to_the_content_area(paths: SequencePaths) -> None:
    own = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    own[:, 10:20] = 255
    cv2.imwrite(str(paths.frame_mask(7)), own)
    expected = np.zeros_like(own)
    expected[4:28, 10:20] = 255
    np.testing.assert_array_equal(read_frame_mask(paths, 7, content_mask()), expected)
    np.testing.assert_array_equal(read_frame_mask(paths, 8, content_mask()), content_mask())


def test_a_damaged_mask_is_rejected(paths: SequencePaths) -> None:
    paths.frame_mask(7).write_bytes(b"hello")
    with pytest.raises(LumenError, match=r"00000007.jpg.png is not an image"):
        read_frame_mask(paths, 7, content_mask())


def test_a_mask_of_the_wrong_size_is_rejected(paths: SequencePaths) -> None:
    cv2.imwrite(str(paths.frame_mask(7)), np.full((48, 32), 255, np.uint8))
    with pytest.raises(LumenError, match="00000007.jpg.png has 32x48 pixels, the sequence has 48x32"):
        read_frame_mask(paths, 7, content_mask())
