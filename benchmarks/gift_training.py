"""A step of GIFT's training, and how much of it looking for hard negatives takes.

Run with `python benchmarks/gift_training.py [--size 480 640]`. At the published settings but for the size of the batch:
views of 480x640, 512 points, a grid of 16 px, one pair. Hard negatives that take more than a tenth of a step are a
regression: upstream they need an extension of CUDA.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from descriptor.gift import learner as gift_training
from descriptor.gift.descriptor import GiftNetwork
from descriptor.gift.images import Pictures
from descriptor.gift.learner import GiftTraining
from descriptor.gift.loss import triplet_loss
from descriptor.gift.train_config import GiftTrainConfig
from pipeline.report import peak_memory_mb

REPEATS = 3


def measure(config: GiftTrainConfig, pictures: Pictures) -> tuple[float, float, float]:
    """Seconds of a step without its optimizer, of looking for negatives in it, and of drawing its pair."""
    method = GiftTraining(config, GiftNetwork(embeds=config.stage == 2), pictures, pictures)
    mining: list[float] = []

    def timed_loss(*arguments: object) -> torch.Tensor:
        started = time.perf_counter()
        loss = triplet_loss(*arguments)  # type: ignore[arg-type]
        mining.append(time.perf_counter() - started)
        return loss

    gift_training.triplet_loss = timed_loss  # type: ignore[assignment]
    steps, drawing = [], []
    for number in range(REPEATS):
        started = time.perf_counter()
        pair = method.draw(number, 0)
        drawing.append(time.perf_counter() - started)
        started = time.perf_counter()
        method.network.zero_grad()
        method.loss(pair, number, 0.0).backward()
        steps.append(time.perf_counter() - started)
    return float(np.median(steps)), float(np.median(mining)), float(np.median(drawing))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width of the views")
    arguments = parser.parse_args()
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{platform.machine()}, {load}, PyTorch {torch.__version__}, views of {arguments.size}, one pair")
    print(f"{'':<8} {'step s':>8} {'negatives s':>12} {'share %':>8} {'drawing s':>10} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(700, 900, 3)), (0, 0), 3)
        picture = np.clip(127 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "picture.png"), picture)
        pictures = Pictures.find(root)
        for stage in (2, 1):
            config = GiftTrainConfig(root, root, stage=stage, batch_size=1, image_size=tuple(arguments.size))  # type: ignore[arg-type]
            step, mining, drawing = measure(config, pictures)
            memory = peak_memory_mb()
            share = 100 * mining / step
            print(
                f"stage {stage}  {step:>8.2f} {mining:>12.4f} {share:>8.2f} {drawing:>10.3f} {memory:>9.0f}", flush=True
            )


if __name__ == "__main__":
    main()
