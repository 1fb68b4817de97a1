"""Content area: the part of the frame that shows tissue, estimated from many frames.

Endoscopes show a round, octagonal or rectangular image in a dark border, often with text and symbols in the border.
Over time the image is lit and changes; the border stays dark and overlays stay constant.
"""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image
from cv2.typing import MatLike as Mask

from pipeline.arrays import Bools
from pipeline.errors import LumenError

# Levels are max(B, G, R), 0..255.
_BRIGHT_PERCENTILE = 90
_DARK_PERCENTILE = 10
_ABOVE_BORDER = 16
_BRIGHTEST_BORDER = 48
_STATIC_RANGE = 6
_BLACK_FRAME_LEVEL = 24
# Radii are fractions of the shorter side.
_OPENING = 0.02
_CLOSING = 0.03
_UNSURE_BAND = 0.08
_SURELY_LIT = 0.35
_SMALLEST_AREA = 0.05
_WHOLE_FRAME = 0.97
# A quarter of the video with a smaller overlap with the overall area is zoomed, or shows another image.
_PARTS = 4
_MIN_IN_PART = 6
_STEADY_OVERLAP = 0.75


def working_size(width: int, height: int, longest: int = 960) -> tuple[int, int]:
    """(width, height) divided by the smallest integer that makes the longer side at most `longest` px."""
    factor = -(-max(width, height) // longest)
    return max(1, width // factor), max(1, height // factor)


def find_content_area(samples: Iterable[Image]) -> tuple[Mask, bool]:
    """Estimate the content area from frames spread over the video.

    Args:
        samples: (H, W, 3) uint8 BGR frames in order, of equal size. Dark frames are ignored.

    Returns:
        (H, W) uint8, 255 inside the content area, 0 outside; one connected region without holes, with its true
        edge, not eroded. Also whether it is steady: False if part of the video shows a different area.

    Raises:
        LumenError: if every frame is black, or only static overlays are lit.
    """
    levels = [_strongest_colour(sample) for sample in samples]
    if not levels:
        raise LumenError("the source has no frames")
    brightness = np.array([np.percentile(level, 95) for level in levels])
    lit = brightness > max(_BLACK_FRAME_LEVEL, 0.25 * float(np.percentile(brightness, 75)))
    if not lit.any():
        raise LumenError("every frame is black: there is nothing to extract")
    stack = np.stack([level for level, is_lit in zip(levels, lit, strict=True) if is_lit])
    area, _ = _lit_area(stack)
    if area.mean() / 255 < _SMALLEST_AREA:
        raise LumenError("no content area found: almost all pixels are dark or never change")
    parts = np.array_split(stack, _PARTS) if len(stack) >= _PARTS * _MIN_IN_PART else []
    part_areas = [part_area for part_area, has_dark_border in map(_lit_area, parts) if has_dark_border]
    return area, all(_overlap(area, part_area) > _STEADY_OVERLAP for part_area in part_areas)


def erode_mask(mask: Mask, margin_px: int) -> Mask:
    """Move the mask's edge inwards by `margin_px`; the frame border counts as outside."""
    if margin_px == 0:
        return mask
    kernel = _disc(margin_px)
    eroded = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,))
    return eroded


def resize_mask(mask: Mask, width: int, height: int) -> Mask:
    """Resize a mask with a smooth edge: bilinear interpolation, then a threshold at half."""
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(resized >= 128, 255, 0).astype(np.uint8)


def _area_without_dark_border(changes: Bools) -> Mask:
    """The whole frame, unless it has a bright border that never changes."""
    area = _main_region(changes, changes)
    share = float(area.mean()) / 255
    return area if _SMALLEST_AREA < share < _WHOLE_FRAME else np.full(area.shape, 255, np.uint8)


def _strongest_colour(image: Image) -> Image:
    blue, green, red = cv2.split(image)
    return cv2.max(cv2.max(blue, green), red)


def _lit_area(stack: npt.NDArray[Any]) -> tuple[Mask, bool]:
    """The content area of lit frames, (N, H, W) uint8 levels, and whether it was separated from a dark border.

    Without a dark border only changes define it, and a short part of a video may show too few changes.
    """
    dark, bright = np.percentile(stack, (_DARK_PERCENTILE, _BRIGHT_PERCENTILE), axis=0).astype(np.float32)
    # Remove single noisy pixels and codec ringing next to bright edges.
    bright = cv2.medianBlur(bright.astype(np.uint8), 3)
    changes = bright - dark > _STATIC_RANGE
    border = float(np.percentile(bright, 2))
    if border > _BRIGHTEST_BORDER:
        return _area_without_dark_border(changes), False
    is_bright = bright > border + _ABOVE_BORDER
    return _snap_to_edge(_main_region(is_bright, changes), bright, border, changes), True


def _overlap(first: Mask, second: Mask) -> float:
    """Intersection over union."""
    shared, either = cv2.countNonZero(cv2.bitwise_and(first, second)), cv2.countNonZero(cv2.bitwise_or(first, second))
    return shared / max(1, either)


def _main_region(is_bright: Bools, changes: Bools) -> Mask:
    shorter = min(is_bright.shape)
    opening = _disc(max(1, round(_OPENING * shorter)))
    closing = _disc(max(1, round(_CLOSING * shorter)))
    live = (is_bright & changes).astype(np.uint8) * 255
    # A nearly static clip has too few changes; use all lit pixels instead.
    if live.mean() < 0.5 * 255 * is_bright.mean():
        live = is_bright.astype(np.uint8) * 255
    core = _largest_component(cv2.morphologyEx(live, cv2.MORPH_OPEN, opening))
    # Static lit pixels are content if connected to it (saturated tissue); the opening disconnects text.
    patches = cv2.morphologyEx(is_bright.astype(np.uint8) * 255, cv2.MORPH_OPEN, opening)
    region = _fill_holes(_pad_close(_component_with(patches, core), closing))
    return _fill_holes(_largest_component(cv2.morphologyEx(region, cv2.MORPH_OPEN, opening)))


def _snap_to_edge(region: Mask, bright: Mask, border: float, changes: Bools) -> Mask:
    """Move the region's outline to the nearest strong edge: bright tissue casts a glow on the border."""
    shorter = min(region.shape)
    # Edges are ratios of levels, so that a dim edge weighs as much as one next to saturated tissue.
    relative = np.log2(bright.astype(np.float32) + 8)
    relative = cv2.normalize(relative, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    markers = np.zeros(region.shape, np.int32)
    band = max(2, round(_UNSURE_BAND * shorter))
    static_outside = ~changes & (cv2.dilate(region, _disc(max(1, band // 8))) == 0)
    markers[(cv2.dilate(region, _disc(band)) == 0) | (bright <= border + _ABOVE_BORDER / 2) | static_outside] = 1
    lit = border + _SURELY_LIT * (float(np.median(bright[region > 0])) - border) if region.any() else 255.0
    markers[(_erode_inside(region, max(1, band // 4)) > 0) & (bright > lit)] = 2
    markers[_erode_inside(region, 2 * band) > 0] = 2
    labels = cv2.watershed(cv2.cvtColor(relative, cv2.COLOR_GRAY2BGR), markers)
    inside: Mask = np.where(labels == 2, 255, 0).astype(np.uint8)
    inside[[0, -1]], inside[:, [0, -1]] = inside[[1, -2]], inside[:, [1, -2]]
    smooth = _disc(max(1, round(_OPENING / 2 * shorter)))
    inside = cv2.morphologyEx(_pad_close(_fill_holes(inside), smooth), cv2.MORPH_OPEN, smooth)
    return _fill_holes(_largest_component(inside))


def _erode_inside(region: Mask, radius_px: int) -> Mask:
    """Erode, except at the frame border, where content may touch it."""
    return cv2.erode(region, _disc(radius_px), borderType=cv2.BORDER_CONSTANT, borderValue=(255.0,))


def _pad_close(mask: Mask, kernel: Mask) -> Mask:
    """Closing that treats pixels beyond the frame as outside the content."""
    pad = kernel.shape[0]
    padded = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0.0,))
    return cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[pad:-pad, pad:-pad]


def _largest_component(mask: Mask) -> Mask:
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return np.zeros_like(mask)
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    return np.where(labels == largest, 255, 0).astype(np.uint8)


def _component_with(mask: Mask, core: Mask) -> Mask:
    """The connected component of `mask` that shares the most pixels with `core`."""
    _, labels = cv2.connectedComponents(mask)
    shared = np.bincount(labels[core > 0], minlength=2)
    shared[0] = 0
    return np.where(labels == int(np.argmax(shared)), mask, 0).astype(np.uint8)


def _fill_holes(mask: Mask) -> Mask:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(mask), contours, -1, (255.0,), cv2.FILLED)


def _disc(radius_px: int) -> Mask:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1)).astype(np.uint8)
