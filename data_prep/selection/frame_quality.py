"""Frame quality: sharpness, exposure, highlights, colour, and motion relative to earlier frames."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from cv2.typing import MatLike as Image
from cv2.typing import MatLike as Mask

from data_prep.selection.content_area import working_size
from data_prep.selection.view_matching import Keypoints, count_shared_places, find_keypoints

_FLOW_WIDTH = 320
_CONSISTENT_PX = 2.0
_UNEXPLAINED_SHARE = 0.7
_NOISE_LOG2 = 0.03
_BLOCK_PX = 16
_BLACK_LUMA = 16
_WHITE_LUMA = 250
DARK_SHARE = 0.9
DARK_EXPOSURE = 12.0
WHITE_SHARE = 0.6
# Levels of the weakest colour, 0..255; radius and rim are fractions of the shorter side.
_NEARLY_WHITE = 225
_HIGHLIGHT_WHITENESS = 110
_HIGHLIGHT_CONTRAST = 45
_HIGHLIGHT_RADIUS = 0.03
_HIGHLIGHT_RIM = 0.005
# Below this share of tracked pixels, keypoints are matched too, because flow fails under large motion between frames;
# and the frame before the last is compared, because a single bad frame is not a cut.
DOUBTFUL_CONTINUITY = 0.5


@dataclass(frozen=True, slots=True)
class FrameQuality:
    """Measurements of one frame, inside the content area.

    Attributes:
        index, timestamp_s: those of the frame.
        sharpness: variance of the Laplacian of luma (Pech-Pacheco et al., ICPR 2000) outside highlights, >= 0.
        exposure: mean luma, 0..255.
        black, saturated: shares of pixels with luma below 16, and of 250 or more, 0..1.
        highlights: share of pixels on specular highlights, 0..1.
        red, blue: log2 of mean red and of mean blue over mean green: the colour of the frame.
        change: largest mean luma difference of a 16x16 block to the previous frame, 0..255; 255 for the first frame.
        motion_px: median optical flow from the same frame as `continuity`, px of the source; 0 for the first frame.
        continuity: share of pixels that optical flow tracks with forward-backward consistency from the last frame that
            is neither dark, white nor damaged, 0..1; 1 for the first frame.
        skip_continuity: the same from the frame before that one if `continuity` is doubtful, otherwise None.
        damaged: the decoder concealed missing data in the frame.
        shared_places: number of places, by keypoint matching, shared with the frame that `continuity` refers to if
            `continuity` is doubtful, otherwise None.
        skip_shared_places: the same for `skip_continuity`.
    """

    index: int
    timestamp_s: float
    sharpness: float
    exposure: float
    black: float
    saturated: float
    highlights: float
    red: float
    blue: float
    change: float
    motion_px: float
    continuity: float
    skip_continuity: float | None
    damaged: bool
    shared_places: int | None = None
    skip_shared_places: int | None = None

    @property
    def is_dark(self) -> bool:
        """Almost nothing is lit."""
        return self.black > DARK_SHARE or self.exposure < DARK_EXPOSURE

    @property
    def is_white(self) -> bool:
        """Most of it is saturated."""
        return self.saturated > WHITE_SHARE


class QualityMeter:
    """Measures consecutive frames; holds three frames at working size, for videos of any length.

    Args:
        mask: (h, w) uint8, the content area at working size, 255 inside.
        source_width: width of the source's frames, px; the unit of `motion_px`.
    """

    def __init__(self, mask: Mask, source_width: int) -> None:
        self._mask = mask
        self._views = _ViewFollower(mask, source_width)
        self._previous_luma: Mask | None = None

    def measure(self, index: int, timestamp_s: float, image: Image, damaged: bool) -> FrameQuality:
        """Measure the next frame; `image` is (h, w, 3) uint8 BGR at working size."""
        luma = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        highlights = find_highlights(image, self._mask)
        clear_mask = cv2.subtract(self._mask, highlights)
        laplacian_std = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S), mask=clear_mask)[1]
        blue, green, red, _ = np.log2(np.asarray(cv2.mean(image, clear_mask)) + 1)
        counts = cv2.calcHist([luma], [0], self._mask, [256], [0, 256]).ravel()
        shares = counts / max(1.0, float(counts.sum()))
        motion = self._views.follow(luma)
        quality = FrameQuality(
            index=index,
            timestamp_s=timestamp_s,
            sharpness=round(float(laplacian_std[0, 0]) ** 2, 3),
            exposure=round(float(shares @ np.arange(256)), 2),
            black=round(float(shares[:_BLACK_LUMA].sum()), 4),
            saturated=round(float(shares[_WHITE_LUMA:].sum()), 4),
            highlights=round(cv2.countNonZero(highlights) / max(1, cv2.countNonZero(self._mask)), 4),
            red=round(float(red - green), 3),
            blue=round(float(blue - green), 3),
            change=round(self._largest_block_change(luma), 3),
            motion_px=round(motion.motion_px, 2),
            continuity=round(motion.continuity, 3),
            skip_continuity=None if motion.skip_continuity is None else round(motion.skip_continuity, 3),
            damaged=damaged,
            shared_places=motion.shared_places,
            skip_shared_places=motion.skip_shared_places,
        )
        if not (quality.is_dark or quality.is_white or damaged):
            self._views.remember()
        self._previous_luma = luma
        return quality

    def _largest_block_change(self, luma: Mask) -> float:
        if self._previous_luma is None:
            return 255.0
        difference = cv2.bitwise_and(cv2.absdiff(luma, self._previous_luma), self._mask)
        return float(cv2.boxFilter(difference, cv2.CV_32F, (_BLOCK_PX, _BLOCK_PX)).max())


def weakest_colour(image: Image) -> Image:
    """(H, W) uint8: the minimum over the colour channels of (H, W, 3)."""
    blue, green, red = cv2.split(image)
    return cv2.min(cv2.min(blue, green), red)


def find_highlights(image: Image, mask: Mask) -> Mask:
    """Specular highlights: pixels that are nearly white, and small spots much whiter than the surrounding tissue.

    Tissue reflects little blue and green, so the weakest colour of a pixel measures its whiteness. A white top-hat
    keeps spots that stand out from their surroundings and ignores pale, well-lit tissue.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (H, W) uint8, content area, 255 inside.

    Returns:
        (H, W) uint8, 255 on highlights and a small rim around them, 0 elsewhere and outside the content area.
    """
    height, width = mask.shape
    small_size = working_size(width, height)
    small = image if small_size == (width, height) else cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask, small_size, interpolation=cv2.INTER_NEAREST) > 0
    whiteness = weakest_colour(small)
    shorter = min(small_size)
    surround = np.ones((2 * round(_HIGHLIGHT_RADIUS * shorter) + 1,) * 2, np.uint8)
    # Masked opening: pixels outside the content area have no influence.
    darkest = np.where(inside, cv2.erode(np.where(inside, whiteness, 255).astype(np.uint8), surround), 0)
    spot = cv2.subtract(whiteness, cv2.dilate(darkest.astype(np.uint8), surround))
    shiny = (whiteness >= _NEARLY_WHITE) | ((spot > _HIGHLIGHT_CONTRAST) & (whiteness > _HIGHLIGHT_WHITENESS))
    rim = max(1, round(_HIGHLIGHT_RIM * shorter))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
    found = cv2.dilate((shiny & inside).astype(np.uint8) * 255, kernel)
    if small_size != (width, height):
        found = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.bitwise_and(found, mask)


class _View:
    """A reference frame for comparison: luma at working size and at flow size, and keypoints."""

    def __init__(self, luma: Image, mask: Mask, flow_size: tuple[int, int]) -> None:
        self.small = cv2.resize(luma, flow_size, interpolation=cv2.INTER_AREA)
        self._luma, self._mask = luma, mask

    @cached_property
    def keypoints(self) -> Keypoints:
        return find_keypoints(self._luma, self._mask)

    def shared_places(self, other: "_View") -> int:
        return count_shared_places(other.keypoints, self.keypoints, float(np.hypot(*self._mask.shape)))


@dataclass(frozen=True)
class _Motion:
    """The fields of `FrameQuality` that compare a frame with earlier ones."""

    motion_px: float = 0.0
    continuity: float = 1.0
    skip_continuity: float | None = None
    shared_places: int | None = None
    skip_shared_places: int | None = None


class _ViewFollower:
    """Dense optical flow (DIS) between small frames with a forward-backward check; keypoints if flow is doubtful."""

    def __init__(self, mask: Mask, source_width: int) -> None:
        height, width = mask.shape
        longest = max(width, height)
        self._mask = mask
        self._size = working_size(width, height, _FLOW_WIDTH) if longest > _FLOW_WIDTH else (width, height)
        self._inside = cv2.resize(mask, self._size, interpolation=cv2.INTER_AREA) > 254
        self._px_per_cell = source_width / self._size[0]
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        columns, rows = np.meshgrid(np.arange(self._size[0]), np.arange(self._size[1]))
        self._grid = np.dstack([columns, rows]).astype(np.float32)
        self._last: _View | None = None
        self._before_last: _View | None = None

    def follow(self, luma: Image) -> _Motion:
        """Compare a frame with the remembered frames."""
        self._current = view = _View(luma, self._mask, self._size)
        last, before_last = self._last, self._before_last
        if last is None:
            return _Motion()
        motion_px, continuity = self._compare(view.small, last.small)
        if continuity >= DOUBTFUL_CONTINUITY:
            return _Motion(motion_px, continuity)
        shared = view.shared_places(last)
        if before_last is None:
            return _Motion(motion_px, continuity, None, shared)
        skip_continuity = self._compare(view.small, before_last.small)[1]
        return _Motion(motion_px, continuity, skip_continuity, shared, view.shared_places(before_last))

    def remember(self) -> None:
        """Use the last compared frame as the reference for the next one."""
        self._before_last, self._last = self._last, self._current

    def _compare(self, frame: Mask, reference: Mask) -> tuple[float, float]:
        forward = self._flow.calc(frame, reference, None)  # type: ignore[call-overload]
        backward = self._flow.calc(reference, frame, None)  # type: ignore[call-overload]
        target = self._grid + forward
        returned = cv2.remap(
            backward, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1e3, 1e3)
        )  # type: ignore[call-overload]
        error_px = np.linalg.norm(forward + returned, axis=2)
        warped = cv2.remap(reference, target, None, cv2.INTER_LINEAR)  # type: ignore[call-overload]
        detail = _detail(frame)
        # Relative to the frame's contrast: faint tissue differs little from other faint tissue.
        tolerance = max(_NOISE_LOG2, _UNEXPLAINED_SHARE * float(detail[self._inside].std()))
        followed = (error_px < _CONSISTENT_PX) & (np.abs(detail - _detail(warped)) < tolerance)
        motion = np.median(np.linalg.norm(forward[self._inside], axis=1)) * self._px_per_cell
        return float(motion), float(followed[self._inside].mean())


def _detail(luma: Mask) -> Image:
    """log2 of luma minus its local mean, which is invariant to exposure and lighting."""
    logarithm = np.log2(luma.astype(np.float32) + 8)
    return logarithm - cv2.GaussianBlur(logarithm, (0, 0), 6)
