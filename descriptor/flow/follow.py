"""Tracks points of keyframes through a video.

Points are seeded in keyframes. Each is located in every other frame directly from its keyframe, for example by DIS
optical flow (`descriptor.flow.flow_finder`). Tracking from frame to frame would accumulate errors: tissue has so little
texture that one step is off by half a pixel, and ten steps by two.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import msgspec
import numpy as np

from descriptor.flow.checked_flow import PointSearch
from descriptor.flow.flow_finder import Directions
from descriptor.flow.working_frames import WorkingFrame, WorkingFrames
from pipeline.arrays import Float32s, Ints
from pipeline.data.array_files import read_arrays, write_arrays
from pipeline.data.tracks import MIN_FRAMES, Correspondences, Tracks
from pipeline.errors import NoReconstruction
from pipeline.finder import Finder, Found
from pipeline.progress import progress
from pipeline.report import StageReport

# Search all frames up to this keyframe before and after, and this many further keyframes.
_NEAR_KEYFRAMES = 2
_FAR_KEYFRAMES = 20
# A new keyframe is chosen when the image has moved by this share of its diagonal, when at most this share of the points
# is found, or after this many frames.
_KEYFRAME_MOTION = 0.05
_KEYFRAME_SHARED = 0.5
_KEYFRAME_FRAMES = 30
# With fewer keyframes than this the motion between them is reduced, down to this share of the diagonal.
_FEWEST_KEYFRAMES = 8
_LEAST_KEYFRAME_MOTION = 0.003
_CORNER_QUALITY = 0.001
_CORNER_BLOCK_PX = 5
# Spacing of points relative to a square lattice of as many points.
_SPACING = 0.5
_MIN_SPACING_PX = 3.0
# Points tracked to choose keyframes.
_KEYFRAME_PROBES = 500

# Points seeded in a keyframe.
PointCount = Annotated[int, msgspec.Meta(ge=50)]
DEFAULT_POINTS = 1000

logger = logging.getLogger(__name__)


def choose_keyframes(frames: WorkingFrames) -> tuple[Ints, list[int]]:
    """Choose keyframes by the image motion since the last keyframe and the share of points still found.

    With fewer than 8 keyframes, because the sequence is short or the camera slow, the spacing is reduced.

    Returns:
        (K,) int64, rows of the keyframes, ascending; and rows of frames that cannot be read.
    """
    motion = _KEYFRAME_MOTION
    keyframes, unreadable = _keyframes_every(motion, frames)
    while len(keyframes) < min(_FEWEST_KEYFRAMES, len(frames)) and motion > _LEAST_KEYFRAME_MOTION:
        motion /= 2
        keyframes, unreadable = _keyframes_every(motion, frames)
    return keyframes, unreadable


def _keyframes_every(motion: float, frames: WorkingFrames) -> tuple[Ints, list[int]]:
    """Keyframes at every motion of a share of the image diagonal, and the rows that cannot be read."""
    keyframes: list[int] = []
    unreadable = []
    search = None
    for row in progress(range(len(frames)), "choosing keyframes"):
        frame = frames[row]
        if frame is None:
            unreadable.append(row)
            continue
        if search is not None and row - keyframes[-1] < _KEYFRAME_FRAMES:
            found, positions = search.advance(frame.image, frame.mask)
            moved_px = np.linalg.norm(positions[found] - search.points[found], axis=1)
            near = len(moved_px) > 0 and np.median(moved_px) < motion * np.hypot(*frames.size)
            if near and found.mean() > _KEYFRAME_SHARED:
                continue
        probes = _seed(frame, _KEYFRAME_PROBES)
        # A black or overexposed frame has no points to track.
        if len(probes):
            keyframes.append(row)
            search = PointSearch(frame.image, probes)
    return np.array(keyframes, np.int64), unreadable


def check_keyframes(frames: WorkingFrames, keyframes: Ints, unreadable: Sequence[int], report: StageReport) -> None:
    """Check that there is something to follow, and report frames that cannot be read.

    Raises:
        NoReconstruction: if too few frames can be read, or no frame shows texture.
    """
    if len(frames) - len(unreadable) < MIN_FRAMES:
        raise NoReconstruction(
            f"no reconstruction: {len(unreadable)} of {len(frames)} frames cannot be read; extract again"
        )
    if not len(keyframes):
        raise NoReconstruction("no reconstruction: no frame shows any texture inside its mask")
    if unreadable:
        index = frames.frame_index[unreadable[0]]
        report.warnings.append(f"{len(unreadable)} frames cannot be read, the first is frame {index}")
        logger.warning("%s, %s", report.warnings[-1], frames.file(unreadable[0]))


def report_tracks(found: Correspondences, report: StageReport) -> None:
    """Log and report the number of tracks and their mean length."""
    tracks = found.tracks
    report.counts |= {
        "frames": len(tracks.frame_index),
        "unreadable": len(found.unreadable),
        "keyframes": len(found.keyframes),
        "tracks": tracks.track_count,
        "track_observations": len(tracks.frame),
    }
    length = len(tracks.frame) / max(1, tracks.track_count)
    logger.info("%d tracks, mean length %.1f frames", tracks.track_count, length)


def follow_points(frames: WorkingFrames, keyframes: Ints, find: Finder, points: int, folder: Path) -> Tracks:
    """Find the points of every keyframe in the frames around it.

    Args:
        frames: the sequence's frames by row.
        keyframes: (K,) rows.
        find: finds points of a keyframe in other frames, such as those of `keyframe_directions`.
        points: number of points to seed per keyframe.
        folder: folder for the results, one file per keyframe; a killed run resumes from them.

    Returns:
        Tracks of 2 frames or more.
    """
    parts = [_Part.load(_part(folder, row)) for row in keyframes.tolist()]
    left = [place for place, part in enumerate(parts) if part is None]
    done = len(parts) - len(left)
    if done:
        logger.info("%d of %d keyframes were tracked by an earlier run", done, len(parts))
    for place in progress(left, "tracking points", unit="keyframe", done=done):
        row = int(keyframes[place])
        parts[place] = part = _Part.of(_follow_from(frames, row, find, points))
        part.save(_part(folder, row))
    return _tracks([part for part in parts if part is not None], keyframes, frames.frame_index)


def keyframe_directions(frame_count: int, keyframes: Ints) -> Callable[[int], Directions]:
    """Rows to search for a keyframe's points: all frames up to the second keyframe before and after, and further
    keyframes."""
    rows = keyframes.tolist()

    def directions(row: int) -> Directions:
        place = rows.index(row)
        after, before = rows[place + 1 :], rows[:place][::-1]
        end = after[_NEAR_KEYFRAMES - 1] if len(after) >= _NEAR_KEYFRAMES else frame_count - 1
        first = before[_NEAR_KEYFRAMES - 1] if len(before) >= _NEAR_KEYFRAMES else 0
        far = slice(_NEAR_KEYFRAMES, _NEAR_KEYFRAMES + _FAR_KEYFRAMES)
        return [*range(row + 1, end + 1), *after[far]], [*range(row - 1, first - 1, -1), *before[far]]

    return directions


class KnownPoints:
    """A `pipeline.finder.Finder` that looks up points in tracks started at the same pixels.

    Args:
        tracks: with the frame in which each was seeded.
    """

    def __init__(self, tracks: Tracks) -> None:
        if tracks.seed_frame is None:
            raise ValueError("the frames in which tracks were seeded are unknown")
        self._tracks, self._seed_frame = tracks, tracks.seed_frame
        self._by_track = np.argsort(tracks.track, kind="stable")
        self._first = np.searchsorted(tracks.track[self._by_track], np.arange(tracks.track_count + 1))

    def __call__(self, reference: int, pixels: Float32s) -> Iterator[Found]:
        """Find pixels of a frame; see `pipeline.finder.Finder`."""
        tracks = self._tracks
        there = np.arange(len(tracks.frame))[tracks.in_frame(reference)]
        there = there[self._seed_frame[tracks.track[there]] == reference]
        known = {place.tobytes(): track for place, track in zip(tracks.pixels[there], tracks.track[there], strict=True)}
        pairs = [(point, known[place.tobytes()]) for point, place in enumerate(pixels) if place.tobytes() in known]
        parts = [self._by_track[self._first[track] : self._first[track + 1]] for _, track in pairs]
        observations = np.concatenate([np.zeros(0, np.int64), *parts])
        points = np.repeat(np.array([point for point, _ in pairs], np.int64), [len(part) for part in parts])
        order = np.argsort(tracks.frame[observations], kind="stable")
        observations, points = observations[order], points[order]
        rows, firsts = np.unique(tracks.frame[observations], return_index=True)
        for row, part in zip(rows.tolist(), np.split(np.arange(len(points)), firsts[1:]), strict=False):
            if row != reference:
                yield row, points[part], tracks.pixels[observations[part]]


def _seed(frame: WorkingFrame, points: int) -> Float32s:
    """Corners (N, 2) float32, distributed over the mask."""
    area_px = cv2.countNonZero(frame.mask)
    spacing_px = max(_MIN_SPACING_PX, _SPACING * float(np.sqrt(area_px / points)))
    corners = cv2.goodFeaturesToTrack(
        frame.image, points, _CORNER_QUALITY, spacing_px, mask=frame.mask, blockSize=_CORNER_BLOCK_PX
    )
    return np.zeros((0, 2), np.float32) if corners is None else np.asarray(corners[:, 0], np.float32)


def _follow_from(frames: WorkingFrames, row: int, find: Finder, points: int) -> Iterator[Found]:
    frame = frames[row]
    seeds = _seed(frame, points) if frame is not None else np.zeros((0, 2), np.float32)
    pixels = frames.colmap_from_working(seeds)
    yield row, np.arange(len(pixels)), pixels
    if len(pixels):
        yield from find(row, pixels)


def _part(folder: Path, row: int) -> Path:
    return folder / f"{row:06d}.npz"


@dataclass(frozen=True)
class _Part:
    """Observations of the points of one keyframe: rows of frames (O,), point indices (O,), pixels (O, 2)."""

    frame: Ints
    point: Ints
    pixels: Float32s

    @classmethod
    def of(cls, found: Iterator[Found]) -> "_Part":
        rows, points, pixels = zip(*found, strict=True)
        frame = np.repeat(np.array(rows, np.int64), [len(each) for each in points])
        return cls(frame, np.concatenate(points), np.concatenate(pixels))

    def save(self, path: Path) -> None:
        write_arrays(path, {"frame": self.frame, "point": self.point, "pixels": self.pixels})

    @classmethod
    def load(cls, path: Path) -> "_Part | None":
        arrays = read_arrays(path, ("frame", "point", "pixels"))
        return None if arrays is None else cls(**arrays)


def _tracks(parts: list[_Part], keyframes: Ints, frame_index: Sequence[int]) -> Tracks:
    """Merge the points of all keyframes into tracks; observations are ordered by frame."""
    counts = [int(part.point.max(initial=-1)) + 1 for part in parts]
    firsts = np.cumsum([0, *counts])
    frame = np.concatenate([part.frame for part in parts])
    track = np.concatenate([part.point + first for part, first in zip(parts, firsts, strict=False)])
    pixels = np.concatenate([part.pixels for part in parts])
    order = np.argsort(frame, kind="stable")
    seed_frame = np.repeat(keyframes, counts)
    tracks = Tracks(np.array(frame_index, np.int64), frame[order], track[order], pixels[order], seed_frame=seed_frame)
    return tracks.at_least(2)
