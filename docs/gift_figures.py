"""Make the figures of docs/gift.md: `python docs/gift_figures.py PHANTOM --gift FILE --extractor FILE`.

GIFT describes a frame of a phantom and a rotated, smaller view of it, step by step.
"""

import argparse
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from descriptor.gift.descriptor import GiftDescriptor, GiftNetwork
from descriptor.gift.homography import about_middle, apply, similarity, view_of
from descriptor.gift.network import as_input, group_features
from descriptor.keypoints.detectors import HarrisDetector
from descriptor.keypoints.evaluation import match_descriptors
from descriptor.registry import load_descriptor
from pipeline.data.phantom_files import PhantomPaths
from pipeline.outputs.files import atomic_write

DOCS = Path(__file__).parent
FRAME, HEIGHT, WIDTH = 10, 288, 360
SCALE, TURN_DEG = 0.5, 45.0
KEYPOINTS, SHOWN = 300, 60
CORRECT_PX = 4.0


def read_frame(video: Path) -> np.ndarray:
    """Return one downsampled frame (H, W, 3), RGB, of the phantom's video."""
    capture = cv2.VideoCapture(str(video))
    for _ in range(FRAME + 1):
        found, image = capture.read()
        if not found:
            raise SystemExit(f"{video} has fewer than {FRAME + 1} frames")
    small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def load(path: Path) -> GiftNetwork:
    """Return the network of a GIFT checkpoint."""
    descriptor = load_descriptor(path)
    if not isinstance(descriptor, GiftDescriptor):
        raise SystemExit(f"{path} is not a checkpoint of GIFT")
    return descriptor.network


def group_figure(network: GiftNetwork, image: np.ndarray) -> Figure:
    """Plot the image under every element of the group."""
    scales, rotations = network.group.shape
    figure, axes = pyplot.subplots(scales, rotations, figsize=(9, 8.4), layout="constrained")
    for (scale, rotation), _, warped in network.group.warps(as_input(image[None], torch.device("cpu"))):
        axis = axes[scale, rotation]
        axis.imshow((warped[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy())
        axis.set_title(f"1/{2**scale}, {network.group.rotations_deg[rotation]:.0f}°", fontsize=8)
        axis.axis("off")
    return figure


def lattice_figure(network: GiftNetwork, views: np.ndarray, points: np.ndarray) -> Figure:
    """Plot one feature of a keypoint over the group in both views, and the similarity of its elements."""
    inputs = as_input(views, torch.device("cpu"))
    features = [
        group_features(network.extractor, network.group, inputs[view : view + 1], torch.from_numpy(point)[None, None])
        for view, point in enumerate(points)
    ]
    first, second = (each[0, 0] for each in features)
    strongest = int((first.flatten(1).std(dim=1) + second.flatten(1).std(dim=1)).argmax())
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
    for axis, values, title in (
        (axes[0], first[strongest], "one feature, frame"),
        (axes[1], second[strongest], "same feature, view"),
    ):
        axis.imshow(values.numpy(), cmap="coolwarm", vmin=-0.6, vmax=0.6)
        axis.set(title=title, xlabel="rotation", ylabel="scale")
    scales, rotations_deg = network.group.shape[0], network.group.rotations_deg
    unrotated = int(np.argmin(np.abs(rotations_deg)))
    similarity_map = (first[:, 1, unrotated][:, None, None] * second).sum(dim=0)
    axes[2].imshow(similarity_map.numpy(), cmap="viridis", vmin=0, vmax=1)
    axes[2].set(title="similarity to (1/2, 0°) of the frame", xlabel="rotation", ylabel="scale")
    for axis in axes:
        axis.set_xticks(range(len(rotations_deg)), [f"{angle:.0f}°" for angle in rotations_deg], fontsize=7)
        axis.set_yticks(range(scales), [f"1/{2**scale}" for scale in range(scales)], fontsize=7)
    return figure


def matches_figure(networks: dict[str, GiftNetwork], views: np.ndarray, motion: np.ndarray) -> Figure:
    """Plot matches of corners: correct ones green, wrong ones red."""
    keypoints = [HarrisDetector().detect(view, KEYPOINTS).pixels for view in views]
    figure, axes = pyplot.subplots(len(networks), 1, figsize=(9, 3.7 * len(networks)), layout="constrained")
    for axis, (name, network) in zip(axes, networks.items(), strict=True):
        descriptor = GiftDescriptor(network)
        described = [descriptor.describe_at(view, each) for view, each in zip(views, keypoints, strict=True)]
        matches = match_descriptors(described[0], described[1], "mutual")
        expected = apply(motion, keypoints[0][matches[:, 0]])
        correct = np.linalg.norm(expected - keypoints[1][matches[:, 1]], axis=1) <= CORRECT_PX
        axis.imshow(np.concatenate(list(views), axis=1))
        shown = np.random.default_rng(0).permutation(len(matches))[:SHOWN]
        for row in shown:
            (x, y), (u, v) = keypoints[0][matches[row, 0]], keypoints[1][matches[row, 1]]
            axis.plot([x, u + WIDTH], [y, v], "-", lw=0.7, color="lime" if correct[row] else "red")
        axis.set_title(f"{name}: {correct.sum()} of {len(matches)} mutual matches correct", fontsize=9)
        axis.axis("off")
    return figure


@torch.inference_mode()
def main() -> None:
    """Make the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phantom", type=Path)
    parser.add_argument("--gift", type=Path, required=True)
    parser.add_argument("--extractor", type=Path, required=True)
    arguments = parser.parse_args()
    image = read_frame(PhantomPaths(arguments.phantom).video)
    gift, extractor = load(arguments.gift), load(arguments.extractor)
    motion = about_middle(similarity(SCALE, math.radians(TURN_DEG)), (HEIGHT, WIDTH))
    views = np.stack([image, view_of(image, motion)])
    corner = HarrisDetector().detect(image[60:-60, 80:-80], 1).pixels[0] + [80, 60]
    points = np.stack([corner, apply(motion, corner[None])[0]])
    figures = {
        "gift_group": group_figure(gift, image),
        "gift_lattice": lattice_figure(gift, views, points),
        "gift_matches": matches_figure({"extractor only": extractor, "GIFT": gift}, views, motion),
    }
    for name, figure in figures.items():
        with atomic_write(DOCS / f"{name}.jpg") as partial:
            figure.savefig(partial, dpi=90, pil_kwargs={"quality": 80}, format="jpg")


if __name__ == "__main__":
    main()
