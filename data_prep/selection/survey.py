"""First pass over a video: content area and quality of every frame."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import cv2
import msgspec
from cv2.typing import MatLike as Image

from data_prep.selection.content_area import erode_mask, find_content_area, resize_mask, working_size
from data_prep.selection.frame_quality import FrameQuality, QualityMeter
from data_prep.video.source_frame import FrameSource, SourceFrame
from pipeline.data.images import read_pixels, write_image
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import write_bytes
from pipeline.progress import progress

_CONTENT_SAMPLES = 96


@dataclass(frozen=True)
class Survey:
    """Result of the first pass.

    Attributes:
        qualities: one per readable frame in the requested time range, in order.
        warnings: unreadable parts and unusual properties of the video, one line each.
        mask: (H, W) uint8, the content area of the source's frames, eroded by the margin, 255 inside.
        margin_px: erosion of the mask.
    """

    qualities: list[FrameQuality]
    warnings: list[str]
    mask: Image
    margin_px: int

    def save(self, numbers: Path, mask: Path) -> None:
        """Write the measurements as JSON and the mask as PNG, each atomically."""
        content = {"qualities": self.qualities, "warnings": self.warnings, "margin_px": self.margin_px}
        write_image(mask, self.mask)
        write_bytes(numbers, msgspec.json.encode(content))

    @classmethod
    def load(cls, numbers: Path, mask: Path) -> "Survey":
        """Read what `save` wrote."""
        with explain_os_errors("read", numbers):
            content = msgspec.json.decode(numbers.read_bytes(), type=_SavedNumbers)
        mask_image = read_pixels(mask, cv2.IMREAD_GRAYSCALE)
        if mask_image is None:
            raise LumenError(f"{mask} cannot be read: delete {mask.parent} and run the same command again")
        return cls(content.qualities, content.warnings, mask_image, content.margin_px)


@dataclass
class _SavedNumbers:
    qualities: list[FrameQuality]
    warnings: list[str]
    margin_px: int


def survey_video(source: FrameSource, start_s: float, end_s: float, margin_px: int) -> Survey:
    """Find the content area and measure every frame shown from `start_s` to before `end_s`.

    Args:
        source: the video or images.
        start_s, end_s: seconds after the first frame.
        margin_px: erosion of the content area, px of the source, >= 0.

    Raises:
        LumenError: if no frame is in the range, no content area is found, or the margin erodes all of it.
    """
    size = working_size(source.info.width, source.info.height)
    in_range = _samples(source, start_s, end_s)
    first = next(in_range, None)
    if first is None:
        until = "" if end_s == math.inf else f" and before {end_s:g} s"
        raise LumenError(f"{source.info.path}: no frame is {start_s:g} s or more after the first one{until}")
    samples = progress(chain([first], in_range), "finding the content area", total=_CONTENT_SAMPLES)
    area, is_steady = find_content_area(_shrunk(frame.image, size) for frame in samples if not frame.damaged)
    mask = erode_mask(resize_mask(area, source.info.width, source.info.height), margin_px)
    if not mask.any():
        raise LumenError(f"a margin of {margin_px} px erodes the whole content area: choose a smaller margin")
    meter = QualityMeter(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), source.info.width)
    frames = progress(source.frames(), "measuring frames", total=source.info.frame_count)
    qualities = [
        meter.measure(frame.index, frame.timestamp_s, _shrunk(frame.image, size), frame.damaged)
        for frame in _shown_between(start_s, end_s, frames)
    ]
    warnings = source.losses()
    if not is_steady:
        warnings.append("the content area changes within the video (zoom?): extract its parts with --start and --end")
    return Survey(qualities, warnings, mask, margin_px)


def _samples(source: FrameSource, start_s: float, end_s: float) -> Iterator[SourceFrame]:
    """About `_CONTENT_SAMPLES` frames from the range only, whose content area may differ from the rest."""
    info = source.info
    if start_s == 0 and end_s == math.inf:
        return source.sample(_CONTENT_SAMPLES)
    length_s = min(end_s, info.frame_count / info.fps) - start_s
    step = max(1, round(length_s * info.fps / _CONTENT_SAMPLES))
    return islice(_shown_between(start_s, end_s, source.frames()), 0, None, step)


def _shown_between(start_s: float, end_s: float, frames: Iterator[SourceFrame]) -> Iterator[SourceFrame]:
    first_s = None
    for frame in frames:
        first_s = frame.timestamp_s if first_s is None else first_s
        if frame.timestamp_s - first_s >= end_s:
            return
        if frame.timestamp_s - first_s >= start_s:
            yield frame


def _shrunk(image: Image, size: tuple[int, int]) -> Image:
    return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
