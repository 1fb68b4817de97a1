"""Which frames are matched, and how."""

from dataclasses import dataclass, field
from typing import Literal

from descriptor.flow.follow import DEFAULT_POINTS, PointCount
from descriptor.matching.keypoint_matching import KeypointRules
from descriptor.matching.pair_policy import DdlPolicy
from pipeline.command.bounds import Count, Settings
from pipeline.command.config import Flat

PairsName = Literal["keyframes", "ddl", "similar", "sequential", "exhaustive"]


@dataclass(frozen=True)
class MatchConfig(Settings):
    """Which frames are matched for the sparse model, and how."""

    points: PointCount = DEFAULT_POINTS
    """Points seeded in each keyframe."""
    pairs: PairsName = "keyframes"
    """Which frames are matched. keyframes: points of keyframes with the frames around them, with further keyframes, and
    by descriptors with any keyframe that looks alike. The others match SIFT keypoints frame by frame, with the options
    of Dense Descriptor Learning (DDL) below. ddl: the next frames, and later ones where a few keypoints agree. similar:
    as ddl, but only the most similar of the later frames are tried. sequential: the next frames only. exhaustive: all
    pairs, for a few hundred frames at most."""
    similar_frames: Count = 10
    """Later frames tried with each frame, for --pairs similar."""
    keypoints: Flat[KeypointRules] = field(default_factory=KeypointRules)
    policy: Flat[DdlPolicy] = field(default_factory=DdlPolicy)
