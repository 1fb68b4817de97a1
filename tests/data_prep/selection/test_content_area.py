"""Content area of synthetic endoscopes and of a real one."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from cv2.typing import MatLike as Image

from data_prep.selection import content_area
from data_prep.selection.content_area import erode_mask, resize_mask, working_size
from pipeline.errors import LumenError
from videos import SIZE, disc_mask, endoscopic_frames, overlap


def find_content_area(frames: Sequence[Image]) -> Image:
    """The content area of frames with a constant one."""
    area, is_steady = content_area.find_content_area(frames)
    assert is_steady
    return area


def octagon() -> Image:
    corners = np.array([[70, 8], [250, 8], [302, 60], [302, 180], [250, 232], [70, 232], [18, 180], [18, 60]])
    return cv2.fillPoly(np.zeros(SIZE[::-1], np.uint8), [corners.astype(np.int32)], (255.0,))


def rounded_rectangle() -> Image:
    small = cv2.rectangle(np.zeros(SIZE[::-1], np.uint8), (50, 40), (270, 200), (255.0,), cv2.FILLED)
    return cv2.dilate(small, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (61, 61)))


def full_frame() -> Image:
    return np.full(SIZE[::-1], 255, np.uint8)


def touching_the_frame() -> Image:
    return disc_mask(radius_px=150)


SHAPES = {
    "round": disc_mask,
    "octagonal": octagon,
    "rounded rectangle": rounded_rectangle,
    "full frame": full_frame,
    "cut off by the frame": touching_the_frame,
}


def write_text(frames: Sequence[Image], text: str, origin: tuple[int, int]) -> list[Image]:
    return [
        cv2.putText(frame.copy(), text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1) for frame in frames
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_is_detected(shape: str) -> None:
    mask = SHAPES[shape]()
    assert overlap(find_content_area(endoscopic_frames(40, mask=mask)), mask) >= 0.98


@pytest.mark.parametrize("shape", ["round", "octagonal", "rounded rectangle"])
def test_text_outside_the_content_is_excluded(shape: str) -> None:
    mask = SHAPES[shape]()
    frames = write_text(endoscopic_frames(40, mask=mask), "DOE, JANE 1970-01-01", (2, 12))
    frames = write_text(frames, "12:34:56", (250, 236))
    found = find_content_area(frames)
    assert overlap(found, mask) >= 0.97
    # Letters that touch the content cannot be separated from it near its edge.
    assert (found[:14, :160] > mask[:14, :160]).sum() < 150


def test_running_clock_is_excluded() -> None:
    frames = [
        write_text([frame], f"00:{i:02d}:{7 * i % 60:02d}", (4, 14))[0] for i, frame in enumerate(endoscopic_frames(40))
    ]
    assert overlap(find_content_area(frames), disc_mask()) >= 0.97


def test_black_frames_are_ignored() -> None:
    frames = endoscopic_frames(40)
    black = [np.zeros_like(frames[0])] * 60
    assert overlap(find_content_area([*black, *frames]), disc_mask()) >= 0.98


def test_dark_parts_of_the_scene_are_inside() -> None:
    frames = [cv2.circle(frame, (160, 120), 50, (6.0, 6.0, 9.0), cv2.FILLED) for frame in endoscopic_frames(40)]
    found = find_content_area(frames)
    assert found[120, 160] == 255
    assert overlap(found, disc_mask()) >= 0.98


def test_dim_border_and_noise_are_outside() -> None:
    rng = np.random.default_rng(0)
    frames = [
        np.clip(f.astype(int) + 14 + rng.normal(0, 3, f.shape), 0, 255).astype(np.uint8) for f in endoscopic_frames(40)
    ]
    assert overlap(find_content_area(frames), disc_mask()) >= 0.97


def test_glow_of_saturated_tissue_is_outside() -> None:
    mask = disc_mask()
    frames = []
    for frame in endoscopic_frames(40):
        frame[150:, 190:] = cv2.bitwise_and(np.full_like(frame, 250), frame * 0 + 255, mask=mask)[150:, 190:]
        glow = cv2.GaussianBlur(frame, (0, 0), 14) // 4
        frames.append(np.maximum(frame, glow))
    assert overlap(find_content_area(frames), mask) >= 0.97


def test_all_black_and_static_overlay_only() -> None:
    black = [np.zeros((240, 320, 3), np.uint8)] * 20
    with pytest.raises(LumenError, match="every frame is black"):
        find_content_area(black)
    with pytest.raises(LumenError, match="no content area|is black"):
        find_content_area(write_text(black, "NO SIGNAL", (100, 120)))
    with pytest.raises(LumenError, match="no frames"):
        find_content_area([])


def test_single_frame_has_a_content_area() -> None:
    assert overlap(find_content_area(endoscopic_frames(1)), disc_mask()) >= 0.97


def test_static_bright_border_is_outside() -> None:
    white = np.full((240, 320, 3), 240, np.uint8)
    mask = disc_mask()[..., None] > 0
    assert (
        overlap(find_content_area([np.where(mask, frame, white) for frame in endoscopic_frames(40)]), disc_mask())
        >= 0.97
    )


def test_zoom_is_detected() -> None:
    small = disc_mask(radius_px=70)
    frames = [*endoscopic_frames(30), *endoscopic_frames(30, seed=3, mask=small)]
    assert not content_area.find_content_area(frames)[1]


def test_erosion_moves_the_edge_by_the_margin() -> None:
    eroded = erode_mask(disc_mask(radius_px=100), 7)
    assert overlap(eroded, disc_mask(radius_px=93)) > 0.98
    assert erode_mask(full_frame(), 3)[:3].max() == 0
    assert erode_mask(full_frame(), 3)[3:-3, 3:-3].min() == 255


def test_resizing_keeps_the_shape() -> None:
    large = resize_mask(disc_mask(), 960, 720)
    assert overlap(large, disc_mask((960, 720), 330)) > 0.99
    assert set(np.unique(large)) == {0, 255}


@pytest.mark.parametrize(
    "size, expected", [((640, 512), (640, 512)), ((1920, 1080), (960, 540)), ((3840, 2160), (960, 540))]
)
def test_working_size_is_an_integer_fraction(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(*size) == expected
