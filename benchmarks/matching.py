"""Dense matching of one pair of frames against the published way, in seconds, memory and agreement.

Run with `python benchmarks/matching.py [--checkpoint FILE --frames FIRST SECOND --mask FILE]`. 3,000 keypoints are
looked for in a map of 256x320 cells, and their matches in the first map again. The published way takes the keypoints'
descriptors as 1x1 filters of a convolution over the whole map, and then the maximum. Maps of a checkpoint are enlarged
to that size, and have the 256 channels of DDL's. Without a checkpoint, descriptors are a smooth random field, which a
second frame shows moved and which lies in no fewer dimensions than it has channels. Each form runs in a process of its
own, so that its peak memory is its own. An exhaustive search that is not 1.4 times as fast as the published way, or a
coarse one that is not 10 times as fast on a checkpoint's maps, is a regression. Where there is a GPU, every cell of one
map is also looked for in the other, both ways; less than 40 % of the GPU's half-precision peak is a regression of the
engine on CuPy.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
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
    """Smooth descriptors, moved to the right by so many cells."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CHANNELS, HEIGHT // 4 + 16, WIDTH // 4 + 16, generator=generator)
    fine = functional.interpolate(coarse, scale_factor=4, mode="bicubic")[0, :, 32 : 32 + HEIGHT]
    values = functional.normalize(fine[:, :, 32 - shift : 32 - shift + WIDTH], dim=0)
    frame = NetworkFrame((WIDTH, HEIGHT), (WIDTH, HEIGHT), (0, 0), (HEIGHT, WIDTH))
    return DescriptorMap(values.contiguous(), torch.ones(HEIGHT, WIDTH, dtype=torch.bool), frame)


def load_maps(arguments: argparse.Namespace) -> list[DescriptorMap]:
    """Of the two frames given, or of nothing that was ever seen."""
    if arguments.checkpoint is None:
        return [random_field(0), random_field(7)]
    descriptor = load_descriptor(arguments.checkpoint)
    mask = cv2.imread(str(arguments.mask), cv2.IMREAD_GRAYSCALE)
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in arguments.frames]
    return [enlarged(descriptor.describe(np.asarray(image, np.uint8), np.asarray(mask, np.uint8))) for image in images]


def enlarged(described: DescriptorMap) -> DescriptorMap:
    """A map of 256x320 cells and 256 channels, products of which are those of the map's own."""
    own = described.values[None].contiguous()
    values = functional.interpolate(own, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0]
    # An orthonormal matrix keeps all products.
    random = torch.randn(CHANNELS, len(values), generator=torch.Generator().manual_seed(0))
    values = torch.linalg.qr(random)[0] @ functional.normalize(values, dim=0).flatten(1)
    mask = functional.interpolate(described.mask[None, None].float(), size=(HEIGHT, WIDTH))[0, 0] > 0.5
    frame = described.frame
    factors = WIDTH / frame.size[1], HEIGHT / frame.size[0]
    small = tuple(round(side * factor) for side, factor in zip(frame.small_size, factors, strict=True))
    origin = tuple(round(side * factor) for side, factor in zip(frame.origin, factors, strict=True))
    wide = NetworkFrame(frame.image_size, (small[0], small[1]), (origin[0], origin[1]), (HEIGHT, WIDTH))
    # As the network gives them, channels last.
    values = values.T.contiguous().T.reshape(CHANNELS, HEIGHT, WIDTH)
    return DescriptorMap(values, mask, wide)


def keypoints_of(described: DescriptorMap) -> np.ndarray:
    """Middles of cells that show tissue."""
    row, column = np.nonzero(described.mask.numpy())
    chosen = np.random.default_rng(0).choice(len(row), min(POINTS, len(row)), replace=False)
    return described.frame.image_from_network(np.stack([column[chosen], row[chosen]], axis=1) + 0.5)


def published_best(wanted: Tensor, target: DescriptorMap) -> Tensor:
    """The cell of the highest response of each, by a convolution."""
    heat = functional.conv2d(target.values[None].contiguous(), wanted[:, :, None, None])[0].flatten(1)
    return heat.masked_fill_(~target.mask.flatten(), -2).argmax(dim=1)


def published_match(source: DescriptorMap, keypoints: np.ndarray, target: DescriptorMap) -> tuple[Tensor, Tensor]:
    """Cells of the target, and the cells of the source that they lead back to."""
    there = published_best(source.at(keypoints), target)
    return there, published_best(target.values.flatten(1).T[there], source)


@torch.inference_mode()
def measure(form: str, maps: list[DescriptorMap]) -> tuple[float, float, np.ndarray]:
    """Seconds a pair, the median; peak memory in MiB above what was there before; places found, and the way back."""
    keypoints = keypoints_of(maps[0])
    before, times = peak_memory_mb(), []
    for _ in range(REPEATS):
        started = time.perf_counter()
        if form == "published":
            there, back = published_match(maps[0], keypoints, maps[1])
            times.append(time.perf_counter() - started)
            width = maps[0].mask.shape[1]
            places = np.stack([there % width, there // width], axis=1) + 0.5
            returned = np.stack([back % width, back // width], axis=1) + 0.5
            way = np.linalg.norm(returned - maps[0].frame.network_from_image(keypoints), axis=1)
        else:
            engine = ENGINES[form]
            frames = [SearchableFrame.of(each, engine) for each in maps]
            found = match(engine, frames[0], keypoints, frames[1])
            times.append(time.perf_counter() - started)
            places, way = maps[1].frame.network_from_image(found.target), found.return_px
    return float(np.median(times)), peak_memory_mb() - before, np.column_stack([places, way])


def search_each(engine: SearchEngine, ways: Sequence[tuple[Tensor, Any]]) -> list[Best]:
    """Descriptors in a map, for each pair of these."""
    return [engine.best(*way) for way in ways]


def gpu_seconds(run: Callable[[], object]) -> float:
    """The median of a few runs, after one that prepares."""
    times = []
    for _ in range(REPEATS + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


@torch.inference_mode()
def gpu_table() -> None:
    """Every cell of one map in the other, both ways, by each engine of a GPU, as a share of its half-precision peak."""
    device = torch.device("cuda", 0)
    square = torch.randn(8192, 8192, device=device, dtype=torch.float16)
    peak = 2 * 8192**3 / gpu_seconds(lambda: square @ square)
    maps = [replace(each, values=each.values.half().to(device)) for each in (random_field(0), random_field(7))]
    print(f"{torch.cuda.get_device_name(device)}, {peak / 1e12:.0f} TFLOP/s in half precision, every cell, both ways")
    names: tuple[EngineName, ...] = ("torch", "cupy")
    for name in names:
        try:
            engine = choose_engine(name, device)
        except LumenError as problem:
            print(problem)
            continue
        frames = [SearchableFrame.of(each, engine) for each in maps]
        every = [each.values.flatten(1).T.contiguous() for each in maps]
        ways = ((every[0], frames[1].prepared), (every[1], frames[0].prepared))
        runs: dict[str, Callable[[], object]] = {"two searches": partial(search_each, engine, ways)}
        if isinstance(engine, CupySearch):
            runs["both ways at once"] = partial(engine.both_ways, frames[0].prepared, frames[1].prepared)
        for how, run in runs.items():
            seconds = gpu_seconds(run)
            share = 2 * 2 * (HEIGHT * WIDTH) ** 2 * CHANNELS / seconds / peak
            print(f"{name:<8} {how:<18} {seconds:8.4f} s, {100 * share:.0f} % of the peak for two searches' products")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of a trained descriptor")
    parser.add_argument("--frames", type=Path, nargs=2, help="two pictures to describe with it")
    parser.add_argument("--mask", type=Path, help="their mask, 255 = tissue")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        seconds, memory, found = measure(arguments.form, load_maps(arguments))
        np.savez(arguments.result, seconds=seconds, memory=memory, found=found)
        return
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    height, width = load_maps(arguments)[0].mask.shape
    print(f"{platform.machine()}, {load}, PyTorch {torch.__version__}, {POINTS} points, {width}x{height}")
    heads = f"{'seconds':>8} {'faster':>7} {'extra MiB':>10} {'same cell':>10} {'mutual within 1':>16}"
    print(f"{'a pair, both ways':<18} {heads}")
    first: dict[str, np.ndarray] = {}
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.npz"
            subprocess.run([sys.executable, *sys.argv, "--form", form, "--result", str(result)], check=True)
            own = dict(np.load(result))
        first = first or own
        apart = np.linalg.norm(own["found"][:, :2] - first["found"][:, :2], axis=1)
        mutual = first["found"][:, 2] <= 1
        same = np.abs(own["found"][:, :2] - first["found"][:, :2]).max(axis=1) <= 0.5
        ratio = first["seconds"] / own["seconds"]
        shares = f"{same.mean():>10.4f} {(apart[mutual] <= 1).mean():>16.4f}"
        print(f"{form:<18} {own['seconds']:>8.2f} {ratio:>7.1f} {own['memory']:>10.0f} {shares}", flush=True)
    if torch.cuda.is_available():
        gpu_table()


if __name__ == "__main__":
    main()
