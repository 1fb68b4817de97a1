"""What every source of frames gives: frames with their true index and presentation time, and what is known of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from cv2.typing import MatLike as Image

# Columns are x and y of the stored picture, rows x and y of the upright one.
Orientation = tuple[tuple[int, int], tuple[int, int]]
UPRIGHT: Orientation = ((1, 0), (0, 1))


class SourceFrame:
    """One frame of a source.

    Attributes:
        index: its place in the video, or the number in the image's name; zero-based.
        timestamp_s: presentation time in seconds on the container's own clock.
        damaged: the decoder had to guess parts of it.
    """

    def __init__(self, index: int, timestamp_s: float, load: Callable[[], Image], damaged: bool = False) -> None:
        self.index = index
        self.timestamp_s = timestamp_s
        self.damaged = damaged
        self._load = load

    @cached_property
    def image(self) -> Image:
        """(H, W, 3) uint8 BGR, upright; converted when first asked for."""
        return self._load()


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source before it is read through.

    Attributes:
        path: as the user gave it.
        kind: "video" or "images".
        width, height: of the upright frames, px.
        fps: average frames a second.
        frame_count: how many frames the source should hold, as far as can be told without decoding.
        interlaced: "tff" or "bff" if every frame holds two fields and is deinterlaced, otherwise None.
        orientation: how the stored picture is turned or mirrored to make it upright.
        warnings: what the user should know, one line each.
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
    """Anything that frames come from; reading it twice gives the same frames."""

    info: SourceInfo

    def frames(self) -> Iterator[SourceFrame]:
        """All frames in presentation order."""

    def sample(self, count: int) -> Iterator[SourceFrame]:
        """At most about `count` frames spread over the whole source, cheaply."""

    def losses(self) -> list[str]:
        """What could not be read among the frames that the last `frames` went through, one line each."""

    def fingerprint(self) -> str:
        """SHA-256 of the source's content, as hex."""
