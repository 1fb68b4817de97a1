"""Points followed through a video: what every way of finding correspondences hands to Structure from Motion."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import atomic_write
from pipeline.paths import AnyPath

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

# Fewest frames of a video that can be reconstructed.
MIN_FRAMES = 3


@dataclass(frozen=True)
class Tracks:
    """Observations of points, by frame. A track has at most one observation in a frame.

    Attributes:
        frame_index: (F,) int64, the frames by their index in the video, ascending; some may have no observation.
        frame: (O,) int64, the row in `frame_index` of each observation; ascending.
        track: (O,) int64, the number of each observation's track, from 0.
        pixels: (O, 2) float32 px, COLMAP's convention.
        track_count: T; by default one more than the largest number of a track.
        seed_frame: (T,) int64, the row of the frame in which each track was seeded; None if unknown.
    """

    frame_index: Integers
    frame: Integers
    track: Integers
    pixels: Floats
    track_count: int = 0
    seed_frame: Integers | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.frame), len(self.track), len(self.pixels)}
        if len(sizes) != 1 or (np.diff(self.frame) < 0).any():
            raise ValueError("observations have to be of one number and in the order of their frames")
        object.__setattr__(self, "track_count", max(self.track_count, int(self.track.max(initial=-1)) + 1))

    def lengths(self) -> Integers:
        """(T,) int64: in how many frames each track is observed."""
        return np.bincount(self.track, minlength=self.track_count)

    def in_frame(self, row: int) -> slice:
        """The observations in a frame, given by its row in `frame_index`."""
        first, end = np.searchsorted(self.frame, [row, row + 1])
        return slice(int(first), int(end))

    def select(self, observations: Booleans) -> "Tracks":
        """Keep some observations (O,); frames and the numbers of tracks stay."""
        return replace(
            self, frame=self.frame[observations], track=self.track[observations], pixels=self.pixels[observations]
        )

    def at_least(self, length: int) -> "Tracks":
        """Only tracks observed in at least `length` frames, numbered anew from 0."""
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
        """Read what `save` wrote.

        Raises:
            LumenError: if it is missing or damaged.
        """
        path = Path(path)
        with explain_os_errors("read", path):
            try:
                with np.load(path) as arrays:
                    # Earlier versions called it "begun".
                    seeds = next((arrays[name] for name in ("seed_frame", "begun") if name in arrays), None)
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
    keyframes: Integers
    unreadable: list[int]
