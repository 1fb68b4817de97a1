"""Frames of a video, a folder of images or a glob, each with its true index and presentation timestamp.

Decoding is PyAV's (FFmpeg's libraries), because OpenCV's reader takes frame counts and timestamps from the
container's header and hides frames that it could not decode.
"""

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from data_prep.image_files import list_images
from data_prep.video_decoder import VideoDecoder
from pipeline.errors import LumenError
from pipeline.manifest import fingerprint_files, fingerprint_path
from pipeline.paths import SequencePaths

_VIDEO_SAMPLES_BY_DECODING_ALL = 1000


@dataclass
class SourceFrame:
    """One frame of the source.

    Attributes:
        index: its place in the video, or the number in the image's name; zero-based.
        timestamp_s: presentation time in seconds from the container's own zero.
        image: (H, W, 3) uint8 BGR, upright.
        damaged: the decoder had to guess parts of it.
    """

    index: int
    timestamp_s: float
    image: Image
    damaged: bool = False


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source before it is read through.

    Attributes:
        path: as the user gave it.
        kind: "video" or "images".
        width, height: of the upright frames, px.
        fps: average frames a second.
        frame_count: how many frames the source should hold, None if the container does not say.
        interlaced: "tff" or "bff" if every frame holds two fields and is deinterlaced, otherwise None.
        rotation_deg: counter-clockwise rotation applied to make frames upright: 0, 90, 180 or 270.
        warnings: what the user should know, one line each.
    """

    path: Path
    kind: str
    width: int
    height: int
    fps: float
    frame_count: int | None
    interlaced: str | None = None
    rotation_deg: int = 0
    warnings: tuple[str, ...] = ()


class FrameSource(Protocol):
    """Anything that frames come from; reading it twice gives the same frames."""

    info: SourceInfo

    def frames(self) -> Iterator[SourceFrame]:
        """All frames in presentation order."""

    def sample(self, count: int) -> Iterator[SourceFrame]:
        """About `count` frames spread over the whole source, cheaply; their indices are not exact."""

    def losses(self) -> list[str]:
        """After `frames` ran to its end: what could not be read, one line each."""

    def fingerprint(self) -> str:
        """SHA-256 of the source's content, as hex."""


def open_source(path: Path, image_fps: float) -> FrameSource:
    """Open a video file, a folder of images or a glob pattern.

    Args:
        path: the file, the folder, or a pattern such as `frames/*.png`.
        image_fps: frames a second of a folder or glob, which carries no times.

    Raises:
        LumenError: if there is nothing there, or nothing that can be read.
    """
    if path.is_file():
        return VideoSource(path)
    if not path.exists() and not glob.has_magic(str(path)):
        raise LumenError(f"{path} does not exist")
    mask_name = SequencePaths(path).mask.name
    return ImageSource(path, [image for image in list_images(path) if image.name != mask_name], image_fps)


class VideoSource:
    """A video file."""

    def __init__(self, path: Path) -> None:
        self._decoder = VideoDecoder(path)
        facts = self._decoder.facts
        self.info = SourceInfo(
            path=path,
            kind="video",
            width=facts.width,
            height=facts.height,
            fps=facts.fps,
            frame_count=facts.frame_count,
            interlaced=facts.interlaced,
            rotation_deg=facts.rotation_deg,
            warnings=facts.warnings,
        )

    def frames(self) -> Iterator[SourceFrame]:
        for decoded in self._decoder.decode():
            yield SourceFrame(decoded.index, decoded.timestamp_s, decoded.image(), decoded.damaged)

    def sample(self, count: int) -> Iterator[SourceFrame]:
        total = self.info.frame_count or count
        if total > _VIDEO_SAMPLES_BY_DECODING_ALL and self._decoder.keyframe_count >= count // 4:
            decoded_frames = self._decoder.decode_keyframes(count)
        else:
            step = max(1, total // count)
            decoded_frames = (frame for frame in self._decoder.decode() if frame.index % step == 0)
        for decoded in decoded_frames:
            yield SourceFrame(decoded.index, decoded.timestamp_s, decoded.image())

    def losses(self) -> list[str]:
        return self._decoder.losses()

    def fingerprint(self) -> str:
        return fingerprint_path(self.info.path)


class ImageSource:
    """Images in the order of the numbers in their names, or of the names where not all have a number of their own."""

    def __init__(self, path: Path, images: list[Path], fps: float) -> None:
        self._images = _numbered(images)
        self._unreadable: list[str] = []
        first = next((image for image in map(_read_image, self._images.values()) if image is not None), None)
        if first is None:
            raise LumenError(f"{path}: none of its {len(images)} images can be read")
        self._shape = first.shape
        self.info = SourceInfo(
            path=path,
            kind="images",
            width=first.shape[1],
            height=first.shape[0],
            fps=fps,
            frame_count=len(images),
            warnings=(f"images carry no times: timestamps assume {fps:g} frames a second (--image_fps)",),
        )

    def frames(self) -> Iterator[SourceFrame]:
        self._unreadable = []
        for index in self._images:
            frame = self._frame(index)
            if frame is not None:
                yield frame

    def sample(self, count: int) -> Iterator[SourceFrame]:
        indices = list(self._images)
        for index in indices[:: max(1, len(indices) // count)]:
            frame = self._frame(index)
            if frame is not None:
                yield frame

    def losses(self) -> list[str]:
        return [f"{name} cannot be read as an image" for name in self._unreadable]

    def fingerprint(self) -> str:
        images = list(self._images.values())
        return fingerprint_files(images, images[0].parent)

    def _frame(self, index: int) -> SourceFrame | None:
        path = self._images[index]
        image = _read_image(path)
        if image is None:
            self._unreadable.append(path.name)
            return None
        if image.shape != self._shape:
            size, wanted = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, self._shape))
            raise LumenError(f"{path} is {size}, the images before it {wanted}: a sequence has one size")
        return SourceFrame(index, index / self.info.fps, image)


def _numbered(images: list[Path]) -> dict[int, Path]:
    numbers: dict[int, Path] = {}
    for path in images:
        found = re.findall(r"\d+", path.stem)
        if not found or int(found[-1]) in numbers:
            return dict(enumerate(sorted(images)))
        numbers[int(found[-1])] = path
    return dict(sorted(numbers.items()))


def _read_image(path: Path) -> Image | None:
    try:
        data: Any = np.fromfile(path, np.uint8)
    except OSError:
        return None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    return None if image is None else image
