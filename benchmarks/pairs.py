"""Choosing pairs of frames: what DDL's search finds beyond the next frames and what that costs, against trying only
frames that look alike as a whole.

Run with `python benchmarks/pairs.py --sequence RUN --weights RUN/training/last.pt [--every 20]`. Of a sequence, such as
a run of reconstruct.py, every so-many-th frame is matched with later ones by DDL's policy, and by trying the 3 to 20
most alike. Tries are matches of a few keypoints; pairs that agree count beyond the temporal range. Frames are
described, and compared as a whole, before anything is timed. Fewer than 90 % of DDL's pairs with ten tries are a
regression.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.engines.choice import choose_engine
from descriptor.matching.global_descriptor import FrameSimilarity
from descriptor.matching.keypoint_matching import KeypointMatcher, KeypointRules
from descriptor.matching.pair_policy import Candidates, DdlPolicy, PairMatches, match_from
from descriptor.registry import load_descriptor
from sfm.input_video import InputVideo

# How many frames that look most alike are tried.
SIMILAR = (3, 5, 10, 20)
# Matches are made once, and their time counted for each policy that asks.
Known = dict[tuple[int, int, int | None], tuple[PairMatches, float]]


class CountingMatcher:
    """Counts what it is asked for, and how long that takes."""

    def __init__(self, matcher: KeypointMatcher, known: Known) -> None:
        self._matcher, self._known = matcher, known
        self.seconds = 0.0
        self.asked: Counter[str] = Counter()

    def match(self, first: int, second: int, count: int | None) -> PairMatches:
        if (first, second, count) not in self._known:
            started = time.perf_counter()
            found = self._matcher.match(first, second, count)
            self._known[first, second, count] = found, time.perf_counter() - started
        found, seconds = self._known[first, second, count]
        self.seconds += seconds
        self.asked["pairs" if count is None else "tries"] += 1
        return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence", type=Path)
    parser.add_argument("--weights", type=Path, help="of a descriptor")
    parser.add_argument("--every", type=int, default=20, help="match from every so-many-th frame")
    arguments = parser.parse_args()
    if arguments.sequence is None or arguments.weights is None:
        parser.exit(message="skipped: it needs --sequence and --weights\n")
    video = InputVideo.read(arguments.sequence)
    frames = WorkingFrames(video.source, video.frame_index, video.mask)
    device = torch.device("cpu")
    descriptor = load_descriptor(arguments.weights, device)
    described = DescribedFrames(
        descriptor, choose_engine("auto", device), video.source, video.frame_index, video.mask, most_bytes=8 * 10**9
    )
    count = len(frames)
    matcher = KeypointMatcher(frames, described, KeypointRules(), 0)
    similarity = FrameSimilarity(described, count, 0)
    similarity.between(0, range(count))
    for row in range(count):
        matcher.keypoints(row)
    policy, known = DdlPolicy(), Known()

    def alike(most: int) -> Candidates:
        beyond = policy.temporal_range + 1
        return lambda first: similarity.most_alike(first, range(first + beyond, count), most, policy.skip_interval)

    policies = {"ddl": None} | {f"similar {most}": alike(most) for most in SIMILAR}
    pairs: dict[str, set[tuple[int, int]]] = {}
    print(f"{'':>10} {'tries':>6} {'pairs matched':>14} {'beyond':>7} {'of ddl':>7} {'s a frame':>10}")
    for name, candidates in policies.items():
        counting = CountingMatcher(matcher, known)
        rows = range(0, count, arguments.every)
        found = {
            (first, row) for first in rows for row, _ in match_from(first, count, policy, counting.match, candidates)
        }
        pairs[name] = {(first, second) for first, second in found if second - first > policy.temporal_range}
        shared = len(pairs[name] & pairs["ddl"]) / max(1, len(pairs["ddl"]))
        asked = counting.asked
        print(
            f"{name:>10} {asked['tries']:>6} {asked['pairs']:>14} {len(pairs[name]):>7} {shared:>7.0%} "
            f"{counting.seconds / len(rows):>10.1f}"
        )


if __name__ == "__main__":
    main()
