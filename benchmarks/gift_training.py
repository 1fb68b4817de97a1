"""Share of the search for hard negatives in a training step of GIFT.

    python benchmarks/gift_training.py [--size 480 640]

The settings are the published ones except for the batch: views of 480x640, 512 points, a grid of 16 px, one pair. The
baseline is the whole step. The published code needs a CUDA extension for the search. The image is random and the
weights are not trained.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import bounds
import cv2
import numpy as np
import torch
from measurement import Cost, median_cost, print_machine, timed

from descriptor.gift import learner as gift_training
from descriptor.gift.descriptor import GiftNetwork
from descriptor.gift.images import ImageSet
from descriptor.gift.learner import GiftTraining
from descriptor.gift.loss import triplet_loss
from descriptor.gift.train_config import GiftTrainConfig
from pipeline.report import peak_memory_mb

REPEATS = 3


def measure(config: GiftTrainConfig, images: ImageSet) -> tuple[Cost, Cost, Cost]:
    """Measure a step without its optimizer, the search for negatives in that step, and drawing the pair."""
    method = GiftTraining(config, GiftNetwork(embeds=config.stage == 2), images, images)
    searches: list[Cost] = []

    def timed_loss(*arguments: object) -> torch.Tensor:
        with timed() as search:
            loss = triplet_loss(*arguments)  # type: ignore[arg-type]
        searches.append(search)
        return loss

    gift_training.triplet_loss = timed_loss  # type: ignore[assignment]
    steps, drawings = [], []
    for number in range(REPEATS):
        with timed() as drawing:
            pair = method.draw(number, 0)
        with timed() as step:
            method.network.zero_grad()
            method.loss(pair, number, 0.0).backward()
        drawings.append(drawing)
        steps.append(step)
    return median_cost(steps), median_cost(searches), median_cost(drawings)


def random_image(path: Path) -> None:
    """Write smooth noise, 900x700."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(700, 900, 3)), (0, 0), 3)
    cv2.imwrite(str(path), np.clip(127 + 40 * noise / noise.std(), 0, 255).astype(np.uint8))


def main() -> int:
    """Measure both stages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width of the views")
    options = parser.parse_args()
    height, width = options.size
    print_machine(f"PyTorch {torch.__version__}", f"views of {width}x{height}", "one pair")
    print(
        f"{'':<8} {'step s':>7} {'CPU s':>7} {'search s':>9} {'CPU s':>7} {'share %':>8} {'drawing s':>10} "
        f"{'CPU s':>7} {'peak MiB':>9}"
    )
    measured: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        random_image(root / "image.png")
        images = ImageSet.find(root)
        for stage in (2, 1):
            config = GiftTrainConfig(root, root, stage=stage, batch_size=1, image_size=(height, width))  # type: ignore[arg-type]
            step, search, drawing = measure(config, images)
            share = measured[f"stage {stage}: search for negatives"] = 100 * search.cpu_s / step.cpu_s
            print(
                f"stage {stage}  {step.wall_s:>7.2f} {step.cpu_s:>7.2f} {search.wall_s:>9.4f} {search.cpu_s:>7.4f} "
                f"{share:>8.2f} {drawing.wall_s:>10.3f} {drawing.cpu_s:>7.3f} {peak_memory_mb():>9.0f}",
                flush=True,
            )
    return bounds.check(bounds.GIFT_TRAINING, measured)


if __name__ == "__main__":
    sys.exit(main())
