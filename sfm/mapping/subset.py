"""The part of a video's tracks that is enough to map it: the longest ones, in keyframes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.tracks import Integers, Tracks

Pair = tuple[str, str]

_MIN_KEYFRAMES = 3
_PAIR_OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def select_skeleton(tracks: Tracks, keyframes: Integers, points: int) -> Tracks:
    """Observations in keyframes of the tracks that most keyframes share, about `points` new ones in each.

    Args:
        tracks: of the whole video.
        keyframes: (K,) rows of its frames.
        points: how many of the tracks that begin in a keyframe to take.
    """
    kept = tracks.select(np.isin(tracks.frame, keyframes))
    lengths = kept.lengths()
    # The longest first within each keyframe in which tracks begin.
    numbers, first = np.unique(kept.track, return_index=True)
    begins = kept.frame[first]
    order = np.lexsort((-lengths[numbers], begins))
    rank = np.arange(len(order)) - np.searchsorted(begins[order], begins[order])
    chosen = numbers[order][(rank < points) & (lengths[numbers][order] >= _MIN_KEYFRAMES)]
    return kept.select(np.isin(kept.track, chosen))


def pair_keyframes(count: int) -> list[tuple[int, int]]:
    """Pairs of keyframes to match, by their place among `count`: near ones all, far ones at growing distances."""
    return [(first, first + offset) for first in range(count) for offset in _PAIR_OFFSETS if first + offset < count]


def correspondences_from_tracks(
    tracks: Tracks, rows: Sequence[int], names: Sequence[str], min_shared: int
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[Pair, npt.NDArray[np.int64]]]:
    """The keypoints and matches that tracks give in some frames.

    Args:
        tracks: the tracks.
        rows: the frames, rows of `tracks.frame_index`.
        names: of their images.
        min_shared: leave out pairs that share fewer points.

    Returns:
        Keypoints and matches as `sfm.colmap.database.write_database` takes them; keypoints are in the order of the
        tracks' observations.
    """
    seen = [tracks.in_frame(row) for row in rows]
    keypoints = {name: tracks.pixels[part] for name, part in zip(names, seen, strict=True)}
    matches = {}
    for a, b in pair_keyframes(len(rows)):
        common, in_a, in_b = np.intersect1d(
            tracks.track[seen[a]], tracks.track[seen[b]], assume_unique=True, return_indices=True
        )
        if len(common) >= min_shared:
            matches[names[a], names[b]] = np.column_stack([in_a, in_b]).astype(np.int64)
    return keypoints, matches
