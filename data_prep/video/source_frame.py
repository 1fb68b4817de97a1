"""Interface of frame sources: frames with index and timestamp, and the facts known about a source."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from cv2.typing import MatLike as Image

# Columns are x and y of the stored image, rows x and y of the upright image.
Orientation = tuple[tuple[int, int], tuple[int, int]]
UPRIGHT: Orientation = ((1, 0), (0, 1))


class SourceFrame:
    """One frame of a source.

    Attributes:
        index: position in the video, or number in the image's name; zero-based.
        timestamp_s: presentation time in seconds on the container's clock.
        damaged: the decoder concealed missing data.
    """

    def __init__(self, index: int, timestamp_s: float, load: Callable[[], Image], damaged: bool = False) -> None:
        self.index = index
        self.timestamp_s = timestamp_s
        self.damaged = damaged
        self._load = load

    @cached_property
    def image(self) -> Image:
        """(H, W, 3) uint8 BGR, upright; converted on first access."""
        return self._load()


@dataclass(frozen=True)
class SourceInfo:
    """Facts about a source that are known before it is read in full.

    Attributes:
        path: as the user gave it.
        kind: "video" or "images".
        width, height: of the upright frames, px.
        fps: average frames per second.
        frame_count: expected number of frames, estimated without decoding.
        interlaced: "tff" or "bff" if every frame holds two fields and is deinterlaced, otherwise None.
        orientation: how the stored image is rotated or mirrored to make it upright.
        warnings: warnings for the user, one line each.
    """

    path: Path
    kind: Literal["video", "images"]
    width: int
    height: int
    fps: float
    frame_count: int
    interlaced: Literal["tff", "bff"] | None = None
    orientation: Orientation = UPRIGHT
    warnings: tuple[str, ...] = ()


class FrameSource(Protocol):
    """A source of frames; reading it twice yields the same frames."""

    info: SourceInfo

    def frames(self) -> Iterator[SourceFrame]:
        """All frames in presentation order."""

    def sample(self, count: int) -> Iterator[SourceFrame]:
        """At most about `count` frames spread over the source, without reading all of it."""

    def losses(self) -> list[str]:
        """What the last call of `frames` could not read, one line each."""

    def fingerprint(self) -> str:
        """SHA-256 of the source's content, as hex."""
