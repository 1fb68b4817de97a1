"""Speed of describing 3,000 keypoints of a 640x480 image with GIFT.

    python benchmarks/gift_describing.py

The baseline is the published procedure in the same run: it warps the image 25 times with OpenCV, one warp after the
other, runs the extractor on each warp, and runs the embedder on all keypoints at once. Weights are random, because
weights change no times. No checkpoint and no video is used.
"""

import argparse
import sys

import bounds
import cv2
import numpy as np
import torch
from measurement import median_cost, print_machine, timed
from torch import Tensor, nn
from torch.nn import functional

from descriptor.gift.descriptor import GiftDescriptor, GiftNetwork
from descriptor.gift.network import as_input

HEIGHT, WIDTH, POINTS = 480, 640, 3000
REPEATS = 3


class PublishedEmbedder(nn.Module):
    """The embedder with a separate convolution for each layer, on (keypoints, channels, scales, rotations)."""

    def __init__(self, network: GiftNetwork) -> None:
        super().__init__()
        assert network.embedder is not None
        self.layers = network.embedder.embedder

    def branch(self, features: Tensor, number: int) -> Tensor:
        for block in (1, 2):
            name = f"network{number}_embed{block}"
            features = functional.relu(self.layers[name](features) + self.layers[f"{name}_short"](features))
        return self.layers[f"network{number}_embed3"](features)

    def forward(self, features: Tensor) -> Tensor:
        first, second = (self.branch(features, number).flatten(2) for number in (1, 2))
        return functional.normalize(torch.bmm(first, second.permute(0, 2, 1)).flatten(1), dim=1)


def published(network: GiftNetwork, embedder: PublishedEmbedder, image: np.ndarray, keypoints: np.ndarray) -> Tensor:
    """Describe the keypoints by a loop over the scales and rotations of the group; returns (keypoints, length)."""
    features, blurred = [], image
    for scale in range(5):
        if scale:
            blurred = cv2.GaussianBlur(blurred, (5, 5), 1.5)
        for rotation in range(5):
            element = network.group.transformation(scale, rotation, (HEIGHT, WIDTH))
            matrix = element.matrix.numpy()
            # The centre of OpenCV's first pixel is (0, 0), ours is (0.5, 0.5).
            offset = element.offset.numpy() + matrix @ [0.5, 0.5] - 0.5
            rows, columns = element.size
            warped = cv2.warpAffine(
                blurred, np.column_stack([matrix, offset]), (columns, rows), borderValue=(127, 127, 127)
            )
            described = plain_extractor(network, as_input(warped[None], torch.device("cpu")))
            places = torch.from_numpy(keypoints @ matrix.T + element.offset.numpy()).float()
            grid = places / 2 / torch.tensor(described.shape[:1:-1]) * 2 - 1
            sampled = functional.grid_sample(described, grid[None, None], padding_mode="border", align_corners=False)
            features.append(functional.normalize(sampled[0, :, 0], dim=0).T)
    return embedder(torch.stack(features, dim=-1).unflatten(-1, (5, 5)))


def plain_extractor(network: GiftNetwork, images: Tensor) -> Tensor:
    """Run the extractor layer by layer; (N, 3, H, W) to (N, C, H/2, W/2)."""
    layers = network.extractor.extractor
    features = functional.avg_pool2d(functional.relu(layers["conv0"](images)), 2)
    return functional.normalize(layers["conv1"](features), dim=1)


@torch.inference_mode()
def measure() -> dict[str, float | None]:
    """Print a row for each procedure; returns what the bounds limit."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    noise = cv2.GaussianBlur(random.normal(size=(HEIGHT, WIDTH, 3)), (0, 0), 3)
    image = np.clip(127 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    keypoints = random.uniform((2, 2), (WIDTH - 2, HEIGHT - 2), (POINTS, 2))
    network = GiftNetwork().eval()
    embedder, descriptor = PublishedEmbedder(network).eval(), GiftDescriptor(network)
    procedures = {
        "published": lambda: published(network, embedder, image, keypoints),
        "ours": lambda: descriptor.describe_at(image, keypoints),
    }
    print(f"{'':<10} {'wall s':>7} {'CPU s':>7} {'speed':>6} {'agreement':>10}")
    baseline_s, reference, speed, agreement = 0.0, torch.zeros(0), 0.0, 0.0
    for name, procedure in procedures.items():
        costs = []
        for _ in range(REPEATS):
            with timed() as cost:
                described = procedure()
            costs.append(cost)
        cost = median_cost(costs)
        baseline_s, reference = baseline_s or cost.cpu_s, reference if len(reference) else described
        speed, agreement = baseline_s / cost.cpu_s, (reference * described).sum(dim=1).median().item()
        print(f"{name:<10} {cost.wall_s:>7.2f} {cost.cpu_s:>7.2f} {speed:>6.2f} {agreement:>10.4f}", flush=True)
    return {"speed": speed, "agreement": agreement}


def main() -> int:
    """Measure both procedures; returns the exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print_machine(f"PyTorch {torch.__version__}", f"{WIDTH}x{HEIGHT}", f"{POINTS} keypoints")
    return bounds.check(bounds.GIFT_DESCRIBING, measure())


if __name__ == "__main__":
    sys.exit(main())
