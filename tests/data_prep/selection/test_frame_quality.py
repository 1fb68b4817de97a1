"""Frame measurements: each responds to its property only."""

import cv2
import numpy as np
import pytest
from cv2.typing import MatLike as Image

from data_prep.selection.frame_quality import FrameQuality, QualityMeter, find_highlights
from videos import disc_mask, endoscopic_frames, tissue

MASK = disc_mask()


def measure(*frames: Image) -> list[FrameQuality]:
    meter = QualityMeter(MASK, source_width=MASK.shape[1])
    return [meter.measure(index, index / 30, frame, damaged=False) for index, frame in enumerate(frames)]


def test_blur_lowers_sharpness() -> None:
    frame = endoscopic_frames(1)[0]
    sharp, soft = measure(frame)[0], measure(cv2.GaussianBlur(frame, (0, 0), 3))[0]
    assert soft.sharpness < 0.3 * sharp.sharpness


def test_pixels_outside_the_content_have_no_influence() -> None:
    frame = endoscopic_frames(1)[0]
    noisy = frame.copy()
    noisy[MASK == 0] = np.random.default_rng(0).integers(0, 255, ((MASK == 0).sum(), 3))
    plain, disturbed = measure(frame)[0], measure(noisy)[0]
    assert abs(plain.exposure - disturbed.exposure) < 1
    assert plain.black == disturbed.black
    assert plain.highlights == disturbed.highlights


def test_exposure_black_and_saturated() -> None:
    frame = endoscopic_frames(1)[0]
    dark, white = measure(np.zeros_like(frame))[0], measure(np.full_like(frame, 255))[0]
    assert (dark.exposure, dark.black, dark.saturated) == (0, 1, 0)
    assert (white.exposure, white.black, white.saturated) == (255, 0, 1)


def test_colour_distinguishes_tissue_from_a_grey_room() -> None:
    tissue_frame = endoscopic_frames(1)[0]
    grey = cv2.cvtColor(cv2.cvtColor(tissue_frame, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert measure(tissue_frame)[0].red > 0.6
    assert abs(measure(grey)[0].red) < 0.05


def test_motion_is_in_source_pixels() -> None:
    scene = tissue(size=(640, 480))
    views = [cv2.bitwise_and(v, v, mask=MASK) for v in (scene[100:340, 100:420], scene[103:343, 104:424])]
    measured = measure(*views)[1]
    assert abs(measured.motion_px - 5) < 0.4
    assert measured.continuity > 0.85
    doubled = QualityMeter(MASK, source_width=2 * MASK.shape[1])
    assert abs([doubled.measure(i, i, v, False) for i, v in enumerate(views)][1].motion_px - 10) < 0.8


def test_exposure_change_keeps_continuity() -> None:
    first, second = endoscopic_frames(2)
    assert measure(first, cv2.convertScaleAbs(second, alpha=0.6))[1].continuity > 0.9


def test_another_scene_breaks_continuity_and_one_bad_frame_is_skipped() -> None:
    here, there = endoscopic_frames(2), endoscopic_frames(1, seed=9)
    measured = measure(here[0], there[0], here[1])
    assert measured[1].continuity < 0.3
    assert measured[2].continuity < 0.3
    assert measured[2].skip_continuity is not None
    assert measured[2].skip_continuity > 0.9


@pytest.mark.parametrize("level", [0, 20, 255])
def test_continuity_bridges_black_and_white_frames(level: int) -> None:
    here, there = endoscopic_frames(2), endoscopic_frames(1, seed=4)
    bad = np.full_like(here[0], level) if level != 20 else here[0] // 12
    assert measure(here[0], bad, here[1])[2].continuity > 0.9
    assert measure(here[0], bad, there[0])[2].continuity < 0.35


def test_repeated_frame_has_no_change() -> None:
    frame, following = endoscopic_frames(2)
    measured = measure(frame, frame, following)
    assert [quality.change > 2 for quality in measured] == [True, False, True]


def test_highlights_are_small_white_spots_not_pale_tissue() -> None:
    frame = endoscopic_frames(1)[0]
    frame = cv2.circle(frame, (130, 100), 5, (235.0, 240.0, 250.0), cv2.FILLED)
    pale = np.zeros(MASK.shape, np.float32)
    cv2.circle(pale, (210, 150), 40, (1.0,), cv2.FILLED)
    pale = cv2.GaussianBlur(pale, (0, 0), 15)[..., None]
    frame = (frame * (1 - pale) + np.array([150, 170, 225]) * pale).astype(np.uint8)
    found = find_highlights(frame, MASK)
    assert found[100, 130] == 255
    assert found[150, 210] == 0
    assert found[MASK == 0].max() == 0
    assert 60 < (found > 0).sum() < 500


def test_saturated_areas_of_any_size_are_highlights() -> None:
    frame = endoscopic_frames(1)[0]
    frame[60:180, 100:200] = 252
    assert find_highlights(frame, MASK)[70:170, 110:190].min() == 255
