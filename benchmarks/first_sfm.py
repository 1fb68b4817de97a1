"""Our first SfM beside COLMAP's defaults: registered frames, accuracy, time and memory.

    python benchmarks/first_sfm.py [--phantoms colon sinus] [--sequence DIR [--reference DIR]]

Phantoms are rendered, and extracted with and without their calibration. A sequence of your own, as extract.py writes
it, can be compared with SfM training data of the same frames. The baseline, COLMAP, gets the masks of the sequence, and
its intrinsics if they are known. Figures are those of the largest model. Shares of the path are relative to the path of
the registered frames. Rotations are medians after alignment of the camera centres, and after alignment of the poses.

The bounds hold for phantoms of the default length. On a sequence of your own, ours must register as many frames as
COLMAP.
"""

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bounds
import numpy as np
import numpy.typing as npt
import pycolmap
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measurement import keep_all_note, print_machine, run_command
from sfm_methods import COLMAP, Attempt, run_alone

from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import read_mask, read_training_data
from pipeline.errors import LumenError
from pipeline.paths import RunPaths
from sfm.colmap.model import read_model, training_data_from_model
from sfm.evaluation.alignment import PathDifference, align_poses, compare_paths
from sfm.input_video import InputVideo

Floats = npt.NDArray[np.float64]

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
    ("wall", "min", 6),
    ("CPU", "min", 6),
    ("CPU /", "COLMAP", 7),
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
    """A sequence to reconstruct.

    Attributes:
        name: printed above its rows.
        sequence: its folder.
        phantom: the folder of the phantom that it shows, if it shows one.
        reference: the folder of SfM training data of its frames, if there is some.
        anatomy: of the phantom.
    """

    name: str
    sequence: Path
    phantom: Path | None = None
    reference: Path | None = None
    anatomy: str = ""


@dataclass(frozen=True)
class Agreement:
    """A trajectory compared with the reference.

    Attributes:
        frame_index: (N,) of the frames that both have.
        difference: after alignment of the camera centres.
        rotation_by_poses_deg: (N,) after alignment of the poses.
    """

    frame_index: npt.NDArray[np.int64]
    difference: PathDifference
    rotation_by_poses_deg: Floats


@dataclass
class Accuracy:
    """The largest model of a method compared with ground truth; NaN where it is unknown."""

    agreement: Agreement | None = None
    surface_percent: float = float("nan")
    focal_ratio: float = float("nan")
    problem: str = ""


@dataclass
class Result:
    """A method on a case: its row, and what the bounds limit."""

    cells: list[str]
    registered: int = 0
    accuracy: Accuracy = field(default_factory=Accuracy)


def as_training_data(model: pycolmap.Reconstruction, sequence: Path) -> TrainingData:
    """The poses and points of a model. Any camera becomes a pinhole, because its distortion is not compared."""
    for camera in model.cameras.values():
        width, height, params = camera.width, camera.height, [camera.mean_focal_length()] * 2
        params += [camera.principal_point_x, camera.principal_point_y]
        camera.model, camera.params = pycolmap.CameraModelId.PINHOLE, params
        camera.width, camera.height = width, height
    video = InputVideo.read(sequence)
    images = {video.paths.image(index).name: video.paths.image(index) for index in video.frame_index}
    return training_data_from_model(model, read_mask(video.paths.mask), np.array(video.frame_index), images)


def compare_with(data: TrainingData, frame_index: npt.NDArray[np.int64], poses: Floats) -> Agreement:
    """Compare a trajectory with reference poses (N, 3, 4), on the frames that both have."""
    common, ours, theirs = np.intersect1d(data.frame_index, frame_index, return_indices=True)
    estimate, reference = data.cam_from_world[ours], poses[theirs]
    difference = compare_paths(estimate, reference)
    rotated = estimate[:, :, :3] @ align_poses(estimate, reference).rotation.matrix().T
    cosine = (np.einsum("nij,nij->n", rotated, reference[:, :, :3]) - 1) / 2
    return Agreement(common, difference, np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def measure_accuracy(case: Case, data: TrainingData, focal_px: float) -> Accuracy:
    """Compare a model with the phantom or the reference of its sequence."""
    if case.reference is not None:
        reference = read_training_data(case.reference)
        return Accuracy(compare_with(data, reference.frame_index, reference.cam_from_world))
    if case.phantom is None:
        return Accuracy()
    # The processes of the methods import this file; imported at the top, Open3D would count as their memory.
    from sfm.evaluation.surface import SurfaceTruth
    from sfm.evaluation.truth import evaluate

    truth = SurfaceTruth.load(case.phantom)
    agreement = compare_with(data, np.arange(len(truth.shows)), truth.cam_from_world)
    figures = evaluate(data, truth)
    # A reversed trajectory aligns with a negative scale; a share of the depth is then undefined.
    surface_percent = 100 * figures.surface_share if figures.depth_mm > 0 else float("nan")
    return Accuracy(agreement, surface_percent, focal_px / truth.camera.mean_focal_length())


def result_of(case: Case, attempt: Attempt, baseline_s: float, total: int) -> Result:
    """Measure what a method wrote.

    Args:
        case: the sequence.
        attempt: the method's result.
        baseline_s: COLMAP's CPU seconds; NaN if it was not run.
        total: number of frames of the sequence.
    """
    cost = [attempt.seconds / 60, attempt.cpu_s / 60, attempt.cpu_s / baseline_s, attempt.peak_mb]
    cost_cells = [as_cell(value, digits) for value, digits in zip(cost, (1, 1, 2, 0), strict=True)]
    if not attempt.models:
        cells = [attempt.method, f"0/{total}", "0", "-", "-", "-", *cost_cells, *["-"] * 6]
        return Result(cells, accuracy=Accuracy(problem=attempt.failure))
    model = read_model(attempt.models[0])
    model.update_point_3d_errors()
    registered = model.num_reg_images()
    cells = [attempt.method, f"{registered}/{total}", str(len(attempt.models)), str(model.num_points3D())]
    cells += [f"{model.compute_mean_track_length():.1f}", f"{model.compute_mean_reprojection_error():.2f}", *cost_cells]
    try:
        accuracy = measure_accuracy(case, as_training_data(model, case.sequence), attempt.focal_px)
    except LumenError as error:
        accuracy = Accuracy(problem=str(error))
    figures = [as_cell(accuracy.surface_percent, 2), as_cell(accuracy.focal_ratio, 3)]
    return Result([*cells, *path_cells(accuracy.agreement), *figures], registered, accuracy)


def as_cell(value: float, digits: int) -> str:
    """A number, or "-" if it is unknown."""
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def path_cells(agreement: Agreement | None) -> list[str]:
    """The cells that compare trajectories."""
    if agreement is None:
        return ["-"] * 4
    path = agreement.difference
    shares = [f"{100 * path.ate / path.path_length:.2f}", f"{100 * path.ate / path.extent:.2f}"]
    return [*shares, f"{np.median(path.rotation_deg):.2f}", f"{np.median(agreement.rotation_by_poses_deg):.2f}"]


def run_methods(case: Case, methods: list[str], work: Path) -> dict[str, Result]:
    """Run the methods one after the other and print a row for each."""
    video = InputVideo.read(case.sequence)
    state = "calibrated" if video.camera is not None else "uncalibrated"
    width, height = video.size
    total = len(video.frame_index)
    note = keep_all_note(sum(bool(frame.flags) for frame in video.facts.frames))
    print("\n" + ", ".join(filter(None, (case.name, state, f"{total} frames of {width}x{height}", note))), flush=True)
    baseline_s, results = float("nan"), {}
    for method in methods:
        attempt = run_alone(method, case.sequence, work / method)
        baseline_s = attempt.cpu_s if method == COLMAP else baseline_s
        result = results[method] = result_of(case, attempt, baseline_s, total)
        print("  ".join(filter(None, (as_line(result.cells), note))), flush=True)
        if problem := result.accuracy.problem:
            print(textwrap.fill(problem, 118, initial_indent="  ", subsequent_indent="  "), flush=True)
    return results


def as_line(cells: list[str]) -> str:
    """One line of the table."""
    padded = [f"{cell:>{width}}" for cell, (_, _, width) in zip(cells[1:], COLUMNS[1:], strict=False)]
    return f"{cells[0]:<{COLUMNS[0][2]}}" + "".join(padded)


def phantom_figures(case: Case, results: dict[str, Result]) -> dict[str, float | None]:
    """What the bounds limit on a phantom."""
    video = InputVideo.read(case.sequence)
    is_calibrated = video.camera is not None
    measured: dict[str, float | None] = {}
    for method in results.keys() - {COLMAP}:
        name, accuracy = f"{method}, {case.anatomy}", results[method].accuracy
        state = "calibrated" if is_calibrated else "uncalibrated"
        measured[f"{name}, {state}: frames"] = 100 * results[method].registered / len(video.frame_index)
        if not is_calibrated:
            measured[f"{name}, {state}: focal length"] = 100 * abs(accuracy.focal_ratio - 1)
            continue
        path = accuracy.agreement.difference if accuracy.agreement is not None else None
        measured[f"{name}, {state}: path"] = None if path is None else 100 * path.ate / path.path_length
        measured[f"{name}, {state}: surface"] = accuracy.surface_percent
    return measured


def draw_paths(path: Path, name: str, agreements: dict[str, Agreement]) -> None:
    """Plot the difference of each method from the reference for every frame."""
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for method, own in agreements.items():
        position = 100 * own.difference.position / own.difference.extent
        by_centers_deg, by_poses_deg = own.difference.rotation_deg, own.rotation_by_poses_deg
        draw_line(above, method, own.frame_index, position, f"{method}, median {np.median(position):.2f} %", "-")
        label = f"{method}, median {np.median(by_centers_deg):.2f}°"
        draw_line(below, method, own.frame_index, by_centers_deg, label, "-")
        label = f"orientations aligned: {np.median(by_poses_deg):.2f}°"
        draw_line(below, method, own.frame_index, by_poses_deg, label, ":")
    figure.suptitle(f"{name}: difference from the reference after Sim(3) alignment of the camera centres")
    # On a linear scale, the last frames of a drifting trajectory would hide the differences of all others.
    above.set(ylabel="position error, % of the extent", yscale="log")
    above.yaxis.set_major_formatter("{x:g}")
    below.set(xlabel="frame", ylabel="rotation error, degrees", ylim=(0, None))
    for axes in (above, below):
        axes.grid(color="0.9")
        axes.margins(x=0.01)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(agreements), fontsize=9, frameon=False)
    figure.savefig(path)


def draw_line(
    axes: Axes, method: str, frame_index: npt.NDArray[np.int64], values: Floats, label: str, style: str
) -> None:
    """Plot one value a frame, with a gap where frames are missing."""
    frames = np.arange(frame_index[0], frame_index[-1] + 1)
    line = np.full(len(frames), np.nan)
    line[frame_index - frame_index[0]] = values
    axes.plot(frames, line, style, color=COLORS[method], linewidth=1.2, label=label)


def make_phantoms(anatomies: list[str], frames: int, root: Path) -> Iterator[Case]:
    """Render each anatomy, and extract it with and without its calibration."""
    for anatomy in anatomies:
        phantom = root / anatomy / "phantom"
        render = ("data_prep/phantom.py", phantom, "--anatomy", anatomy, "--frames", frames, "--no_depth")
        run_command(*render, is_quiet=True)
        calibration = ("--calibration", phantom / "calibration.yaml")
        for name, flags in (("calibrated", calibration), ("uncalibrated", ())):
            extracted = root / anatomy / name
            run_command("data_prep/extract.py", phantom / "video.mp4", "--output", extracted, *flags, is_quiet=True)
            sequence = RunPaths(extracted).sequences()[0].root
            yield Case(f"{anatomy} phantom", sequence, phantom, anatomy=anatomy)


def parse_arguments() -> argparse.Namespace:
    """Read the command line, and check that the flags fit together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence", type=Path, help="a sequence of your own, as extract.py writes it")
    parser.add_argument("--reference", type=Path, help="SfM training data of the sequence's frames")
    parser.add_argument(
        "--phantoms", nargs="*", choices=ANATOMIES, default=list(ANATOMIES), help="none if no value follows"
    )
    parser.add_argument("--frames", type=int, default=120, help="length of the phantoms (default: %(default)d)")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--skip_colmap", action="store_true", help="COLMAP takes long on a large sequence")
    parser.add_argument("--output", type=Path, help="new folder for all results; by default only a plot is kept")
    options = parser.parse_args()
    if options.reference is not None and options.sequence is None:
        parser.error("--reference needs --sequence")
    if options.output is not None and options.output.exists():
        parser.error(f"--output {options.output} exists: choose a new folder")
    return options


@contextmanager
def folder_for(output: Path | None) -> Iterator[Path]:
    """The output folder, or a temporary one."""
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        output.mkdir(parents=True)
        yield output


def measure_sequence(options: argparse.Namespace, methods: list[str], work: Path) -> dict[str, float | None]:
    """Run the methods on the user's sequence and plot their trajectories; returns what the bounds limit."""
    case = Case(options.sequence.name, options.sequence, reference=options.reference)
    results = run_methods(case, methods, work)
    agreements = {name: each.accuracy.agreement for name, each in results.items() if each.accuracy.agreement}
    if agreements:
        plot = (options.output or Path(tempfile.mkdtemp())) / "paths.png"
        draw_paths(plot, case.name, agreements)
        print(f"\nplot of the trajectories: {plot}")
    if options.skip_colmap:
        return {}
    baseline = max(1, results[COLMAP].registered)
    return {f"{method}, sequence: frames": results[method].registered / baseline for method in options.methods}


def main() -> int:
    """Measure the phantoms and the sequence; returns the exit status."""
    options = parse_arguments()
    methods = [*([] if options.skip_colmap else [COLMAP]), *options.methods]
    print_machine(f"COLMAP {pycolmap.__version__}", f"phantoms of {options.frames} frames")
    print(as_line([above for above, _, _ in COLUMNS]), as_line([below for _, below, _ in COLUMNS]), sep="\n")
    measured: dict[str, float | None] = {}
    applied = [each for one in options.phantoms for method in options.methods for each in bounds.FIRST_SFM[method, one]]
    with folder_for(options.output) as root:
        for number, case in enumerate(make_phantoms(options.phantoms, options.frames, root)):
            measured |= phantom_figures(case, run_methods(case, methods, root / f"runs_{number}"))
        if options.sequence is not None:
            measured |= measure_sequence(options, methods, root / "runs_sequence")
            if not options.skip_colmap:
                applied += [bounds.FIRST_SFM_SEQUENCE[method] for method in options.methods]
    return bounds.check(applied, measured)


if __name__ == "__main__":
    sys.exit(main())
