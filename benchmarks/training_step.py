"""A training step at the README's settings, against the published form of it, in seconds and memory.

Run with `python benchmarks/training_step.py [--device cuda]`. The published form keeps channels first, describes with
256 channels and holds the heatmap of each of 10 points a pair; ours has 1,024, compared with all pixels of the target
or, as `train.py` does, with a quarter of them. Each form runs in a process of its own, so that its peak memory is its
own. A ratio under 3, or more memory than the published form's, is a regression.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from descriptor.clips.clip import PointPairs
from descriptor.clips.groups import Group
from descriptor.device import keep_freed_memory
from descriptor.fcdensenet.group_loss import group_loss
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape, network_input
from pipeline.report import peak_memory_mb

HEIGHT, WIDTH, PAIRS, SCALE = 256, 320, 4, 20.0
STEPS = 3


def random_groups(frames: int, points: int) -> list[Group]:
    """8 frames in groups, with points anywhere."""
    random = np.random.default_rng(0)
    groups = []
    for _ in range(2 * PAIRS // frames):
        images = random.integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8)
        pairs = {
            (source, target): PointPairs(*random.uniform(0, (WIDTH, HEIGHT), (2, points, 2)))
            for target in range(frames)
            for source in range(target)
        }
        groups.append(Group(images, np.ones((frames, HEIGHT, WIDTH), bool), pairs))
    return groups


def published_step(network: FCDenseNet, groups: list[Group], device: torch.device) -> None:
    """Channels first, every heatmap held."""
    images = np.concatenate([group.images for group in groups])
    described = network(network_input(torch.from_numpy(images).to(device)))
    loss = described.new_zeros(())
    for number, group in enumerate(groups):
        both = described[2 * number], described[2 * number + 1]
        (points,) = group.pairs.values()
        for (source, target), pair in zip((both, both[::-1]), (points, points.swapped()), strict=True):
            at, there = (torch.from_numpy(places.astype(np.int64)).to(device) for places in (pair.source, pair.target))
            filters = source[:, at[:, 1], at[:, 0]].T[:, :, None, None]
            heat = torch.exp(SCALE * (0.5 * functional.conv2d(target[None], filters)[0] + 0.5 - 0.9))
            heat = heat / heat.sum(dim=(1, 2), keepdim=True)
            loss = loss - torch.log(heat[torch.arange(len(at)), there[:, 1], there[:, 0]]).mean()
    loss.backward()  # type: ignore[no-untyped-call]


def our_step(network: FCDenseNet, groups: list[Group], device: torch.device, stride: int = 4) -> None:
    """As `train.py` does it."""
    for group in groups:
        group_loss(network, group, SCALE, stride, 0).backward()  # type: ignore[no-untyped-call]


FORMS = {
    "published: 4 pairs, 10 points": (published_step, 2, 10),
    "ours: 4 pairs, 1,024 points, all pixels": (partial(our_step, stride=1), 2, 1024),
    "ours: 4 pairs, 1,024 points": (our_step, 2, 1024),
    "ours: 12 pairs of 2 x 4 frames, 256 points": (our_step, 4, 256),
}


def measure(form: str, device: torch.device) -> tuple[float, float]:
    """Seconds a step, the median, and peak memory in MiB, of this process or of the GPU."""
    step, frames, points = FORMS[form]
    torch.manual_seed(0)
    network = FCDenseNet(NetworkShape()).to(device).train()
    if step is not published_step:
        keep_freed_memory()
    else:
        network.layout = torch.contiguous_format
    optimizer = torch.optim.AdamW(network.parameters())
    groups = random_groups(frames, points)
    times = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        optimizer.zero_grad()
        step(network, groups, device)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    is_gpu = device.type == "cuda"
    return float(np.median(times[1:])), torch.cuda.max_memory_allocated() / 2**20 if is_gpu else peak_memory_mb()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        print(*measure(arguments.form, torch.device(arguments.device)))
        return
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{platform.machine()}, {load}, {arguments.device}, PyTorch {torch.__version__}, {WIDTH}x{HEIGHT}")
    print(f"{'a step':<43} {'seconds':>8} {'faster':>7} {'frames/s':>9} {'peak MiB':>9} {'memory':>7}")
    first: tuple[float, float] | None = None
    for form in FORMS:
        command = [sys.executable, __file__, "--form", form, "--device", arguments.device]
        seconds, memory = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        first = first or (seconds, memory)
        ratios = f"{first[0] / seconds:>7.1f} {2 * PAIRS / seconds:>9.2f} {memory:>9.0f} {memory / first[1]:>7.2f}"
        print(f"{form:<43} {seconds:>8.2f} {ratios}", flush=True)


if __name__ == "__main__":
    main()
