"""How well descriptors know places of a photograph again in its rotated and scaled copies: GIFT, its extractor, SIFT.

Run with `python benchmarks/gift_invariance.py --gift STAGE_2/last.pt --extractor STAGE_1/last.pt [--plot FILE.png]`.
Up to 500 corners of SIFT are described in the photograph, and at their known places in each copy; a point is known
again if its nearest neighbour among all points' descriptors in the copy is its own. SIFT takes the size and direction
that it finds in each image about the point, and does not know again what it does not detect there within 3 px; shares
of what it does detect are in brackets. The photograph is the one that comes with matplotlib, unless another is given.
"""

import argparse
import math
import os
import platform
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import cbook, pyplot

from descriptor.base import Descriptor
from descriptor.gift.homography import apply, similarity, view_of
from descriptor.keypoints.describers import SiftDescriber
from descriptor.keypoints.detectors import Keypoints, SiftDetector
from descriptor.registry import load_descriptor
from pipeline.outputs.files import atomic_write

ANGLES_DEG = (0, 15, 30, 45, 60, 75, 90)
SCALES = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
POINTS, SIDE_PX, DETECTED_PX = 500, 320, 3.0


def copy_of(image: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole image moved by a similarity about the origin, and the homography (3, 3) to its pixels."""
    height, width = image.shape[:2]
    corners = apply(motion, np.array([[0, 0], [width, 0], [0, height], [width, height]], float))
    low, high = corners.min(axis=0), corners.max(axis=0)
    shift = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    # GIFT describes nothing smaller than 64 px.
    columns, rows = (max(64, int(side)) for side in np.ceil(high - low - 1e-6))
    return view_of(image, shift @ motion, (rows, columns)), shift @ motion


def known_again(first: torch.Tensor, second: torch.Tensor) -> float:
    """The share of rows whose nearest row is their own."""
    return float(((first @ second.T).argmax(dim=1) == torch.arange(len(first))).float().mean()) if len(first) else 0.0


def sizes(keypoints: Keypoints) -> np.ndarray:
    """(N,) px, of SIFT's keypoints."""
    return np.array([each.size for each in keypoints.sift or ()])


def part_of(keypoints: Keypoints, rows: np.ndarray) -> Keypoints:
    """Some of SIFT's keypoints."""
    assert keypoints.sift is not None
    return Keypoints(keypoints.pixels[rows], tuple(keypoints.sift[row] for row in rows))


def sift_shares(image: np.ndarray, copy: np.ndarray, points: Keypoints, motion: np.ndarray) -> tuple[float, float]:
    """Of all points, and of those detected in the copy."""
    found = SiftDetector().detect(copy, 100_000)
    there = apply(motion, points.pixels)
    if not len(found):
        return 0.0, 0.0
    apart = np.linalg.norm(there[:, None] - found.pixels[None], axis=2)
    # Of those near the place, the one of the size that the copy should show.
    scale = math.sqrt(np.linalg.det(motion[:2, :2]))
    size_apart = np.abs(np.log2(sizes(found)[None] / (scale * sizes(points)[:, None])))
    nearest = np.where(apart <= DETECTED_PX, size_apart, np.inf).argmin(axis=1)
    detected = apart[np.arange(len(there)), nearest] <= DETECTED_PX
    at = part_of(found, nearest)
    describer = SiftDescriber()
    first, second = describer.describe(image, points), describer.describe(copy, at)
    # All points of the copy are candidates, detected again or not.
    right = ((first @ second.T).argmax(dim=1) == torch.arange(len(first))).numpy() & detected
    return float(right.mean()), float(right[detected].mean()) if detected.any() else 0.0


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gift", type=Path, help="checkpoint of stage 2")
    parser.add_argument("--extractor", type=Path, help="checkpoint of stage 1")
    parser.add_argument("--image", type=Path, help="a photograph")
    parser.add_argument("--plot", type=Path, help="where to draw the curves")
    arguments = parser.parse_args()
    if arguments.gift is None or arguments.extractor is None:
        parser.exit(message="skipped: it needs --gift and --extractor\n")
    path = arguments.image or cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    factor = SIDE_PX / max(image.shape[:2])
    image = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
    every = SiftDetector().detect(image, 100_000)
    _, first = np.unique(every.pixels.round(1), axis=0, return_index=True)
    chosen = np.sort(first)[:POINTS]
    points = part_of(every, chosen)
    backends: dict[str, Descriptor] = {
        "GIFT": load_descriptor(arguments.gift),
        "extractor": load_descriptor(arguments.extractor),
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}, {len(chosen)} points")
    curves: dict[str, dict[str, list[float]]] = {}
    motions = {
        "rotated by degrees": [(angle, similarity(1.0, math.radians(angle))) for angle in ANGLES_DEG],
        "scaled by": [(scale, similarity(scale, 0.0)) for scale in SCALES],
    }
    own = {name: backend.describe_at(image, points.pixels) for name, backend in backends.items()}
    for title, every_motion in motions.items():
        print(f"{title:>18}  {'GIFT':>6} {'extractor':>10} {'SIFT':>6}")
        shares: dict[str, list[float]] = {name: [] for name in (*backends, "SIFT")}
        for value, motion in every_motion:
            copy, to_copy = copy_of(image, motion)
            there = apply(to_copy, points.pixels)
            for name, backend in backends.items():
                shares[name].append(known_again(own[name], backend.describe_at(copy, there)))
            of_all, of_detected = sift_shares(image, copy, points, to_copy)
            shares["SIFT"].append(of_all)
            latest = [shares[name][-1] for name in shares]
            print(f"{value:>18g}  {latest[0]:6.3f} {latest[1]:10.3f} {latest[2]:6.3f} ({of_detected:.3f})", flush=True)
        curves[title] = shares
    if arguments.plot:
        figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
        for axis, (title, every_motion) in zip(axes, motions.items(), strict=True):
            for name, values in curves[title].items():
                axis.plot([value for value, _ in every_motion], values, "o-", ms=3, label=name)
            axis.set(xlabel=title, ylim=(0, 1.02))
            axis.grid(alpha=0.3)
        axes[1].set_xscale("log", base=2)
        axes[0].set_ylabel("share of points known again")
        axes[0].legend()
        with atomic_write(arguments.plot) as partial:
            figure.savefig(partial, dpi=110)


if __name__ == "__main__":
    main()
