"""DDL's image geometry: sizes, positions, and behaviour at the edges."""

import cv2
import numpy as np
import pytest

from descriptor.network_frame import NetworkFrame, common_size, fitting_downsampling
from pipeline.errors import LumenError


def disc(width: int, height: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def test_a_round_content_area_of_1080p_gives_the_published_size() -> None:
    mask = disc(1920, 1080, 330, 60, 1590, 1024)
    assert common_size([mask], 4.0, 64) == (256, 320)


def test_the_largest_content_area_decides_in_each_direction() -> None:
    wide, high = disc(800, 600, 0, 200, 800, 260), disc(800, 600, 300, 0, 420, 600)
    assert common_size([wide], 4.0, 32) == (32, 224)
    assert common_size([wide, high], 4.0, 32) == (160, 224)


def test_the_frame_is_centred_on_the_content_and_stays_inside_the_image() -> None:
    frame = NetworkFrame.of_mask(disc(800, 600, 400, 200, 480, 280), 4.0, (64, 64))
    assert frame.origin == (110 - 32, 60 - 32)
    corner = NetworkFrame.of_mask(disc(800, 600, 0, 0, 80, 80), 4.0, (64, 64))
    assert corner.origin == (0, 0)
    other = NetworkFrame.of_mask(disc(800, 600, 720, 520, 800, 600), 4.0, (64, 64))
    assert other.origin == (200 - 64, 150 - 64)


def test_a_frame_larger_than_the_image_is_black_around_it() -> None:
    frame = NetworkFrame.of_mask(disc(200, 100, 0, 0, 200, 100), 2.0, (64, 128))
    image = np.full((100, 200, 3), 200, np.uint8)
    small = frame.cut(image)
    assert small.shape == (64, 128, 3)
    assert (small[7:57, 14:114] == 200).all()
    assert small.sum() == 50 * 100 * 3 * 200
    assert frame.cut_mask(np.full((100, 200), 255, np.uint8)).sum() == 50 * 100


def test_pixel_conversions_are_inverse_and_match_the_cut_image() -> None:
    frame = NetworkFrame.of_mask(disc(801, 603, 300, 200, 500, 400), 4.0, (64, 64))
    pixels = np.random.default_rng(0).uniform(0, 600, (50, 2))
    np.testing.assert_allclose(frame.image_from_network(frame.network_from_image(pixels)), pixels, atol=1e-9)
    # A bright square of 8 px around a position stays centred on its mapped pixel.
    image = np.zeros((603, 801, 3), np.uint8)
    image[300:308, 360:368] = 255
    rows, columns = np.nonzero(frame.cut(image)[..., 0] > 0)
    weights = frame.cut(image)[rows, columns, 0].astype(float)
    centre = np.average(np.column_stack([columns, rows]) + 0.5, axis=0, weights=weights)
    np.testing.assert_allclose(frame.network_from_image(np.array([364.0, 304.0])), centre, atol=0.03)


def test_a_pixel_partly_outside_the_content_is_not_tissue() -> None:
    mask = disc(400, 400, 42, 40, 361, 360)
    tissue = NetworkFrame.of_mask(mask, 4.0, (96, 96)).cut_mask(mask)
    assert tissue.sum() == 79 * 80


def test_an_empty_mask_and_an_image_of_another_size_are_refused() -> None:
    with pytest.raises(LumenError, match="no tissue"):
        common_size([np.zeros((100, 100), np.uint8)], 4.0, 32)
    frame = NetworkFrame.of_mask(disc(400, 400, 0, 0, 400, 400), 4.0, (96, 96))
    with pytest.raises(LumenError, match="200x100 pixels, the other frames have 400x400"):
        frame.cut(np.zeros((100, 200, 3), np.uint8))


@pytest.mark.parametrize(
    "mask",
    [disc(1920, 1080, 430, 40, 1490, 1028), disc(640, 512, 80, 16, 560, 496), disc(1920, 1080, 0, 0, 1920, 1080)],
)
def test_the_smallest_downsampling_within_a_number_of_pixels_is_found(mask: np.ndarray) -> None:
    found = fitting_downsampling(mask, 32, 9216)
    fitted, larger = (np.prod(common_size([mask], each, 32)) for each in (found, found - 0.1))
    assert fitted <= 9216 < larger


def test_a_round_content_area_is_fitted() -> None:
    mask = np.zeros((1080, 1920), np.uint8)
    cv2.circle(mask, (960, 540), 500, 255, -1)
    assert common_size([mask], fitting_downsampling(mask, 32, 9216), 32) == (96, 96)


def test_a_small_frame_is_not_downsampled_and_too_few_pixels_are_refused() -> None:
    mask = np.full((60, 60), 255, np.uint8)
    assert fitting_downsampling(mask, 32, 9216) == 1.0
    with pytest.raises(LumenError, match="choose 1024 or more"):
        fitting_downsampling(mask, 32, 1000)
