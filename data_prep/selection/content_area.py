"""The content area: the part of the frame that shows tissue, found from many frames.

Endoscopes show a round, octagonal or rectangular picture in a dark frame, often with text and symbols outside it. Over
time the picture lights up and changes; the frame stays dark and overlays stay as they are.
"""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image
from cv2.typing import MatLike as Mask

from pipeline.errors import LumenError

# Levels are of max(B, G, R), 0..255.
_BRIGHT_PERCENTILE = 90
_DARK_PERCENTILE = 10
_ABOVE_BORDER = 16
_BRIGHTEST_BORDER = 48
_STATIC_RANGE = 6
_BLACK_FRAME_LEVEL = 24
# Radii are shares of the shorter side.
_OPENING = 0.02
_CLOSING = 0.03
_UNSURE_BAND = 0.08
_SURELY_LIT = 0.35
_SMALLEST_AREA = 0.05
_WHOLE_FRAME = 0.97
# A quarter of the video that shows less than this of the whole's area was zoomed, or switched to another picture.
_PARTS = 4
_LEAST_IN_PART = 6
_STEADY_OVERLAP = 0.75


def working_size(width: int, height: int, longest: int = 960) -> tuple[int, int]:
    """(width, height) reduced by the smallest whole factor that brings the longer side to `longest` px at most."""
    factor = -(-max(width, height) // longest)
    return max(1, width // factor), max(1, height // factor)


def find_content_area(samples: Iterable[Image]) -> tuple[Mask, bool]:
    """Find the content area from frames spread over the video.

    Args:
        samples: (H, W, 3) uint8 BGR frames in order, all of one size. Frames that are dark as a whole do not count.

    Returns:
        (H, W) uint8, 255 inside the content area, 0 outside; one connected region without holes, with its true
        edge: not eroded. And whether it is steady: False if a part of the video shows quite another one.

    Raises:
        LumenError: if every frame is black, or nothing but static overlays is lit.
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
        raise LumenError("no content area found: almost everything is dark or never changes")
    parts = np.array_split(stack, _PARTS) if len(stack) >= _PARTS * _LEAST_IN_PART else []
    of_parts = [part_area for part_area, is_told_by_light in map(_lit_area, parts) if is_told_by_light]
    return area, all(_overlap(area, part_area) > _STEADY_OVERLAP for part_area in of_parts)


def erode_mask(mask: Mask, margin_px: int) -> Mask:
    """Move the mask's edge inwards by `margin_px`; the frame's own border counts as outside."""
    if margin_px == 0:
        return mask
    kernel = _disc(margin_px)
    eroded = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,))
    return eroded


def resize_mask(mask: Mask, width: int, height: int) -> Mask:
    """Resize a mask with a smooth edge: bilinear, then the level half-way."""
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(resized >= 128, 255, 0).astype(np.uint8)


def _area_without_dark_border(changes: npt.NDArray[np.bool_]) -> Mask:
    """The whole frame, unless it has a bright border in which nothing ever changes."""
    area = _main_region(changes, changes)
    share = float(area.mean()) / 255
    return area if _SMALLEST_AREA < share < _WHOLE_FRAME else np.full(area.shape, 255, np.uint8)


def _strongest_colour(image: Image) -> Image:
    blue, green, red = cv2.split(image)
    return cv2.max(cv2.max(blue, green), red)


def _lit_area(stack: npt.NDArray[Any]) -> tuple[Mask, bool]:
    """The content area of lit frames, (N, H, W) uint8 levels; and whether its light tells it from its border.

    Without a dark border only change tells it, and then a short part of a video may tell too little.
    """
    dark, bright = np.percentile(stack, (_DARK_PERCENTILE, _BRIGHT_PERCENTILE), axis=0).astype(np.float32)
    # Against single noisy pixels and the ringing of the codec beside bright edges.
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


def _main_region(is_bright: npt.NDArray[np.bool_], changes: npt.NDArray[np.bool_]) -> Mask:
    shorter = min(is_bright.shape)
    opening = _disc(max(1, round(_OPENING * shorter)))
    closing = _disc(max(1, round(_CLOSING * shorter)))
    live = (is_bright & changes).astype(np.uint8) * 255
    # In a clip where hardly anything moves, change says nothing: then what is lit is what there is.
    if live.mean() < 0.5 * 255 * is_bright.mean():
        live = is_bright.astype(np.uint8) * 255
    core = _largest_component(cv2.morphologyEx(live, cv2.MORPH_OPEN, opening))
    # What is lit but never changes belongs to the content where it is part of the same patch (saturated tissue);
    # the opening parts it from text.
    patches = cv2.morphologyEx(is_bright.astype(np.uint8) * 255, cv2.MORPH_OPEN, opening)
    region = _fill_holes(_pad_close(_component_with(patches, core), closing))
    return _fill_holes(_largest_component(cv2.morphologyEx(region, cv2.MORPH_OPEN, opening)))


def _snap_to_edge(region: Mask, bright: Mask, border: float, changes: npt.NDArray[np.bool_]) -> Mask:
    """Move the region's outline to the strongest edge near it: bright tissue throws a glow on the frame around it."""
    shorter = min(region.shape)
    # An edge is a ratio of levels, so that a dim edge counts as much as one beside saturated tissue.
    relative = np.log2(bright.astype(np.float32) + 8)
    relative = cv2.normalize(relative, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    markers = np.zeros(region.shape, np.int32)
    band = max(2, round(_UNSURE_BAND * shorter))
    static_beside = ~changes & (cv2.dilate(region, _disc(max(1, band // 8))) == 0)
    markers[(cv2.dilate(region, _disc(band)) == 0) | (bright <= border + _ABOVE_BORDER / 2) | static_beside] = 1
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
    """Erode, but not from the frame's own border: content that touches it would be lost."""
    return cv2.erode(region, _disc(radius_px), borderType=cv2.BORDER_CONSTANT, borderValue=(255.0,))


def _pad_close(mask: Mask, kernel: Mask) -> Mask:
    """Closing that treats the outside of the frame as outside of the content."""
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
    """The connected component of `mask` that shares most pixels with `core`."""
    _, labels = cv2.connectedComponents(mask)
    shared = np.bincount(labels[core > 0], minlength=2)
    shared[0] = 0
    return np.where(labels == int(np.argmax(shared)), mask, 0).astype(np.uint8)


def _fill_holes(mask: Mask) -> Mask:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(mask), contours, -1, (255.0,), cv2.FILLED)


def _disc(radius_px: int) -> Mask:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1)).astype(np.uint8)
