"""Recognition of the points of a photograph in its rotated and scaled copies, by GIFT, its extractor alone, and SIFT.

    python benchmarks/gift_invariance.py --gift STAGE_2/last.pt --extractor STAGE_1/last.pt [--plot FILE.png]

Up to 500 SIFT keypoints are described in the photograph, and at their true positions in each copy. A point is
recognized if its nearest neighbour among the descriptors of all points in the copy is its own. The baseline, SIFT, uses
the size and direction that it detects in each image; it does not recognize points that it does not detect within 3 px
of their true position. In brackets: its recall among the detected points.

The photograph comes with matplotlib unless --image is given; the bounds hold for this photograph.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import bounds
import cv2
import numpy as np
import torch
from matplotlib import cbook, pyplot
from measurement import print_machine, timed

from descriptor.base import Descriptor
from descriptor.gift.homography import apply, similarity, view_of
from descriptor.keypoints.describers import SiftDescriber
from descriptor.keypoints.detectors import Keypoints, SiftDetector
from descriptor.registry import load_descriptor
from pipeline.outputs.files import atomic_write

ANGLES_DEG = (0, 15, 30, 45, 60, 75, 90)
SCALES = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
MOTIONS: dict[str, dict[float, np.ndarray]] = {
    "rotated by degrees": {angle: similarity(1.0, math.radians(angle)) for angle in ANGLES_DEG},
    "scaled by": {scale: similarity(scale, 0.0) for scale in SCALES},
}
POINTS, SIDE_PX, DETECTED_PX = 500, 320, 3.0


def copy_of(image: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole image after a similarity transform, and the homography (3, 3) from the image to it."""
    height, width = image.shape[:2]
    corners = apply(motion, np.array([[0, 0], [width, 0], [0, height], [width, height]], float))
    low, high = corners.min(axis=0), corners.max(axis=0)
    shift = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    # GIFT needs 64 px a side.
    columns, rows = (max(64, int(side)) for side in np.ceil(high - low - 1e-6))
    return view_of(image, shift @ motion, (rows, columns)), shift @ motion


def recognized(first: torch.Tensor, second: torch.Tensor) -> float:
    """The share of rows of `first` whose most similar row of `second` is their own."""
    return float(((first @ second.T).argmax(dim=1) == torch.arange(len(first))).float().mean()) if len(first) else 0.0


def sizes(keypoints: Keypoints) -> np.ndarray:
    """The sizes of SIFT keypoints, (N,) px."""
    return np.array([each.size for each in keypoints.sift or ()])


def part_of(keypoints: Keypoints, rows: np.ndarray) -> Keypoints:
    """The SIFT keypoints of some rows."""
    assert keypoints.sift is not None
    return Keypoints(keypoints.pixels[rows], tuple(keypoints.sift[row] for row in rows))


def sift_shares(image: np.ndarray, copy: np.ndarray, points: Keypoints, motion: np.ndarray) -> tuple[float, float]:
    """The share that SIFT recognizes of all points, and of the points that it detects in the copy."""
    found = SiftDetector().detect(copy, 100_000)
    expected = apply(motion, points.pixels)
    if not len(found):
        return 0.0, 0.0
    apart = np.linalg.norm(expected[:, None] - found.pixels[None], axis=2)
    # Several keypoints may be near; take the one whose size is closest to the expected size.
    scale = math.sqrt(np.linalg.det(motion[:2, :2]))
    size_apart = np.abs(np.log2(sizes(found)[None] / (scale * sizes(points)[:, None])))
    nearest = np.where(apart <= DETECTED_PX, size_apart, np.inf).argmin(axis=1)
    detected = apart[np.arange(len(expected)), nearest] <= DETECTED_PX
    nearest_keypoints = part_of(found, nearest)
    describer = SiftDescriber()
    first, second = describer.describe(image, points), describer.describe(copy, nearest_keypoints)
    # Points that are not detected remain candidates.
    correct = ((first @ second.T).argmax(dim=1) == torch.arange(len(first))).numpy() & detected
    return float(correct.mean()), float(correct[detected].mean()) if detected.any() else 0.0


@dataclass(frozen=True)
class Photograph:
    """A photograph with SIFT keypoints, one at each position."""

    image: np.ndarray
    points: Keypoints

    @classmethod
    def load(cls, path: Path) -> "Photograph":
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        factor = SIDE_PX / max(image.shape[:2])
        image = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
        keypoints = SiftDetector().detect(image, 100_000)
        _, first = np.unique(keypoints.pixels.round(1), axis=0, return_index=True)
        return cls(image, part_of(keypoints, np.sort(first)[:POINTS]))


def measure(photograph: Photograph, backends: dict[str, Descriptor], note: str) -> dict[str, dict[str, list[float]]]:
    """Print a row for each copy; returns the shares by kind of copy and method."""
    image, points = photograph.image, photograph.points
    own = {name: backend.describe_at(image, points.pixels) for name, backend in backends.items()}
    curves: dict[str, dict[str, list[float]]] = {}
    for title, motions in MOTIONS.items():
        print(f"{title:>18}  {'GIFT':>6} {'extractor':>10} {'SIFT':>6} {'':>7} {'wall s':>7} {'CPU s':>6}  notes")
        shares: dict[str, list[float]] = {name: [] for name in (*backends, "SIFT")}
        for value, motion in motions.items():
            with timed() as cost:
                copy, to_copy = copy_of(image, motion)
                expected = apply(to_copy, points.pixels)
                for name, backend in backends.items():
                    shares[name].append(recognized(own[name], backend.describe_at(copy, expected)))
                of_all, of_detected = sift_shares(image, copy, points, to_copy)
            shares["SIFT"].append(of_all)
            latest = [shares[name][-1] for name in shares]
            print(
                f"{value:>18g}  {latest[0]:6.3f} {latest[1]:10.3f} {latest[2]:6.3f} ({of_detected:.3f}) "
                f"{cost.wall_s:>7.2f} {cost.cpu_s:>6.2f}  {note}",
                flush=True,
            )
        curves[title] = shares
    return curves


def worst_shares(curves: dict[str, dict[str, list[float]]]) -> dict[str, float | None]:
    """What the bounds limit: GIFT's lowest shares, and its share over SIFT's at four times the size."""
    scaled = {name: dict(zip(SCALES, shares, strict=True)) for name, shares in curves["scaled by"].items()}
    gift, sift = scaled["GIFT"], scaled["SIFT"]
    return {
        "rotated, worst angle": min(curves["rotated by degrees"]["GIFT"]),
        "scaled by 1/2 to 2, worst": min(share for scale, share in gift.items() if 0.5 <= scale <= 2),
        "scaled by 1/4": gift[0.25],
        "scaled by 4": gift[4.0],
        "scaled by 4, GIFT / SIFT": gift[4.0] / sift[4.0] if sift[4.0] else None,
    }


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Plot the shares against angle and scale."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, (title, motions) in zip(axes, MOTIONS.items(), strict=True):
        for name, values in curves[title].items():
            axis.plot(list(motions), values, "o-", ms=3, label=name)
        axis.set(xlabel=title, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[1].set_xscale("log", base=2)
    axes[0].set_ylabel("share of points recognized")
    axes[0].legend()
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=110)


def main() -> int:
    """Measure every copy; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gift", type=Path, help="checkpoint of stage 2")
    parser.add_argument("--extractor", type=Path, help="checkpoint of stage 1")
    parser.add_argument("--image", type=Path, help="a photograph; by default one that comes with matplotlib")
    parser.add_argument("--plot", type=Path, help="file to plot the shares to")
    options = parser.parse_args()
    if options.gift is None or options.extractor is None:
        parser.exit(message="skipped: give --gift and --extractor\n")
    photograph = Photograph.load(options.image or Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    backends: dict[str, Descriptor] = {
        "GIFT": load_descriptor(options.gift),
        "extractor": load_descriptor(options.extractor),
    }
    height, width = photograph.image.shape[:2]
    print_machine(f"PyTorch {torch.__version__}", f"{width}x{height}", f"{len(photograph.points)} points")
    curves = measure(photograph, backends, "weights trained before, on an unknown number of images")
    if options.plot:
        draw(curves, options.plot)
    if options.image is not None:
        return bounds.check((), {})
    return bounds.check(bounds.GIFT_INVARIANCE, worst_shares(curves))


if __name__ == "__main__":
    sys.exit(main())
