"""`sequence.yaml`: where the frames of a sequence come from, when each was shown, and why it was kept or not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cv2.typing import MatLike as Mask

from pipeline.command.config import from_mapping, to_mapping
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml, write_yaml
from pipeline.paths import AnyPath

FORMAT_VERSION = 1
_HASH_DIGITS = 8


@dataclass(frozen=True)
class Source:
    """The video, or the images, that the frames come from.

    Attributes:
        path: as the user gave it; None unless the user asked to record it, because it may name a patient.
        kind: "video" or "images".
        sha256: of the video's bytes, or of the images' names and bytes.
        fps: average frames a second.
        frames_read: how many frames were looked at, in the range of time asked for.
        orientation: the turning or mirroring that made frames upright: columns are x and y of the stored picture, rows
            x and y of the upright one; [[1, 0], [0, 1]] if it was upright.
        interlaced: "tff" or "bff" if frames were deinterlaced, otherwise None.
    """

    path: str | None
    kind: Literal["video", "images"]
    sha256: str
    fps: float
    frames_read: int
    orientation: list[list[int]]
    interlaced: Literal["tff", "bff"] | None


@dataclass(frozen=True)
class Calibration:
    """The camera of the frames as written.

    Attributes:
        state: "uncalibrated": frames are as recorded; "undistorted": they are those of the pinhole below.
        pinhole: fx, fy, cx, cy in px, COLMAP's pixel convention; None when uncalibrated.
        file: name of the calibration file that was given; None unless the user asked to record paths.
        model, params: the camera as calibrated, COLMAP's names and order.
        field_of_view_deg: horizontal, vertical and largest angle across the content area that is kept.
        content_kept: share of the recorded content area that the frames still show, 0..1.
        origin: "file": the camera is of a calibration file; "self": it was estimated from the video itself; None when
            uncalibrated, and where an older version did not say.
    """

    state: Literal["uncalibrated", "undistorted"]
    pinhole: list[float] | None = None
    file: str | None = None
    model: str | None = None
    params: list[float] | None = None
    field_of_view_deg: list[float] | None = None
    content_kept: float | None = None
    origin: Literal["file", "self"] | None = None


@dataclass(frozen=True)
class ContentArea:
    """Where the frames show tissue.

    Attributes:
        box: first column, first row, end column, end row of the mask's bounding box, px; the ends are exclusive.
        share: of the frame that the mask covers, 0..1.
        margin_px: how far the mask was eroded from the edge that was found.
    """

    box: list[int]
    share: float
    margin_px: int

    @classmethod
    def of_mask(cls, mask: Mask, margin_px: int) -> "ContentArea":
        """Describe a mask, (H, W), non-zero at one pixel at least, that was eroded by `margin_px`."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        return cls(box, round(float((mask > 0).mean()), 4), margin_px)


@dataclass(frozen=True)
class Frame:
    """A frame that was kept; its image is `images/{index:08d}.jpg`.

    Attributes:
        index: its place in the video.
        timestamp_s: when the video shows it.
        sharpness: variance of the Laplacian of luma inside the mask, off the highlights.
        exposure: mean luma inside the mask, 0..255.
        highlights: share of the mask on specular highlights, 0..1.
        motion_px: median optical flow from the frame before, px of the video.
        flags: what is wrong with it, with the names of `Choice.reasons`; empty unless every frame was kept.
    """

    index: int
    timestamp_s: float
    sharpness: float
    exposure: float
    highlights: float
    motion_px: float
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RejectedFrame:
    """A frame of the segment that was not kept, and the name of the reason."""

    index: int
    timestamp_s: float
    reason: str


@dataclass(frozen=True)
class Choice:
    """How frames were chosen.

    Attributes:
        rules: the settings in force, by name.
        begins_because: what the segment starts with: "start" or the hard cut before it.
        reasons: each reason's name that occurs → what it means, with its threshold.
    """

    rules: dict[str, Any]
    begins_because: str
    reasons: dict[str, str]


@dataclass(frozen=True)
class Sequence:
    """One sequence, as `sequence.yaml` holds it.

    Attributes:
        format_version: of this file.
        tool: name and version of what wrote it.
        width, height: of the frames, px.
    """

    format_version: int
    tool: str
    width: int
    height: int
    source: Source
    calibration: Calibration
    content_area: ContentArea
    choice: Choice
    frames: list[Frame]
    rejected: list[RejectedFrame]

    def source_title(self, name: str | None) -> str:
        """What to call the video or images: `name`, by default the first digits of their hash."""
        return name or self.source.sha256[:_HASH_DIGITS]

    def title(self, name: str | None) -> str:
        """One line for pictures and pages: what to call the source (`source_title`), and the frames."""
        called = self.source_title(name)
        indices = [frame.index for frame in self.frames]
        return f"{called}, frames {min(indices)} to {max(indices)}" if indices else called

    def save(self, path: AnyPath) -> None:
        """Write `sequence.yaml`, atomically."""
        write_yaml(Path(path), to_mapping(self))

    @classmethod
    def load(cls, path: AnyPath) -> "Sequence":
        """Read `sequence.yaml`.

        Raises:
            LumenError: if it is missing, damaged or of another format version, or names a frame twice.
        """
        path = Path(path)
        content = read_yaml(path)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise LumenError(f"{path} is of format {version}, this version reads {FORMAT_VERSION}: extract it again")
        sequence = from_mapping(cls, content, str(path))
        indices = [frame.index for frame in sequence.frames]
        if len(set(indices)) < len(indices) or min(indices, default=0) < 0:
            raise LumenError(f"{path} names a frame twice, or one below 0: extract it again")
        return sequence
