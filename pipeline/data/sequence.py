"""`sequence.yaml`: the source of a sequence's frames, their timestamps, and why each was kept or rejected."""

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
    """The video or the images that the frames come from.

    Attributes:
        path: as the user typed it; None unless the user asked to record it, because it may name a patient.
        kind: "video" or "images".
        sha256: of the video's bytes, or of the images' names and bytes.
        fps: average frames per second.
        frames_read: number of frames read in the requested time range.
        orientation: the rotation or reflection that makes frames upright, (2, 2): its columns are x and y of the stored
            image, its rows x and y of the upright image; [[1, 0], [0, 1]] for an upright source.
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
    """The camera of the sequence's frames.

    Attributes:
        state: "uncalibrated": frames are as recorded; "undistorted": frames follow the pinhole camera below.
        pinhole: fx, fy, cx, cy in px, COLMAP's pixel convention; None when uncalibrated.
        file: name of the calibration file; None unless the user asked to record paths.
        model, params: the calibrated camera, with COLMAP's names and order.
        field_of_view_deg: horizontal, vertical and largest angle across the kept content area.
        content_kept: share of the recorded content area that the frames still show, 0..1.
        origin: "file": the camera comes from a calibration file; "self": it was estimated from the video; None when
            uncalibrated or written by an older version.
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
    """The area of the frames that shows tissue.

    Attributes:
        box: first column, first row, end column, end row of the mask's bounding box, px; the ends are exclusive.
        share: the share of the frame that the mask covers, 0..1.
        margin_px: how far the mask was eroded from the detected edge.
    """

    box: list[int]
    share: float
    margin_px: int

    @classmethod
    def of_mask(cls, mask: Mask, margin_px: int) -> "ContentArea":
        """Describe a mask, (H, W), that was eroded by `margin_px`. At least one pixel is non-zero."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        return cls(box, round(float((mask > 0).mean()), 4), margin_px)


@dataclass(frozen=True)
class Frame:
    """A kept frame; its image is `images/{index:08d}.jpg`.

    Attributes:
        index: frame index in the video.
        timestamp_s: presentation time in the video.
        sharpness: variance of the Laplacian of luma inside the mask, without highlights.
        exposure: mean luma inside the mask, 0..255.
        highlights: share of the mask covered by specular highlights, 0..1.
        motion_px: median optical flow from the previous frame, px of the video.
        flags: defects, by the names in `Choice.reasons`; empty unless all frames were kept.
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
    """A rejected frame of the segment, and the name of the reason."""

    index: int
    timestamp_s: float
    reason: str


@dataclass(frozen=True)
class Choice:
    """How frames were selected.

    Attributes:
        rules: the active settings, by name.
        begins_because: why the segment starts: "start" or the hard cut before it.
        reasons: name of each reason that occurs → its description, with the threshold.
    """

    rules: dict[str, Any]
    begins_because: str
    reasons: dict[str, str]


@dataclass(frozen=True)
class Sequence:
    """The content of `sequence.yaml`.

    Attributes:
        format_version: version of the file format.
        tool: name and version of the program that wrote the file.
        width, height: size of the frames, px.
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
        """The title of the video or images: `name`, by default the first digits of their hash."""
        return name or self.source.sha256[:_HASH_DIGITS]

    def title(self, name: str | None) -> str:
        """One line for plots and pages: the title of the source (`source_title`) and the range of frames."""
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
            LumenError: if it is missing or damaged, has another format version, or lists a frame twice.
        """
        path = Path(path)
        content = read_yaml(path)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise LumenError(f"{path} has format {version}, but this version reads {FORMAT_VERSION}: extract it again")
        sequence = from_mapping(cls, content, str(path))
        indices = [frame.index for frame in sequence.frames]
        if len(set(indices)) < len(indices) or min(indices, default=0) < 0:
            raise LumenError(f"{path} lists a frame twice or a negative frame index: extract it again")
        return sequence
