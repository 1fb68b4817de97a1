"""Percentage of correct keypoints (PCK) by the distance between frames."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from descriptor.clips.clip import Clip
from descriptor.evaluation.pair_matching import PairMatcher
from pipeline.arrays import Float64s
from pipeline.errors import LumenError
from pipeline.progress import progress

Distances = tuple[int, int]

DISTANCES: tuple[Distances, ...] = ((1, 5), (6, 10), (11, 20), (21, 30), (31, 45), (46, 60))
THRESHOLDS_PX = (1, 3, 5, 6, 10, 12, 20)
# Attempts to draw a pair of frames at a distance before giving up.
_ATTEMPTS = 20


@dataclass(frozen=True)
class Sampling:
    """Selection of pairs and points.

    Attributes:
        pairs: number of pairs of frames at each distance.
        points: maximum number of points per pair.
        frame_share: part of each clip's frames.
        adjacent_range: smallest and largest distance between frames of the video.
        seed: seed of the choice.
    """

    pairs: int = 20
    points: int = 500
    frame_share: tuple[float, float] = (0.0, 1.0)
    adjacent_range: Distances = (1, 60)
    seed: int = 0

    def distances(self) -> list[Distances]:
        """The bins of DISTANCES within the range, and one bin for larger distances."""
        low, high = self.adjacent_range
        beyond = (DISTANCES[-1][1] + 1, high)
        cut = [(max(low, first), min(high, last)) for first, last in (*DISTANCES, beyond)]
        return [each for each in cut if each[0] <= each[1]]


@dataclass(frozen=True)
class PairSample:
    """Points shared by two frames, in pixels of the recorded frames."""

    clip: Clip
    source: int
    target: int
    points: Float64s
    truth: Float64s


@dataclass
class Errors:
    """Matching errors, in pixels of the downsampled frame; NaN for points without a match.

    Attributes:
        by_distance: distance between frames → one array of errors per pair.
        found: matches in pixels of the recorded frames, in the same order.
    """

    by_distance: dict[Distances, list[Float64s]] = field(default_factory=dict)
    found: dict[Distances, list[Float64s]] = field(default_factory=dict)

    def of_found(self) -> "Errors":
        """The errors of the points that have a match."""
        return Errors({key: [each[~np.isnan(each)] for each in own] for key, own in self.by_distance.items()})

    def at(self, distances: Distances) -> Float64s:
        """All errors at a distance between frames."""
        parts = self.by_distance.get(distances, [])
        return np.concatenate(parts) if parts else np.zeros(0)

    def pck(self, distances: Distances, threshold_px: float) -> float:
        """The share of points with an error up to the threshold; NaN without points."""
        errors = self.at(distances)
        return float(np.mean(errors <= threshold_px)) if len(errors) else float("nan")

    def median_px(self, distances: Distances) -> float:
        """The median error; points without a match count as infinitely far; NaN without points."""
        errors = self.at(distances)
        return float(np.median(np.nan_to_num(errors, nan=np.inf))) if len(errors) else float("nan")


def sample_pairs(clips: Sequence[Clip], sampling: Sampling) -> dict[Distances, list[PairSample]]:
    """Draw pairs of frames at each distance, in either order, with their shared points.

    Raises:
        LumenError: if there is no pair at any distance.
    """
    found = {}
    for bin_number, distances in enumerate(sampling.distances()):
        random = np.random.default_rng([sampling.seed, bin_number])
        drawn = (_draw(clips, distances, sampling, random) for _ in range(sampling.pairs))
        # Sorted by frame, so that cached results are reused.
        found[distances] = sorted((pair for pair in drawn if pair is not None), key=_place_in_video)
    if not any(found.values()):
        low, high = sampling.adjacent_range
        raise LumenError(
            f"no two frames {low} to {high} apart share a point: widen --adjacent_range, --frame_share or "
            "--visibility_overlap"
        )
    return found


def evaluate(
    matchers: Sequence[PairMatcher], pairs: dict[Distances, list[PairSample]], pixel_downsampling: float
) -> dict[str, Errors]:
    """Match the points of each pair with each matcher.

    Args:
        matchers: matching methods with unique names.
        pairs: pairs from `sample_pairs`.
        pixel_downsampling: errors are in pixels of a frame this many times smaller than recorded.

    Returns:
        Matcher name → its errors.
    """
    result = {
        matcher.name: Errors({distances: [] for distances in pairs}, {distances: [] for distances in pairs})
        for matcher in matchers
    }
    for matcher in matchers:
        every = [(distances, pair) for distances, own in pairs.items() for pair in own]
        every.sort(key=lambda item: _place_in_video(item[1]))
        for distances, pair in progress(every, f"matching with {matcher.name}", unit="pair"):
            found = matcher.match(pair.clip, pair.source, pair.target, pair.points)
            errors = np.linalg.norm(found - pair.truth, axis=1) / pixel_downsampling
            result[matcher.name].by_distance[distances].append(errors)
            result[matcher.name].found[distances].append(found)
    return result


def _draw(
    clips: Sequence[Clip], distances: Distances, sampling: Sampling, random: np.random.Generator
) -> PairSample | None:
    weights = np.array([len(clip.frame_index) for clip in clips], float)
    for _ in range(_ATTEMPTS):
        clip = clips[int(random.choice(len(clips), p=weights / weights.sum()))]
        count = len(clip.frame_index)
        rows = np.arange(round(sampling.frame_share[0] * count), round(sampling.frame_share[1] * count))
        if not len(rows):
            continue
        source = int(random.choice(rows))
        near = clip.rows_within(source, distances, rows)
        if not len(near):
            continue
        target = int(random.choice(near))
        shared = clip.correspondence.between(source, target)
        if len(shared):
            shared = shared.take(sampling.points, random)
            recorded = clip.frame.image_from_network
            return PairSample(clip, source, target, recorded(shared.source), recorded(shared.target))
    return None


def _place_in_video(pair: PairSample) -> tuple[str, int]:
    return pair.clip.name, pair.source
