"""Contact sheet of an extraction: sampled frames with mask and highlights, and rejected frames with their reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike as Image

_COLUMNS = 6
_TILE_WIDTH_PX = 320
_CAPTION_PX = 44
_MAX_KEPT = 24
_MAX_REJECTED_PER_REASON = 3
# Coarser than facial features in a face that fills the frame.
_HIDDEN_WIDTH_PX = 6

_BACKGROUND = (30, 30, 30)
_TEXT = (235, 235, 235)
_KEPT = (90, 200, 90)
_REJECTED = (70, 70, 240)
_OUTLINE = (0, 255, 0)
_HIGHLIGHT = (255, 60, 255)


@dataclass(frozen=True)
class TilePlan:
    """How a frame is drawn.

    Attributes:
        reason: why the frame was rejected, None if it was kept.
        hidden: it may be filmed outside the body, where it may show faces or names: only its colours are drawn.
    """

    reason: str | None
    hidden: bool


@dataclass(frozen=True)
class Tile:
    """One frame on the sheet.

    Attributes:
        index, timestamp_s: those of the frame.
        thumbnail: thumbnail, (h, w, 3) uint8 BGR, with mask and highlights.
        reason: why the frame was rejected, None if it was kept.
    """

    index: int
    timestamp_s: float
    thumbnail: Image
    reason: str | None


def pick_tiles(kept: Sequence[int], rejected: Sequence[tuple[int, str]]) -> set[int]:
    """The frame indices to show: kept frames spread over the video, and a few frames per rejection reason.

    Args:
        kept: indices of kept frames.
        rejected: (index, reason) of rejected frames.
    """
    picked = set(_spread(kept, _MAX_KEPT))
    for reason in {reason for _, reason in rejected}:
        picked.update(_spread([index for index, why in rejected if why == reason], _MAX_REJECTED_PER_REASON))
    return picked


def draw_thumbnail(image: Image, mask: Image, highlights: Image, *, hidden: bool = False) -> Image:
    """Thumbnail of a frame with the mask's outline in green and highlights in magenta.

    Nothing outside the mask is shown: text burned into the frame may name the patient.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask, highlights: (H, W) uint8, 255 inside and on highlights.
        hidden: blur it until faces and text are unrecognisable; highlights, which may be text, are not drawn.
    """
    height = round(_TILE_WIDTH_PX * mask.shape[0] / mask.shape[1])
    size = (_TILE_WIDTH_PX, height)
    inside = cv2.bitwise_and(image, image, mask=mask)
    thumbnail = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
    small_mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    if hidden:
        thumbnail = _anonymised(thumbnail)
        thumbnail[small_mask == 0] = 0
    else:
        thumbnail[cv2.resize(highlights, size, interpolation=cv2.INTER_AREA) > 96] = _HIGHLIGHT
    outlines, _ = cv2.findContours(small_mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(thumbnail, outlines, -1, _OUTLINE, 1)


def _anonymised(thumbnail: Image) -> Image:
    """The mean colours of a few large blocks, smoothly interpolated."""
    height, width = thumbnail.shape[:2]
    rows = max(1, round(_HIDDEN_WIDTH_PX * height / width))
    blocks = cv2.resize(thumbnail, (_HIDDEN_WIDTH_PX, rows), interpolation=cv2.INTER_AREA)
    return cv2.resize(blocks, (width, height), interpolation=cv2.INTER_LINEAR)


def draw_contact_sheet(tiles: Iterable[Tile], summary: Sequence[str]) -> Image:
    """Arrange the tiles in two blocks, kept frames first, below lines of text.

    Args:
        tiles: in any order; at least one.
        summary: lines for the top of the sheet; only ASCII characters are legible.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    ordered = sorted(tiles, key=lambda tile: tile.index)
    blocks = [
        _text_block(summary),
        *_block("kept", [tile for tile in ordered if tile.reason is None]),
        *_block("rejected", [tile for tile in ordered if tile.reason is not None]),
    ]
    return np.vstack(blocks)


def _block(title: str, tiles: Sequence[Tile]) -> list[Image]:
    if not tiles:
        return []
    captioned = [_captioned(tile) for tile in tiles]
    blank = np.full_like(captioned[0], _BACKGROUND)
    rows = []
    for first in range(0, len(captioned), _COLUMNS):
        row = captioned[first : first + _COLUMNS]
        rows.append(np.hstack(row + [blank] * (_COLUMNS - len(row))))
    return [_text_block([title]), *rows]


def _captioned(tile: Tile) -> Image:
    colour = _KEPT if tile.reason is None else _REJECTED
    caption = np.full((_CAPTION_PX, tile.thumbnail.shape[1], 3), _BACKGROUND, np.uint8)
    _write(caption, f"{tile.index:08d}  {tile.timestamp_s:.3f} s", (6, 16), _TEXT)
    _write(caption, "kept" if tile.reason is None else tile.reason.replace("_", " "), (6, 36), colour)
    framed = np.vstack([tile.thumbnail, caption])
    return cv2.rectangle(framed, (0, 0), (framed.shape[1] - 1, framed.shape[0] - 1), colour, 2)


def _text_block(lines: Sequence[str]) -> Image:
    block = np.full((10 + 24 * len(lines), _COLUMNS * _TILE_WIDTH_PX, 3), _BACKGROUND, np.uint8)
    for row, line in enumerate(lines):
        _write(block, line, (8, 22 + 24 * row), _TEXT)
    return block


def _write(image: Image, text: str, origin: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def _spread(indices: Sequence[int], most: int) -> list[int]:
    if not indices:
        return []
    places = np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))
    return [indices[place] for place in places]
