"""What a reconstruction needs, estimated before it starts: time from a measured pair of frames, disk and memory."""

import time
from dataclasses import dataclass

import numpy as np

from descriptor.flow.checked_flow import PointSearch
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.config import MatchConfig
from descriptor.matching.guided_finder import GuidedFinder

# As measured on endoscopy of 640x512 and 1080p: keyframes of all frames, the pairs of a keyframe, the share of a
# frame's cells that get a point in a reference, frames that see a point, and bytes of an observation in all files and
# in memory. Triangulating takes about twice as long as flow does, and descriptors are asked for a part of the pairs.
_KEYFRAME_SHARE, _KEYFRAME_PAIRS, _DESCRIPTOR_PAIRS = 0.2, 30, 16
_POINTS_SHARE, _VIEWS = 0.4, 11
_DISK_BYTES, _MEMORY_BYTES, _BASE_MEMORY = 75, 260, 0.9e9
_DENSE_FACTOR, _GUIDED_SHARE = 3.0, 0.3


@dataclass(frozen=True)
class Estimate:
    """What is needed.

    Attributes:
        minutes: for everything after the training.
        disk_gb, memory_gb: 10^9 bytes.
    """

    minutes: float
    disk_gb: float
    memory_gb: float

    def __str__(self) -> str:
        minutes = max(1, round(self.minutes))
        return f"about {minutes} min, {self.disk_gb:.1f} GB of disk and {self.memory_gb:.1f} GB of memory"


def estimate(
    config: MatchConfig,
    frames: WorkingFrames,
    guided: GuidedFinder | None,
    *,
    cells: float,
    references: int,
    coverage: float,
    pairs_per_reference: int,
) -> Estimate:
    """Estimate what the stages from matching to densification need.

    Args:
        config: of matching.
        frames: of the sequence.
        guided: finds by descriptors; None for flow alone.
        cells: of a frame.
        references: largest number of reference images.
        coverage: share of the cells to cover, 0..1.
        pairs_per_reference: frames in which a reference image's points are searched.
    """
    flow_s, guided_s, describe_s = _seconds(frames, guided)
    count = len(frames)
    keyframes = _KEYFRAME_SHARE * count
    references = min(references, count)
    if config.pairs == "keyframes":
        path_s = flow_s * (count + keyframes * _KEYFRAME_PAIRS) + guided_s * keyframes * _DESCRIPTOR_PAIRS
    else:
        path_s = guided_s * sum(_pairs_of_frame(config, later) for later in range(count))
    # Frames are described once for each of the stages, and once more to compare them as a whole.
    described_s = describe_s * count * (2 if config.pairs == "keyframes" else 3)
    dense_s = references * pairs_per_reference * (_DENSE_FACTOR * flow_s + _GUIDED_SHARE * guided_s)
    observations = min(references * cells * _POINTS_SHARE * _VIEWS, coverage * cells * count)
    return Estimate(
        minutes=(path_s + described_s + dense_s) / 60,
        disk_gb=observations * _DISK_BYTES / 1e9,
        memory_gb=(_BASE_MEMORY + observations * _MEMORY_BYTES) / 1e9,
    )


def _pairs_of_frame(config: MatchConfig, later: int) -> float:
    """The number of pairs of a frame with this many later frames, including tries."""
    if config.pairs == "exhaustive":
        return later
    beyond = max(0, later - config.policy.temporal_range)
    tries = {"ddl": beyond / config.policy.skip_interval, "similar": min(config.similar_frames, beyond)}
    return min(config.policy.temporal_range, later) + tries.get(config.pairs, 0)


def _seconds(frames: WorkingFrames, guided: GuidedFinder | None) -> tuple[float, float, float]:
    """Seconds of one pair by flow, of one by descriptors, and of describing a frame (0 without), from the first frames
    that can be read."""
    readable = [row for row in range(min(len(frames), 20)) if frames[row] is not None][:2]
    if len(readable) < 2:
        return 0.1, 0.0, 0.0
    first, second = (frames[row] for row in readable)
    assert first is not None and second is not None
    points = np.zeros((1, 2), np.float32)
    started = time.monotonic()
    PointSearch(first.image, points).advance(second.image, second.mask)
    flow_s = time.monotonic() - started
    if guided is None:
        return flow_s, 0.0, 0.0
    pixels = frames.colmap_from_working(points)
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        guided.find(readable[0], pixels, readable[1])
        seconds.append(time.monotonic() - started)
    # The first time also describes both frames.
    return flow_s, seconds[1], max(0.0, seconds[0] - seconds[1]) / 2
