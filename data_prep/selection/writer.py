"""Second pass over a video: write the chosen frames, their masks and `sequence.yaml`."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import cv2
from cv2.typing import MatLike as Image

from data_prep.calibration.undistort import Undistortion
from data_prep.selection.contact_sheet import Tile, TilePlan, draw_thumbnail
from data_prep.selection.frame_choice import REASONS, Segment
from data_prep.selection.frame_quality import find_highlights
from data_prep.selection.plan import ExtractionPlan
from data_prep.video.source_frame import FrameSource, SourceFrame
from pipeline import __version__
from pipeline.data.images import write_image
from pipeline.data.sequence import (
    FORMAT_VERSION,
    Choice,
    ContentArea,
    Frame,
    RejectedFrame,
    Sequence,
    Source,
)
from pipeline.paths import SequencePaths
from pipeline.progress import progress

_WORKERS = 2
_MAX_FRAMES_IN_FLIGHT = 6


@dataclass(frozen=True)
class FrameFormat:
    """How frames are written.

    Attributes:
        mask: (H, W) uint8, content area of the frames as written, 255 inside.
        undistortion: applied to each frame first; None to write frames as recorded.
        jpeg_quality: 1..100.
    """

    mask: Image
    undistortion: Undistortion | None
    jpeg_quality: int

    def apply(self, image: Image) -> tuple[Image, Image]:
        """The written frame, black outside the content area, and its highlights."""
        if self.undistortion is not None:
            image = self.undistortion.image(image)
        return cv2.bitwise_and(image, image, mask=self.mask), find_highlights(image, self.mask)


def write_frames(
    source: FrameSource,
    targets: Mapping[int, SequencePaths],
    tiles: Mapping[int, TilePlan],
    frame_format: FrameFormat,
) -> list[Tile]:
    """Write the image and the mask of each chosen frame; existing files are kept.

    Args:
        source: the video or images; read up to the last frame needed.
        targets: index of each chosen frame → its sequence.
        tiles: index of each frame on the contact sheet → how it is drawn.
        frame_format: how frames are written.

    Returns:
        The tiles of the contact sheet.
    """
    last = max([*targets, *tiles])
    frames = takewhile(lambda frame: frame.index <= last, source.frames())
    wanted = (frame for frame in frames if frame.index in targets or frame.index in tiles)
    results: list[Tile] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        jobs = (pool.submit(_write_frame, frame, targets, tiles, frame_format) for frame in wanted)
        for tile in progress(_in_order(jobs), "writing frames", total=len(targets.keys() | tiles.keys())):
            if tile is not None:
                results.append(tile)
    return results


def write_sequence(
    paths: SequencePaths,
    segment: Segment,
    plan: ExtractionPlan,
    source: Source,
    margin_px: int,
    rules: dict[str, Any],
) -> None:
    """Write a segment's content mask and, last, its `sequence.yaml`.

    Args:
        paths: the sequence to write.
        segment: a segment of the plan.
        plan: decisions shared by all sequences of the video.
        source: the source of the frames.
        margin_px: erosion of the mask.
        rules: settings for frame selection, by name.
    """
    mask = plan.mask
    occurring = {name for verdict in segment.verdicts for name in (verdict.reason, *verdict.flags) if name}
    write_image(paths.mask, mask)
    Sequence(
        format_version=FORMAT_VERSION,
        tool=f"LumenSfM {__version__}",
        width=mask.shape[1],
        height=mask.shape[0],
        source=source,
        calibration=plan.calibration,
        content_area=ContentArea.of_mask(mask, margin_px),
        choice=Choice(rules, segment.begins_because, {name: REASONS[name] for name in REASONS if name in occurring}),
        frames=[
            Frame(
                index=verdict.quality.index,
                timestamp_s=round(verdict.quality.timestamp_s, 6),
                sharpness=verdict.quality.sharpness,
                exposure=verdict.quality.exposure,
                highlights=verdict.quality.highlights,
                motion_px=verdict.quality.motion_px,
                flags=list(verdict.flags),
            )
            for verdict in segment.verdicts
            if verdict.reason is None
        ],
        rejected=[
            RejectedFrame(verdict.quality.index, round(verdict.quality.timestamp_s, 6), verdict.reason)
            for verdict in segment.verdicts
            if verdict.reason is not None
        ],
    ).save(paths.sequence)


def _in_order(jobs: Iterator[Future[Tile | None]]) -> Iterator[Tile | None]:
    """Results in the order of the jobs, with only a few frames in memory."""
    in_flight: deque[Future[Tile | None]] = deque()
    for job in jobs:
        in_flight.append(job)
        if len(in_flight) >= _MAX_FRAMES_IN_FLIGHT:
            yield in_flight.popleft().result()
    while in_flight:
        yield in_flight.popleft().result()


def _write_frame(
    frame: SourceFrame,
    targets: Mapping[int, SequencePaths],
    tiles: Mapping[int, TilePlan],
    frame_format: FrameFormat,
) -> Tile | None:
    paths = targets.get(frame.index)
    image_path, mask_path = (paths.image(frame.index), paths.frame_mask(frame.index)) if paths else (None, None)
    is_written = all(path is None or path.exists() for path in (image_path, mask_path))
    if is_written and frame.index not in tiles:
        return None
    image, highlights = frame_format.apply(frame.image)
    if image_path is not None and not image_path.exists():
        write_image(image_path, image, [cv2.IMWRITE_JPEG_QUALITY, frame_format.jpeg_quality])
    if mask_path is not None and not mask_path.exists():
        usable = cv2.subtract(frame_format.mask, highlights)
        write_image(mask_path, usable, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if frame.index not in tiles:
        return None
    plan = tiles[frame.index]
    thumbnail = draw_thumbnail(image, frame_format.mask, highlights, hidden=plan.hidden)
    return Tile(frame.index, frame.timestamp_s, thumbnail, plan.reason)
