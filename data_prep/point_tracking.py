"""Following points through a video whose frames overlap almost entirely: dense optical flow from keyframes.

Points are seeded in keyframes, and each is found in every other frame directly from its keyframe, by DIS optical flow
(Kroeger et al., ECCV 2016) that is checked by going back. Tracking from frame to frame would add up errors: tissue has
so little texture that a step is off by half a pixel, and ten of them by two.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_prep.working_frames import WorkingFrame, WorkingFrames
from pipeline.files import atomic_write
from pipeline.point_search import MIN_FOUND_SHARE, PointSearch
from pipeline.progress import progress
from pipeline.tracks import Floats, Integers, Tracks

# A keyframe's points are looked for in all frames up to the second keyframe before and after it, and in these many
# further keyframes.
_NEAR_KEYFRAMES = 2
_FAR_KEYFRAMES = 20
# The next keyframe comes when the image has moved by this share of its diagonal, or so many points are left.
_KEYFRAME_MOTION = 0.05
_KEYFRAME_SHARED = 0.5
_KEYFRAME_FRAMES = 30
# A direction in time is given up when so few of the points are found in more frames than these, one after the other: a
# flash or a drop of water does not end it.
_MAX_MISSES = 3
_CORNER_QUALITY = 0.001
_CORNER_BLOCK_PX = 5
# Distance between points as a share of that on a square lattice of as many.
_SPACING = 0.5
_MIN_SPACING_PX = 3.0
# Points followed to choose keyframes.
_KEYFRAME_PROBES = 500

logger = logging.getLogger(__name__)


def choose_keyframes(frames: WorkingFrames) -> tuple[Integers, list[int]]:
    """Choose keyframes by how far the image has moved since the last one and how much of it can still be found.

    Returns:
        (K,) int64, their rows, ascending, and the rows of frames that cannot be read.
    """
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
            near = len(moved_px) > 0 and np.median(moved_px) < _KEYFRAME_MOTION * np.hypot(*frames.size)
            if near and found.mean() > _KEYFRAME_SHARED:
                continue
        probes = _seed(frame, _KEYFRAME_PROBES)
        # A black frame or a flash begins nothing.
        if len(probes):
            keyframes.append(row)
            search = PointSearch(frame.image, probes)
    return np.array(keyframes, np.int64), unreadable


def follow_points(
    frames: WorkingFrames, frame_index: Sequence[int], keyframes: Integers, points: int, folder: Path
) -> Tracks:
    """Find the points of every keyframe in the frames around it.

    Args:
        frames: the sequence's frames by row.
        frame_index: their indices in the video, ascending.
        keyframes: (K,) rows.
        points: how many to seed in a keyframe.
        folder: where to keep what is found, a file a keyframe; a killed run goes on from there.

    Returns:
        The tracks of 2 frames or more.
    """
    paths = [_part(folder, row) for row in keyframes.tolist()]
    left = [place for place, path in enumerate(paths) if not path.exists()]
    done = len(paths) - len(left)
    if done:
        logger.info("%d of %d keyframes were followed before", done, len(paths))
    for place in progress(left, "following points", unit="keyframe", done=done):
        _Found.of(_follow_from(frames, keyframes, place, points)).save(paths[place])
    return _tracks([_Found.load(path) for path in paths], frames, frame_index)


def _seed(frame: WorkingFrame, points: int) -> Floats:
    """Corners (N, 2) float32, spread over the mask."""
    area_px = cv2.countNonZero(frame.mask)
    spacing_px = max(_MIN_SPACING_PX, _SPACING * float(np.sqrt(area_px / points)))
    corners = cv2.goodFeaturesToTrack(
        frame.image, points, _CORNER_QUALITY, spacing_px, mask=frame.mask, blockSize=_CORNER_BLOCK_PX
    )
    return np.zeros((0, 2), np.float32) if corners is None else np.asarray(corners[:, 0], np.float32)


def _follow_from(
    frames: WorkingFrames, keyframes: Integers, place: int, points: int
) -> Iterator[tuple[int, Integers, Floats]]:
    """For each frame in which points of a keyframe are found: its row, (N,) which points, (N, 2) where."""
    row = int(keyframes[place])
    frame = frames[row]
    seeds = _seed(frame, points) if frame is not None else np.zeros((0, 2), np.float32)
    yield row, np.arange(len(seeds)), seeds
    if frame is None or not len(seeds):
        return
    for targets in _targets(len(frames), keyframes, place):
        search = PointSearch(frame.image, seeds)
        misses = 0
        for target in targets:
            other = frames[target]
            if other is None:
                continue
            found, positions = search.advance(other.image, other.mask)
            misses = misses + 1 if found.mean() < MIN_FOUND_SHARE else 0
            if misses > _MAX_MISSES:
                break
            if not misses:
                yield target, np.flatnonzero(found), positions[found]


def _targets(frame_count: int, keyframes: Integers, place: int) -> tuple[list[int], list[int]]:
    """The frames in which to look for a keyframe's points, later and earlier, each from near to far."""
    row = int(keyframes[place])
    after, before = keyframes[place + 1 :], keyframes[:place][::-1]
    end = int(after[_NEAR_KEYFRAMES - 1]) if len(after) >= _NEAR_KEYFRAMES else frame_count - 1
    first = int(before[_NEAR_KEYFRAMES - 1]) if len(before) >= _NEAR_KEYFRAMES else 0
    far = slice(_NEAR_KEYFRAMES, _NEAR_KEYFRAMES + _FAR_KEYFRAMES)
    return [*range(row + 1, end + 1), *after[far].tolist()], [*range(row - 1, first - 1, -1), *before[far].tolist()]


def _part(folder: Path, row: int) -> Path:
    return folder / f"{row:06d}.npz"


@dataclass(frozen=True)
class _Found:
    """Where the points of one keyframe were found: rows of frames (O,), which points (O,), places (O, 2)."""

    frame: Integers
    point: Integers
    position: Floats

    @classmethod
    def of(cls, found: Iterator[tuple[int, Integers, Floats]]) -> "_Found":
        rows, points, positions = zip(*found, strict=True)
        frame = np.repeat(np.array(rows, np.int64), [len(each) for each in points])
        return cls(frame, np.concatenate(points), np.concatenate(positions))

    def save(self, path: Path) -> None:
        with atomic_write(path) as partial, partial.open("wb") as stream:
            np.savez(stream, frame=self.frame, point=self.point, position=self.position)

    @classmethod
    def load(cls, path: Path) -> "_Found":
        with np.load(path) as arrays:
            return cls(arrays["frame"], arrays["point"], arrays["position"])


def _tracks(parts: list[_Found], frames: WorkingFrames, frame_index: Sequence[int]) -> Tracks:
    """Number the points of all keyframes through, and order what was found by frame."""
    firsts = np.cumsum([0, *(int(part.point.max(initial=-1)) + 1 for part in parts)])
    frame = np.concatenate([part.frame for part in parts])
    track = np.concatenate([part.point + first for part, first in zip(parts, firsts, strict=False)])
    pixels = frames.colmap_from_working(np.concatenate([part.position for part in parts]))
    order = np.argsort(frame, kind="stable")
    return Tracks(np.array(frame_index, np.int64), frame[order], track[order], pixels[order]).at_least(2)
