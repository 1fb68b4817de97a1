"""Keypoints decide whether two frames show the same place, under any camera motion."""

import cv2
import numpy as np
import pytest
from cv2.typing import MatLike as Image

from data_prep.selection.view_matching import count_shared_places, find_keypoints
from videos import disc_mask, tissue

MASK = disc_mask()


def view(scene: Image, turn_deg: float = 0.0, zoom: float = 1.0, shift_px: tuple[float, float] = (0, 0)) -> Image:
    matrix = cv2.getRotationMatrix2D((320 + shift_px[0], 240 + shift_px[1]), turn_deg, zoom)
    matrix[:, 2] -= (160 + shift_px[0], 120 + shift_px[1])
    seen = cv2.warpAffine(cv2.cvtColor(scene, cv2.COLOR_BGR2GRAY), matrix, (320, 240))
    return cv2.bitwise_and(seen, seen, mask=MASK)


def shared_places(first: Image, second: Image) -> int:
    keypoints = [find_keypoints(image, MASK) for image in (first, second)]
    return count_shared_places(*keypoints, diagonal_px=400)


@pytest.mark.parametrize(
    "motion", [{"shift_px": (90, 30)}, {"turn_deg": 70.0}, {"zoom": 1.7}, {"turn_deg": -25.0, "shift_px": (-60, 40)}]
)
def test_view_is_recognised_after_large_motion(motion: dict) -> None:
    scene = tissue()
    assert shared_places(view(scene), view(scene, **motion)) >= 20


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_different_places_share_almost_nothing(seed: int) -> None:
    assert shared_places(view(tissue(0)), view(tissue(seed))) <= 6


def test_frame_without_features_shares_nothing() -> None:
    empty = np.zeros(MASK.shape, np.uint8)
    assert shared_places(empty, view(tissue())) == shared_places(empty, empty) == 0


def test_corner_with_many_keypoints_is_one_place() -> None:
    spot = np.zeros(MASK.shape, np.uint8)
    cv2.rectangle(spot, (150, 110), (160, 116), 200, cv2.FILLED)
    spot[113:, 155:158] = 90
    assert shared_places(spot, spot) <= 9
