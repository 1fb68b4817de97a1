"""Cost and result of two ways to select pairs of frames: DDL's search, and only frames that look alike as a whole.

    python benchmarks/pair_selection.py --sequence RUN --weights RUN/training/last.pt [--every 20]

The baseline is DDL's policy, which tries later frames at a fixed interval. The other rows try only the 3 to 20 frames
whose global descriptors are most similar. A try matches a few keypoints. Pairs count if they agree and lie beyond the
temporal range. Frames are described and compared as a whole before the measurement. Every match is made once; its
seconds count for each policy that asks for it.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import bounds
import torch
from measurement import Cost, keep_all_note, print_machine, timed, weights_note

from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.engines.choice import choose_engine
from descriptor.matching.global_descriptor import FrameSimilarity
from descriptor.matching.keypoint_matching import KeypointMatcher, KeypointRules
from descriptor.matching.pair_policy import Candidates, DdlPolicy, PairMatches, match_from
from descriptor.registry import load_descriptor
from sfm.input_video import InputVideo

# How many of the most similar frames are tried.
SIMILAR = (3, 5, 10, 20)
Known = dict[tuple[int, int, int | None], tuple[PairMatches, Cost]]


class CountingMatcher:
    """Counts tries and pairs of one policy, and adds up their cost.

    Args:
        matcher: makes the matches.
        known: matches that an earlier policy asked for, with their cost; new ones are added.
    """

    def __init__(self, matcher: KeypointMatcher, known: Known) -> None:
        self._matcher, self._known = matcher, known
        self.cost = Cost(0.0, 0.0)
        self.counts: Counter[str] = Counter()

    def match(self, first: int, second: int, count: int | None) -> PairMatches:
        if (first, second, count) not in self._known:
            with timed() as cost:
                matches = self._matcher.match(first, second, count)
            self._known[first, second, count] = matches, cost
        matches, cost = self._known[first, second, count]
        self.cost.wall_s += cost.wall_s
        self.cost.cpu_s += cost.cpu_s
        self.counts["pairs" if count is None else "tries"] += 1
        return matches


def prepare(video: InputVideo, weights: Path) -> tuple[KeypointMatcher, FrameSimilarity]:
    """Describe all frames, detect their keypoints, and compare them as a whole."""
    frames = WorkingFrames(video.source, video.frame_index, video.mask)
    device = torch.device("cpu")
    described = DescribedFrames(
        load_descriptor(weights, device),
        choose_engine("auto", device),
        video.source,
        video.frame_index,
        video.mask,
        most_bytes=8 * 10**9,
    )
    count = len(frames)
    matcher = KeypointMatcher(frames, described, KeypointRules(), 0)
    similarity = FrameSimilarity(described, count, 0)
    similarity.between(0, range(count))
    for row in range(count):
        matcher.keypoints(row)
    return matcher, similarity


def measure(
    matcher: KeypointMatcher, similarity: FrameSimilarity, count: int, every: int, note: str
) -> dict[str, float | None]:
    """Print a row for each policy; returns what the bounds limit.

    Args:
        matcher: of the frames.
        similarity: of the frames.
        count: of the frames.
        every: only pairs of every N-th frame with later ones are matched.
        note: printed at the end of each row.
    """
    policy, known = DdlPolicy(), Known()

    def most_similar(most: int) -> Candidates:
        beyond = policy.temporal_range + 1
        return lambda first: similarity.most_similar(first, range(first + beyond, count), most, policy.skip_interval)

    policies = {"ddl": None} | {f"similar {most}": most_similar(most) for most in SIMILAR}
    print(f"{'':>10} {'tries':>6} {'matched':>8} {'beyond':>7} {'of ddl':>7} {'s a frame':>10} {'CPU s':>7}  notes")
    pairs: dict[str, set[tuple[int, int]]] = {}
    counts: dict[str, Counter[str]] = {}
    rows = range(0, count, every)
    for name, candidates in policies.items():
        counting = CountingMatcher(matcher, known)
        matched = {
            (first, row) for first in rows for row, _ in match_from(first, count, policy, counting.match, candidates)
        }
        pairs[name] = {(first, second) for first, second in matched if second - first > policy.temporal_range}
        counts[name] = counting.counts
        shared = len(pairs[name] & pairs["ddl"]) / max(1, len(pairs["ddl"]))
        wall_s, cpu_s = counting.cost.wall_s / len(rows), counting.cost.cpu_s / len(rows)
        print(
            f"{name:>10} {counts[name]['tries']:>6} {counts[name]['pairs']:>8} {len(pairs[name]):>7} {shared:>7.0%} "
            f"{wall_s:>10.1f} {cpu_s:>7.1f}  {note}",
            flush=True,
        )
    return {
        "pairs of similar 10 / pairs of ddl": len(pairs["similar 10"] & pairs["ddl"]) / max(1, len(pairs["ddl"])),
        "tries of similar 10 / tries of ddl": counts["similar 10"]["tries"] / max(1, counts["ddl"]["tries"]),
    }


def main() -> int:
    """Measure every policy; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence", type=Path, help="a sequence, or the output of reconstruct.py")
    parser.add_argument("--weights", type=Path, help="checkpoint of a descriptor")
    parser.add_argument("--weights_frames", type=int, help="number of frames the weights were trained on, if known")
    parser.add_argument("--every", type=int, default=20, help="match every N-th frame (default: %(default)d)")
    options = parser.parse_args()
    if options.sequence is None or options.weights is None:
        parser.exit(message="skipped: give --sequence and --weights\n")
    video = InputVideo.read(options.sequence)
    count = len(video.frame_index)
    width, height = video.size
    print_machine(f"PyTorch {torch.__version__}", f"{count} frames of {width}x{height}", f"every {options.every}")
    notes = (
        keep_all_note(sum(bool(frame.flags) for frame in video.facts.frames)),
        weights_note(options.weights, count, options.weights_frames),
    )
    matcher, similarity = prepare(video, options.weights)
    note = ", ".join(filter(None, notes))
    return bounds.check(bounds.PAIR_SELECTION, measure(matcher, similarity, count, options.every, note))


if __name__ == "__main__":
    sys.exit(main())
