"""Tracks: points observed in several frames of a video. All matching methods pass them to Structure from Motion."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.arrays import Bools, Float32s, Ints
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import atomic_write
from pipeline.paths import AnyPath

# The names by which other packages import these types from here.

# The smallest number of frames that can be reconstructed.
MIN_FRAMES = 3


@dataclass(frozen=True)
class Tracks:
    """Observations of points, sorted by frame. A track has at most one observation in a frame.

    Attributes:
        frame_index: (F,) int64, index of each frame in the video, ascending; frames may have no observation.
        frame: (O,) int64, the row in `frame_index` of each observation; ascending.
        track: (O,) int64, the track of each observation, numbered from 0.
        pixels: (O, 2) float32 px, COLMAP's convention.
        track_count: T; by default one more than the largest track number.
        seed_frame: (T,) int64, the row of the frame in which each track was seeded; None if unknown.
    """

    frame_index: Ints
    frame: Ints
    track: Ints
    pixels: Float32s
    track_count: int = 0
    seed_frame: Ints | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.frame), len(self.track), len(self.pixels)}
        if len(sizes) != 1 or (np.diff(self.frame) < 0).any():
            raise ValueError("frame, track and pixels must have the same length and be sorted by frame")
        object.__setattr__(self, "track_count", max(self.track_count, int(self.track.max(initial=-1)) + 1))

    def lengths(self) -> Ints:
        """(T,) int64: number of observations of each track."""
        return np.bincount(self.track, minlength=self.track_count)

    def in_frame(self, row: int) -> slice:
        """The observations in the frame at a row of `frame_index`."""
        first, end = np.searchsorted(self.frame, [row, row + 1])
        return slice(int(first), int(end))

    def select(self, observations: Bools) -> "Tracks":
        """Keep the selected observations (O,). Frames and track numbers do not change."""
        return replace(
            self, frame=self.frame[observations], track=self.track[observations], pixels=self.pixels[observations]
        )

    def at_least(self, length: int) -> "Tracks":
        """Keep tracks observed in at least `length` frames, renumbered from 0."""
        kept = self.select(self.lengths()[self.track] >= length)
        old, numbers = np.unique(kept.track, return_inverse=True)
        seed_frame = None if self.seed_frame is None else self.seed_frame[old]
        return replace(kept, track=numbers.astype(np.int64), track_count=0, seed_frame=seed_frame)

    def save(self, path: AnyPath) -> None:
        """Write an NPZ file, atomically."""
        arrays: dict[str, Any] = {
            "frame_index": self.frame_index,
            "frame": self.frame.astype(np.int32),
            "track": self.track.astype(np.int32),
            "pixels": self.pixels,
        }
        if self.seed_frame is not None:
            arrays["seed_frame"] = self.seed_frame.astype(np.int32)
        with atomic_write(Path(path)) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, path: AnyPath) -> "Tracks":
        """Read a file that `save` wrote.

        Raises:
            LumenError: if it is missing or damaged.
        """
        path = Path(path)
        with explain_os_errors("read", path):
            try:
                with np.load(path) as arrays:
                    seeds = arrays.get("seed_frame")
                    return cls(
                        frame_index=arrays["frame_index"].astype(np.int64),
                        frame=arrays["frame"].astype(np.int64),
                        track=arrays["track"].astype(np.int64),
                        pixels=arrays["pixels"].astype(np.float32),
                        seed_frame=None if seeds is None else seeds.astype(np.int64),
                    )
            except (ValueError, KeyError, EOFError, BadZipFile) as error:
                raise LumenError(f"{path} does not hold tracks: {error}") from error


@dataclass(frozen=True)
class Correspondences:
    """What mapping starts from.

    Attributes:
        tracks: of all frames.
        keyframes: (K,) rows of `tracks.frame_index`.
        unreadable: rows of frames that cannot be read.
    """

    tracks: Tracks
    keyframes: Ints
    unreadable: list[int]
