"""Frame selection on videos of any frame rate, light and tissue colour, measured on their images."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from cv2.typing import MatLike as Image

from data_prep.phantom import PhantomConfig, build_phantom
from data_prep.selection.frame_choice import ChoiceRules, Segment, choose_frames
from data_prep.selection.frame_quality import QualityMeter
from videos import disc_mask, endoscopic_frames, tissue

RULES = ChoiceRules(
    stride=1,
    fps=None,
    max_frames=None,
    keep_all=False,
    min_sharpness=0.45,
    min_motion_px=0.2,
    min_segment_frames=5,
)
SIZE = (320, 256)
# Blue, green and red of the output, each a combination of blue, green and red.
NARROW_BAND = [[0.9, 0.25, 0.0], [0.35, 0.9, 0.0], [0.0, 0.55, 0.1]]
WHITISH = [[0.75, 0.2, 0.25], [0.35, 0.5, 0.3], [0.35, 0.3, 0.45]]


def choose(frames: Sequence[Image], mask: Image, fps: float) -> list[Segment]:
    meter = QualityMeter(mask, mask.shape[1])
    qualities = [meter.measure(index, index / fps, frame, damaged=False) for index, frame in enumerate(frames)]
    return choose_frames(qualities, RULES, float(np.hypot(*mask.shape)))


def kept(segments: list[Segment]) -> list[int]:
    return [quality.index for segment in segments for quality in segment.kept]


def recolour(frame: Image, matrix: list[list[float]]) -> Image:
    return np.clip(cv2.transform(frame.astype(np.float32), np.array(matrix)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("anatomy", "fps", "frames"), [("sinus", 3, 26), ("sinus", 5, 20), ("colon", 3, 26), ("sinus", 120, 20)]
)
@pytest.mark.parametrize("cuts", [0, 1])
def test_phantom_is_split_at_its_cuts_at_any_frame_rate(anatomy: str, fps: float, frames: int, cuts: int) -> None:
    config = PhantomConfig(Path("unused"), anatomy, frames, seed=1, size=SIZE, fps=fps, cuts=cuts, depth=False)  # type: ignore[arg-type]
    phantom = build_phantom(config)
    images = [phantom.frame(index)[0] for index in range(frames)]
    mask = np.where(np.max(images, axis=(0, 3)) > 20, 255, 0).astype(np.uint8)
    segments = choose(images, cv2.erode(mask, np.ones((7, 7))), fps)
    true = [frame.segment for frame in phantom.truth.frames]
    assert [segment.verdicts[0].quality.index for segment in segments] == [true.index(i) for i in range(cuts + 1)]
    reasons = {verdict.reason for segment in segments for verdict in segment.verdicts}
    assert reasons <= ({None} if fps < 30 else {None, "no_motion"})


@pytest.mark.parametrize("fps", [5, 30])
@pytest.mark.parametrize("matrix", [NARROW_BAND, WHITISH])
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_tissue_is_kept_in_any_light_and_colour(matrix: list[list[float]], share: float, fps: float) -> None:
    frames = endoscopic_frames(40)
    first = round(share * len(frames))
    shown = frames[:first] + [recolour(frame, matrix) for frame in frames[first:]]
    segments = choose(shown, disc_mask(), fps)
    assert len(segments) == 1 and kept(segments) == list(range(40))


@pytest.mark.parametrize("place", [0, 20, 40])
@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0), (1.0, 0.8, 0.25), (0.7, 1.0, 0.4), (0.97, 1.0, 1.0)])
def test_out_of_body_frames_are_rejected(gains: tuple[float, ...], place: int) -> None:
    """A room, blue and green cloth, and a white cloth that is brighter than tissue."""
    shown, mask = endoscopic_frames(40), disc_mask()
    scene = cv2.cvtColor(tissue(7), cv2.COLOR_BGR2GRAY)
    if gains[0] == 0.97:
        scene = cv2.convertScaleAbs(scene, alpha=0.2, beta=190)
    outside = [cv2.bitwise_and(view, view, mask=mask) for view in views(scene, gains, 15)]
    segments = choose(shown[:place] + outside + shown[place:], mask, 30)
    assert kept(segments) == [*range(place), *range(place + 15, 55)]
    found = [verdict for segment in segments for verdict in segment.verdicts if "out_of_body" in verdict.flags]
    assert [verdict.quality.index for verdict in found] == list(range(place, place + 15))


def views(scene: Image, gains: tuple[float, ...], count: int) -> list[Image]:
    coloured = np.dstack([gain * scene for gain in gains]).astype(np.uint8)
    return [coloured[40 + 2 * i : 280 + 2 * i, 60 + 3 * i : 380 + 3 * i] for i in range(count)]


@pytest.mark.parametrize("contrast", [1.0, 0.3])
def test_noisy_high_frame_rate_video_is_thinned_out_not_dropped(contrast: float) -> None:
    """120 frames per second; a step is half a pixel, with noise of 1.5 levels."""
    rng, mask = np.random.default_rng(0), disc_mask()
    scene = cv2.GaussianBlur(tissue(3), (0, 0), 1.2).astype(np.float32)
    scene = contrast * (scene - scene.mean()) + scene.mean()
    frames = []
    for i in range(120):
        matrix = np.array([[1, 0, -100 - 0.4 * i], [0, 1, -80 - 0.3 * i]])
        view = cv2.warpAffine(scene, matrix, (320, 240)) + rng.normal(0, 1.5, (240, 320, 3))
        frames.append(
            cv2.bitwise_and(np.clip(view, 0, 255).astype(np.uint8), np.full_like(view, 255, np.uint8), mask=mask)
        )
    (segment,) = choose(frames, mask, 120)
    assert 25 <= len(segment.kept) <= 70
    assert np.diff([quality.index for quality in segment.kept]).max() <= 4
    assert {verdict.reason for verdict in segment.verdicts} == {None, "no_motion"}
