"""Speed and memory of a training step of the dense descriptor at DDL's settings.

    python benchmarks/training_step.py [--device cuda]

The baseline is the published form: channels first, 256 channels, and the whole heatmap of each of 10 points a pair held
in memory. Ours has 1,024 points a pair, compared with all pixels of the target or, as `train.py` does, with a quarter
of them. Each form runs in a process of its own, so that its peak memory is its own. Frames are random, weights are not
trained before.
"""

import argparse
import subprocess
import sys
from functools import partial

import bounds
import numpy as np
import torch
from measurement import Cost, median_cost, print_machine, timed
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
    """8 random frames in groups of `frames`, with `points` random correspondences in each pair of a group."""
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
    """One step of the published form."""
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
    """One step as in `train.py`."""
    for group in groups:
        group_loss(network, group, SCALE, stride, 0).backward()  # type: ignore[no-untyped-call]


OURS = "ours: 4 pairs, 1,024 points"
FORMS = {
    "published: 4 pairs, 10 points": (published_step, 2, 10),
    f"{OURS}, all pixels": (partial(our_step, stride=1), 2, 1024),
    OURS: (our_step, 2, 1024),
    "ours: 12 pairs of 2 x 4 frames, 256 points": (our_step, 4, 256),
}


def measure(form: str, device: torch.device) -> tuple[Cost, float]:
    """The median cost of a step, and the peak memory of this process or of the GPU in MiB."""
    step, frames, points = FORMS[form]
    torch.manual_seed(0)
    network = FCDenseNet(NetworkShape()).to(device).train()
    if step is not published_step:
        keep_freed_memory()
    else:
        network.layout = torch.contiguous_format
    optimizer = torch.optim.AdamW(network.parameters())
    groups = random_groups(frames, points)
    costs = []
    for _ in range(STEPS + 1):
        with timed() as cost:
            optimizer.zero_grad()
            step(network, groups, device)
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
        costs.append(cost)
    is_gpu = device.type == "cuda"
    memory_mb = torch.cuda.max_memory_allocated() / 2**20 if is_gpu else peak_memory_mb()
    # The first step also allocates memory.
    return median_cost(costs[1:]), memory_mb


def compare_forms(device: str) -> dict[str, float | None]:
    """Print a row for each form; returns what the bounds limit."""
    print(f"{'':<43} {'wall s':>7} {'CPU s':>7} {'speed':>6} {'frames/s':>9} {'peak MiB':>9} {'memory':>7}")
    measured: dict[str, float | None] = {}
    baseline_s = baseline_mb = 0.0
    for form in FORMS:
        command = [sys.executable, __file__, "--form", form, "--device", device]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        wall_s, cpu_s, peak_mb = map(float, done.stdout.split())
        # On a GPU the CPU only waits.
        seconds = cpu_s if device == "cpu" else wall_s
        baseline_s, baseline_mb = baseline_s or seconds, baseline_mb or peak_mb
        speed, memory = baseline_s / seconds, peak_mb / baseline_mb
        if form == OURS:
            measured = {"speed": speed, "memory": memory}
        print(
            f"{form:<43} {wall_s:>7.2f} {cpu_s:>7.2f} {speed:>6.2f} {2 * PAIRS / wall_s:>9.2f} {peak_mb:>9.0f} "
            f"{memory:>7.2f}",
            flush=True,
        )
    return measured


def main() -> int:
    """Measure every form; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        cost, memory_mb = measure(options.form, torch.device(options.device))
        print(cost.wall_s, cost.cpu_s, memory_mb)
        return 0
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print_machine(device, f"PyTorch {torch.__version__}", f"{WIDTH}x{HEIGHT}", f"{2 * PAIRS} frames a step")
    return bounds.check(bounds.TRAINING_STEP[options.device], compare_forms(options.device))


if __name__ == "__main__":
    sys.exit(main())
