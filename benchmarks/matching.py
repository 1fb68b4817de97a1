"""Speed, memory and agreement of dense matching for one pair of frames, in both directions.

    python benchmarks/matching.py [--checkpoint FILE --frames FIRST SECOND --mask FILE]

3,000 keypoints are matched in a map of 256x320 cells, and each match is matched back in the first map. The baseline is
the published procedure: the descriptors of the keypoints are the filters of a 1x1 convolution over the whole map, and
the cell of the highest response is the match. Each form runs in a process of its own, so that its peak memory is its
own.

With --checkpoint, both frames are described; their maps are enlarged to 256x320 cells and embedded in DDL's 256
channels. Without it, the maps are a smooth random field and the same field shifted by 7 cells. A random field has as
many independent dimensions as channels, which the coarse search cannot exploit.

On a GPU, every cell of each map is also matched in the other; the baseline is the peak of the GPU in half precision.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bounds
import cv2
import numpy as np
import torch
from measurement import Cost, median_cost, print_machine, timed, weights_note
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.engines.choice import EngineName, choose_engine
from descriptor.matching.engines.coarse_to_fine import CoarseToFineSearch
from descriptor.matching.engines.cupy_search import CupySearch
from descriptor.matching.engines.search import Best, SearchEngine
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.matching.matcher import SearchableFrame, match
from descriptor.network_frame import NetworkFrame
from descriptor.registry import load_descriptor
from pipeline.errors import LumenError
from pipeline.report import peak_memory_mb

HEIGHT, WIDTH, CHANNELS, POINTS = 256, 320, 256, 3000
REPEATS = 5
ENGINES: dict[str, SearchEngine] = {"exhaustive": TorchSearch(), "coarse to fine": CoarseToFineSearch()}
FORMS = ("published", *ENGINES)


def random_field(shift: int) -> DescriptorMap:
    """A smooth random map, shifted to the right by `shift` cells."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CHANNELS, HEIGHT // 4 + 16, WIDTH // 4 + 16, generator=generator)
    fine = functional.interpolate(coarse, scale_factor=4, mode="bicubic")[0, :, 32 : 32 + HEIGHT]
    values = functional.normalize(fine[:, :, 32 - shift : 32 - shift + WIDTH], dim=0)
    frame = NetworkFrame((WIDTH, HEIGHT), (WIDTH, HEIGHT), (0, 0), (HEIGHT, WIDTH))
    return DescriptorMap(values.contiguous(), torch.ones(HEIGHT, WIDTH, dtype=torch.bool), frame)


def load_maps(options: argparse.Namespace) -> list[DescriptorMap]:
    """The maps of the given frames, or two random maps."""
    if options.checkpoint is None:
        return [random_field(0), random_field(7)]
    descriptor = load_descriptor(options.checkpoint)
    mask = cv2.imread(str(options.mask), cv2.IMREAD_GRAYSCALE)
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in options.frames]
    return [enlarged(descriptor.describe(np.asarray(image, np.uint8), np.asarray(mask, np.uint8))) for image in images]


def enlarged(described: DescriptorMap) -> DescriptorMap:
    """The map with 256x320 cells and 256 channels, with the same inner products."""
    own = described.values[None].contiguous()
    values = functional.interpolate(own, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0]
    # An orthonormal matrix preserves inner products.
    random = torch.randn(CHANNELS, len(values), generator=torch.Generator().manual_seed(0))
    values = torch.linalg.qr(random)[0] @ functional.normalize(values, dim=0).flatten(1)
    mask = functional.interpolate(described.mask[None, None].float(), size=(HEIGHT, WIDTH))[0, 0] > 0.5
    frame = described.frame
    factors = WIDTH / frame.size[1], HEIGHT / frame.size[0]
    small = tuple(round(side * factor) for side, factor in zip(frame.small_size, factors, strict=True))
    origin = tuple(round(side * factor) for side, factor in zip(frame.origin, factors, strict=True))
    wide = NetworkFrame(frame.image_size, (small[0], small[1]), (origin[0], origin[1]), (HEIGHT, WIDTH))
    # The network's output has this memory layout, channels last.
    values = values.T.contiguous().T.reshape(CHANNELS, HEIGHT, WIDTH)
    return DescriptorMap(values, mask, wide)


def keypoints_of(described: DescriptorMap) -> np.ndarray:
    """Centres of up to 3,000 random cells that show tissue, (N, 2) px."""
    row, column = np.nonzero(described.mask.numpy())
    chosen = np.random.default_rng(0).choice(len(row), min(POINTS, len(row)), replace=False)
    return described.frame.image_from_network(np.stack([column[chosen], row[chosen]], axis=1) + 0.5)


def published_best(descriptors: Tensor, target: DescriptorMap) -> Tensor:
    """The cell of the highest response for each of the descriptors (N, C), by a convolution."""
    heat = functional.conv2d(target.values[None].contiguous(), descriptors[:, :, None, None])[0].flatten(1)
    return heat.masked_fill_(~target.mask.flatten(), -2).argmax(dim=1)


def published_match(source: DescriptorMap, keypoints: np.ndarray, target: DescriptorMap) -> tuple[Tensor, Tensor]:
    """The matching cells of the target, and the cells of the source that these match."""
    cells = published_best(source.at(keypoints), target)
    return cells, published_best(target.values.flatten(1).T[cells], source)


@torch.inference_mode()
def measure(form: str, maps: list[DescriptorMap]) -> tuple[Cost, float, np.ndarray]:
    """Match the keypoints of the first map in the second, and back.

    Returns:
        The cost of a pair, the median; the peak memory above the initial one, MiB; (N, 3): column and row of each match
        in the second map, and the distance of the reverse match from the keypoint, in cells.
    """
    keypoints = keypoints_of(maps[0])
    before_mb, costs = peak_memory_mb(), []
    for _ in range(REPEATS):
        if form == "published":
            with timed() as cost:
                cells, back = published_match(maps[0], keypoints, maps[1])
            width = maps[0].mask.shape[1]
            targets = np.stack([cells % width, cells // width], axis=1) + 0.5
            returned = np.stack([back % width, back // width], axis=1) + 0.5
            distances = np.linalg.norm(returned - maps[0].frame.network_from_image(keypoints), axis=1)
        else:
            with timed() as cost:
                engine = ENGINES[form]
                frames = [SearchableFrame.of(each, engine) for each in maps]
                matches = match(engine, frames[0], keypoints, frames[1])
            targets, distances = maps[1].frame.network_from_image(matches.target), matches.return_px
        costs.append(cost)
    return median_cost(costs), peak_memory_mb() - before_mb, np.column_stack([targets, distances])


def search_each(engine: SearchEngine, ways: Sequence[tuple[Tensor, Any]]) -> list[Best]:
    """Search the descriptors of each pair in the map of that pair."""
    return [engine.best(*way) for way in ways]


def gpu_seconds(run: Callable[[], object]) -> float:
    """The median wall seconds of some runs, after one run to warm up."""
    times = []
    for _ in range(REPEATS + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


@torch.inference_mode()
def measure_gpu() -> dict[str, float | None]:
    """Match every cell of each random map in the other, by each engine; returns what the bounds limit."""
    device = torch.device("cuda", 0)
    square = torch.randn(8192, 8192, device=device, dtype=torch.float16)
    peak = 2 * 8192**3 / gpu_seconds(lambda: square @ square)
    maps = [replace(each, values=each.values.half().to(device)) for each in (random_field(0), random_field(7))]
    print(f"\n{torch.cuda.get_device_name(device)}, {peak / 1e12:.0f} TFLOP/s in half precision, every cell, both ways")
    print(f"{'':<8} {'':<18} {'wall s':>8} {'CPU s':>7} {'share of the peak, %':>21}")
    shares: dict[str, float] = {}
    names: tuple[EngineName, ...] = ("torch", "cupy")
    for name in names:
        try:
            engine = choose_engine(name, device)
        except LumenError as problem:
            print(problem)
            continue
        frames = [SearchableFrame.of(each, engine) for each in maps]
        descriptors = [each.values.flatten(1).T.contiguous() for each in maps]
        ways = ((descriptors[0], frames[1].prepared), (descriptors[1], frames[0].prepared))
        runs: dict[str, Callable[[], object]] = {"two searches": partial(search_each, engine, ways)}
        if isinstance(engine, CupySearch):
            runs["both ways at once"] = partial(engine.both_ways, frames[0].prepared, frames[1].prepared)
        for how, run in runs.items():
            with timed() as cost:
                seconds = gpu_seconds(run)
            # Both searches compute all inner products; computing them once counts as if it were twice.
            share = 100 * 2 * 2 * (HEIGHT * WIDTH) ** 2 * CHANNELS / seconds / peak
            shares[name] = max(shares.get(name, 0.0), share)
            print(f"{name:<8} {how:<18} {seconds:>8.4f} {cost.cpu_s / (REPEATS + 1):>7.4f} {share:>21.0f}", flush=True)
    return {
        "GPU, cupy: share of the peak": shares.get("cupy"),
        "GPU, cupy / torch": shares["cupy"] / shares["torch"] if shares.keys() >= {"cupy", "torch"} else None,
    }


def run_form(form: str) -> dict[str, np.ndarray]:
    """Measure a form in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.npz"
        subprocess.run([sys.executable, *sys.argv, "--form", form, "--result", str(result)], check=True)
        return dict(np.load(result))


def compare_forms(note: str) -> dict[str, float | None]:
    """Print a row for each form, ending with `note`; returns what the bounds limit."""
    print(
        f"{'':<15} {'wall s':>7} {'CPU s':>7} {'speed':>6} {'extra MiB':>10} {'same cell':>10} {'mutual within 1':>16}"
        "  notes"
    )
    measured: dict[str, float | None] = {}
    baseline: dict[str, np.ndarray] = {}
    for form in FORMS:
        own = run_form(form)
        baseline = baseline or own
        offset = own["matches"][:, :2] - baseline["matches"][:, :2]
        mutual = baseline["matches"][:, 2] <= 1
        same = float((np.abs(offset).max(axis=1) <= 0.5).mean())
        agreement = float((np.linalg.norm(offset, axis=1)[mutual] <= 1).mean())
        speed = float(baseline["cpu_s"] / own["cpu_s"])
        if form in ENGINES:
            measured |= {f"{form}: speed": speed, f"{form}: agreement": 100 * agreement}
        print(
            f"{form:<15} {own['wall_s']:>7.2f} {own['cpu_s']:>7.2f} {speed:>6.2f} {own['memory_mb']:>10.0f} "
            f"{same:>10.4f} {agreement:>16.4f}  {note}",
            flush=True,
        )
    return measured


def main() -> int:
    """Measure every form; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of a trained dense descriptor")
    parser.add_argument("--weights_frames", type=int, help="number of frames the checkpoint was trained on, if known")
    parser.add_argument("--frames", type=Path, nargs=2, help="two images to describe")
    parser.add_argument("--mask", type=Path, help="the mask of both images, 255 = tissue")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.checkpoint is not None and (options.frames is None or options.mask is None):
        parser.error("--checkpoint needs --frames and --mask")
    if options.form:
        cost, memory_mb, matches = measure(options.form, load_maps(options))
        np.savez(options.result, wall_s=cost.wall_s, cpu_s=cost.cpu_s, memory_mb=memory_mb, matches=matches)
        return 0
    print_machine(f"PyTorch {torch.__version__}", f"{WIDTH}x{HEIGHT}", f"{POINTS} keypoints", "one pair, both ways")
    note = "random maps"
    if options.checkpoint is not None:
        note = weights_note(options.checkpoint, len(options.frames), options.weights_frames)
    applied = list(bounds.MATCHING_RANDOM if options.checkpoint is None else bounds.MATCHING)
    measured = compare_forms(note)
    if torch.cuda.is_available():
        measured |= measure_gpu()
        applied += bounds.MATCHING_GPU
    return bounds.check(applied, measured)


if __name__ == "__main__":
    sys.exit(main())
