"""The first SfM beside COLMAP's defaults: what comes out, how true it is, how long it takes and how much memory.

Run with `python benchmarks/bootstrap.py [--sequence DIR [--reference DIR]]`. Phantoms are rendered, and extracted with
and without their calibration; a sequence of your own, as extract.py makes it, may be compared with SfM training data of
the same frames. COLMAP gets the sequence's masks, and its intrinsics if they are known. All figures are of the largest
model, and shares of the path are of its frames' path; angles are medians, after the alignment of the camera centres and
after that of the poses.

On the phantoms a frame without a pose, an ATE above 1 % of the path or a focal length more than 5 % off is a
regression; on a sequence of your own, fewer frames than COLMAP's.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.bootstrap import BootstrapConfig, run
from pipeline.command.config import configure
from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import read_mask, read_training_data
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml
from pipeline.paths import BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from pipeline.report import peak_memory_mb
from sfm.colmap.model import read_model, training_data_from_model
from sfm.evaluation.alignment import PathDifference, align_poses, compare_paths
from sfm.input_video import InputVideo

Floats = npt.NDArray[np.float64]

COLMAP = "COLMAP"
METHODS = ("tracks", "sift")
COLORS = {COLMAP: "0.45", "tracks": "tab:blue", "sift": "tab:orange"}
ANATOMIES = ("colon", "sinus")
# Heading in two lines, and width.
COLUMNS = (
    ("", "method", 7),
    ("", "frames", 9),
    ("", "models", 7),
    ("", "points", 8),
    ("track", "length", 7),
    ("error", "px", 6),
    ("", "min", 6),
    ("time", "ratio", 6),
    ("CPU", "min", 6),
    ("peak", "MiB", 6),
    ("ATE %", "path", 7),
    ("RMSE %", "extent", 7),
    ("deg, by", "centres", 8),
    ("deg, by", "poses", 8),
    ("surface", "% depth", 8),
    ("focal/", "true", 7),
)


@dataclass(frozen=True)
class Case:
    """A sequence, and what is known of it: the phantom's folder, or that of a reference as training data."""

    name: str
    sequence: Path
    phantom: Path | None = None
    reference: Path | None = None


@dataclass(frozen=True)
class Attempt:
    """What a method made: COLMAP models, the largest first, and the focal length; if there are none, why."""

    method: str
    models: tuple[Path, ...] = ()
    focal_px: float = float("nan")
    seconds: float = float("nan")
    cpu_s: float = float("nan")
    peak_mb: float = float("nan")
    failure: str = ""


@dataclass(frozen=True)
class Agreement:
    """A camera path beside the true one; angles (N,) also after orientations are aligned, and not the centres."""

    frame_index: npt.NDArray[np.int64]
    difference: PathDifference
    rotation_by_poses_deg: Floats


def run_alone(method: str, sequence: Path, work: Path) -> Attempt:
    """Run a method in a new process, so that its time and peak memory are its own."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(attempt, method, sequence, work).result()
    except BrokenProcessPool:
        return Attempt(method, failure="the process was killed, or crashed")


def attempt(method: str, sequence: Path, work: Path) -> Attempt:
    """Run a method in this process; what it logs goes to `work`."""
    work.mkdir(parents=True)
    with (work / "log.txt").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    copy = work / "sequence"
    if method != COLMAP:
        shutil.copytree(sequence, copy, ignore=shutil.ignore_patterns("colmap"), copy_function=link)
    started = time.perf_counter()
    try:
        found = run_colmap(sequence, work) if method == COLMAP else run_ours(copy, method)
    except LumenError as error:
        found = Attempt(method, failure=str(error))
    return replace(
        found,
        seconds=time.perf_counter() - started,
        # The importing and copying before is in this, and is small. Unlike the time it hardly depends on the load.
        cpu_s=time.process_time(),
        peak_mb=peak_memory_mb(),
    )


def link(source: str, target: str) -> None:
    """Give a file a second name, or copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def run_ours(sequence: Path, method: Any) -> Attempt:
    """The stage, on a copy of a sequence that it may change."""
    run(configure(BootstrapConfig, sequence, method=method))
    paths = SequencePaths(sequence)
    counts = read_yaml(BootstrapPaths.of(paths).report)["counts"]
    models = tuple(TrainingPaths(sequence, number=number).model for number in range(len(counts["models"])))
    width, height = InputVideo.read(sequence).size
    camera = pycolmap.Camera(**counts["camera"], width=width, height=height)
    return Attempt(method, models, camera.mean_focal_length())


def run_colmap(sequence: Path, work: Path) -> Attempt:
    """COLMAP with its defaults, but for the intrinsics: those that are known are held."""
    video = InputVideo.read(sequence)
    reader, options = pycolmap.ImageReaderOptions(), pycolmap.IncrementalPipelineOptions()
    if video.source.frame_masks.exists():
        reader.mask_path = video.source.frame_masks
    if video.camera is not None:
        reader.camera_model = video.camera.model_name
        reader.camera_params = ",".join(repr(float(value)) for value in video.camera.params)
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    database, images, models = work / "colmap.db", video.source.images, work / "models"
    models.mkdir()
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
    pycolmap.match_sequential(database)
    found = pycolmap.incremental_mapping(database, images, models, options)
    if not found:
        raise LumenError("no model")
    order = sorted(found, key=lambda number: found[number].num_reg_images(), reverse=True)
    camera = next(iter(found[order[0]].cameras.values()))
    return Attempt(COLMAP, tuple(models / str(number) for number in order), camera.mean_focal_length())


def as_training_data(model: pycolmap.Reconstruction, sequence: Path) -> TrainingData:
    """A model, with a camera of COLMAP's choice made a pinhole: only the poses and points are looked at."""
    for camera in model.cameras.values():
        width, height, params = camera.width, camera.height, [camera.mean_focal_length()] * 2
        params += [camera.principal_point_x, camera.principal_point_y]
        camera.model, camera.params = pycolmap.CameraModelId.PINHOLE, params
        camera.width, camera.height = width, height
    video = InputVideo.read(sequence)
    images = {video.paths.image(index).name: video.paths.image(index) for index in video.frame_index}
    return training_data_from_model(model, read_mask(video.paths.mask), np.array(video.frame_index), images)


def agreement(data: TrainingData, frame_index: npt.NDArray[np.int64], poses: Floats) -> Agreement:
    """Compare with the poses (N, 3, 4) of other frames, where they are the same."""
    common, ours, theirs = np.intersect1d(data.frame_index, frame_index, return_indices=True)
    estimate, reference = data.cam_from_world[ours], poses[theirs]
    difference = compare_paths(estimate, reference)
    rotated = estimate[:, :, :3] @ align_poses(estimate, reference).rotation.matrix().T
    cosine = (np.einsum("nij,nij->n", rotated, reference[:, :, :3]) - 1) / 2
    return Agreement(common, difference, np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def describe(case: Case, tried: Attempt, baseline_s: float) -> tuple[list[str], Agreement | None, str]:
    """The table's row, the path beside the true one if that is known, and what went wrong if anything did."""
    total = len(InputVideo.read(case.sequence).frame_index)
    cost = [f"{tried.seconds / 60:.1f}", f"{tried.seconds / baseline_s:.2f}"]
    cost += [f"{tried.cpu_s / 60:.1f}", f"{tried.peak_mb:.0f}"]
    cost = ["-" if cell == "nan" else cell for cell in cost]
    if not tried.models:
        return [tried.method, f"0/{total}", "0", "-", "-", "-", *cost, *["-"] * 6], None, tried.failure
    model = read_model(tried.models[0])
    model.update_point_3d_errors()
    cells = [tried.method, f"{model.num_reg_images()}/{total}", str(len(tried.models)), str(model.num_points3D())]
    cells += [f"{model.compute_mean_track_length():.1f}", f"{model.compute_mean_reprojection_error():.2f}", *cost]
    try:
        found, of_phantom = judge(case, as_training_data(model, case.sequence), tried.focal_px)
    except LumenError as error:
        return [*cells, *["-"] * 6], None, str(error)
    return [*cells, *of_path(found), *of_phantom], found, ""


def of_path(found: Agreement | None) -> list[str]:
    """The cells that compare camera paths."""
    if found is None:
        return ["-"] * 4
    path = found.difference
    shares = [f"{100 * path.ate / path.path_length:.2f}", f"{100 * path.ate / path.extent:.2f}"]
    return [*shares, f"{np.median(path.rotation_deg):.2f}", f"{np.median(found.rotation_by_poses_deg):.2f}"]


def judge(case: Case, data: TrainingData, focal_px: float) -> tuple[Agreement | None, list[str]]:
    """Compare with the truth or the reference; and the cells that only a phantom fills."""
    if case.reference is not None:
        reference = read_training_data(case.reference)
        return agreement(data, reference.frame_index, reference.cam_from_world), ["-"] * 2
    if case.phantom is None:
        return None, ["-"] * 2
    # Imported here, because the memory of Open3D would count as that of the methods' processes, which import this file.
    from sfm.evaluation.surface import SurfaceTruth
    from sfm.evaluation.truth import evaluate

    truth = SurfaceTruth.load(case.phantom)
    found = agreement(data, np.arange(len(truth.shows)), truth.cam_from_world)
    figures = evaluate(data, truth)
    # A path that runs backwards is aligned with a negative scale, and then nothing is a share of the depth.
    surface = f"{100 * figures.surface_share:.2f}" if figures.depth_mm > 0 else "-"
    return found, [surface, f"{focal_px / truth.camera.mean_focal_length():.3f}"]


def compare(case: Case, methods: list[str], work: Path) -> dict[str, Agreement]:
    """Run the methods one after the other, print a row of each, and return what is known of their paths."""
    video = InputVideo.read(case.sequence)
    state = "calibrated" if video.camera is not None else "uncalibrated"
    width, height = video.size
    print(
        f"\n{case.name}: {state}, {len(video.frame_index)} frames of {width}x{height}, "
        f"load {os.getloadavg()[0]:.1f} at the start",
        flush=True,
    )
    baseline_s, known = float("nan"), {}
    for method in methods:
        tried = run_alone(method, case.sequence, work / method)
        baseline_s = tried.seconds if method == COLMAP else baseline_s
        cells, found, problem = describe(case, tried, baseline_s)
        print(as_line(cells), flush=True)
        if problem:
            print(textwrap.fill(problem, 118, initial_indent="  ", subsequent_indent="  "), flush=True)
        if found is not None:
            known[method] = found
    return known


def as_line(cells: list[str]) -> str:
    """One line of the table."""
    padded = [f"{cell:>{width}}" for cell, (_, _, width) in zip(cells[1:], COLUMNS[1:], strict=False)]
    return f"{cells[0]:<{COLUMNS[0][2]}}" + "".join(padded)


def draw_paths(path: Path, name: str, known: dict[str, Agreement]) -> None:
    """Draw how far each method is from the reference, frame by frame."""
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for method, found in known.items():
        position = 100 * found.difference.position / found.difference.extent
        by_centers_deg, by_poses_deg = found.difference.rotation_deg, found.rotation_by_poses_deg
        draw_line(above, method, found.frame_index, position, f"{method}, median {np.median(position):.2f} %", "-")
        label = f"{method}, median {np.median(by_centers_deg):.2f}°"
        draw_line(below, method, found.frame_index, by_centers_deg, label, "-")
        label = f"orientations aligned: {np.median(by_poses_deg):.2f}°"
        draw_line(below, method, found.frame_index, by_poses_deg, label, ":")
    figure.suptitle(f"{name}: difference from the reference after Sim(3) of the camera centres")
    # Where a path drifts off, its few last frames would press all others against the axis.
    above.set(ylabel="position, % of the extent with poses", yscale="log")
    above.yaxis.set_major_formatter("{x:g}")
    below.set(xlabel="frame", ylabel="rotation, degrees", ylim=(0, None))
    for axes in (above, below):
        axes.grid(color="0.9")
        axes.margins(x=0.01)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(known), fontsize=9, frameon=False)
    figure.savefig(path)


def draw_line(
    axes: Axes, method: str, frame_index: npt.NDArray[np.int64], values: Floats, label: str, style: str
) -> None:
    """Draw a value of each frame; where frames are missing there is a gap, and no line across it."""
    frames = np.arange(frame_index[0], frame_index[-1] + 1)
    line = np.full(len(frames), np.nan)
    line[frame_index - frame_index[0]] = values
    axes.plot(frames, line, style, color=COLORS[method], linewidth=1.2, label=label)


def make_phantoms(anatomies: list[str], frames: int, root: Path) -> Iterator[Case]:
    """Render each anatomy, and extract it with and without its calibration."""
    for anatomy in anatomies:
        phantom = root / anatomy / "phantom"
        execute("data_prep.phantom", phantom, "--anatomy", anatomy, "--frames", frames, "--no_depth")
        for name, flags in (("calibrated", ("--calibration", phantom / "calibration.yaml")), ("uncalibrated", ())):
            extracted = root / anatomy / name
            execute("data_prep.extract", phantom / "video.mp4", "--output", extracted, *flags)
            yield Case(f"{anatomy} phantom", RunPaths(extracted).sequences()[0].root, phantom)


def execute(module: str, *arguments: object) -> None:
    """Run a stage; nothing of it is shown."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def parse_arguments() -> argparse.Namespace:
    """Read the command line, and refuse what does not fit together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequence", type=Path, help="a sequence of your own, as extract.py makes it")
    parser.add_argument("--reference", type=Path, help="SfM training data of the sequence's frames")
    parser.add_argument(
        "--phantoms", nargs="*", choices=ANATOMIES, default=list(ANATOMIES), help="none if nothing follows"
    )
    parser.add_argument("--frames", type=int, default=60, help="length of the phantoms")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--skip_colmap", action="store_true", help="COLMAP takes long on a large sequence")
    parser.add_argument("--output", type=Path, help="new folder for all that is made; by default only a plot is kept")
    arguments = parser.parse_args()
    if arguments.reference is not None and arguments.sequence is None:
        parser.error("--reference needs --sequence")
    if arguments.output is not None and arguments.output.exists():
        parser.error(f"--output {arguments.output} exists: name a new folder")
    return arguments


@contextmanager
def folder_for(output: Path | None) -> Iterator[Path]:
    """The output, or a temporary folder."""
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        output.mkdir(parents=True)
        yield output


def main() -> None:
    """Print the table; the ratio is to COLMAP's time on the same sequence."""
    arguments = parse_arguments()
    methods = [*([] if arguments.skip_colmap else [COLMAP]), *arguments.methods]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, COLMAP {pycolmap.__version__}")
    print(as_line([above for above, _, _ in COLUMNS]), as_line([below for _, below, _ in COLUMNS]), sep="\n")
    with folder_for(arguments.output) as root:
        for number, case in enumerate(make_phantoms(arguments.phantoms, arguments.frames, root)):
            compare(case, methods, root / f"runs_{number}")
        if arguments.sequence is None:
            return
        case = Case(arguments.sequence.name, arguments.sequence, reference=arguments.reference)
        known = compare(case, methods, root / "runs_sequence")
        if known:
            plot = (arguments.output or Path(tempfile.mkdtemp())) / "paths.png"
            draw_paths(plot, case.name, known)
            print(f"\npaths beside the reference: {plot}")


if __name__ == "__main__":
    main()
