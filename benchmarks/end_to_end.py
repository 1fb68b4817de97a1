"""Whole reconstructions of videos: registered frames, dense points, accuracy, time and memory.

    python benchmarks/end_to_end.py [WORK] [--clips colon sinus real real_3fps] [--modes flow descriptor both]

Phantoms are rendered and compared with their ground truth. If LUMEN_REAL_DATA names the folder of real data, its sinus
clip is encoded as a video with all its frames (real) and with every 10th (real_3fps), and compared with the published
trajectory. Each run is a process of its own. Videos and runs in WORK are used again. The baseline, with --colmap, is
COLMAP with its defaults on the same frames.

The bounds hold for the default settings on phantoms and on `real`. On real_3fps they hold for --weights trained on all
frames of the clip.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import bounds
import cv2
import numpy as np
from measurement import ROOT, Cost, print_machine, run_command, timed, weights_note
from sfm_methods import COLMAP, run_alone

from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.tracks import Tracks
from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import read_training_data
from pipeline.paths import RunPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from sfm.colmap.model import read_model, training_data_from_model
from sfm.evaluation.alignment import compare_paths
from sfm.evaluation.surface import SurfaceTruth
from sfm.evaluation.truth import evaluate
from sfm.input_video import InputVideo

MODES = ("flow", "descriptor", "both")
CLIPS = ("colon", "sinus", "real", "real_3fps")
# Bins of the distance, in frames, between an observation and the first one of its track.
SPANS = (5, 10, 20, 40, 80, 10_000)
COLUMNS = (
    *("clip", "mode", "frames", "points", "length", "px", "cover %"),
    *("path %", "deg", "surf %", "compl %", "wall min", "CPU min", "x COLMAP", "GiB", "notes"),
)


@dataclass(frozen=True)
class Clip:
    """A video to reconstruct, with ground truth or a reference.

    Attributes:
        name: one of `CLIPS`.
        video, calibration: input of reconstruct.py.
        options: further flags of reconstruct.py.
        truth: the phantom's folder.
        reference: the published model.
    """

    name: str
    video: Path
    calibration: Path
    options: tuple[str, ...] = ()
    truth: Path | None = None
    reference: TrainingData | None = None


@dataclass
class Row:
    """A row of the table; NaN and "-" where a figure is unknown or does not apply.

    Attributes:
        path_percent: trajectory error, of the path's length on phantoms and of its extent on real clips.
        surface_percent: median distance of the points from the surface, of the depth.
    """

    clip: str
    mode: str
    registered: int = 0
    frames: int = 0
    points: int = 0
    track_length: float = float("nan")
    error_px: str = "-"
    coverage_percent: float = float("nan")
    path_percent: float = float("nan")
    rotation_deg: float = float("nan")
    surface_percent: float = float("nan")
    completeness_percent: float = float("nan")
    wall_s: float = float("nan")
    cpu_s: float = float("nan")
    memory_gb: float = float("nan")
    notes: str = ""

    def cells(self, baseline_s: float) -> list[str]:
        """As text; `baseline_s` is COLMAP's wall seconds on the same frames."""
        figures = (
            *(self.coverage_percent, self.path_percent, self.rotation_deg, self.surface_percent),
            *(self.completeness_percent, self.wall_s / 60, self.cpu_s / 60, self.wall_s / baseline_s, self.memory_gb),
        )
        texts = ["-" if np.isnan(each) else f"{each:.2f}" for each in (self.track_length, *figures)]
        counts = [self.clip, self.mode, f"{self.registered} of {self.frames}", str(self.points)]
        return [*counts, texts[0], self.error_px, *texts[1:], self.notes]

    def figures(self) -> dict[str, float]:
        """What bounds limit, by name."""
        figures = {
            "frames": 100 * self.registered / max(1, self.frames),
            "path": self.path_percent,
            "surface": self.surface_percent,
            "completeness": self.completeness_percent,
        }
        return {f"{self.clip}, {self.mode}: {name}": value for name, value in figures.items()}


def make_clip(name: str, work: Path) -> Clip | None:
    """Render or encode a video; None if there is no real data."""
    if name in ("colon", "sinus"):
        paths = PhantomPaths(work / f"phantom_{name}")
        if not paths.report.exists():
            run_command("data_prep/phantom.py", paths.root, "--anatomy", name, "--overwrite")
        return Clip(name, paths.video, paths.calibration, truth=paths.root)
    if "LUMEN_REAL_DATA" not in os.environ:
        print(f"{name} skipped: set LUMEN_REAL_DATA to the folder of real data")
        return None
    reference = read_training_data(next((Path(os.environ["LUMEN_REAL_DATA"]) / "sinus" / "1").iterdir()))
    video, calibration = work / "real.mp4", work / "real_cameras.txt"
    if not video.exists():
        encode(reference, video)
    fx, fy, cx, cy = reference.pinhole[0]
    calibration.write_text(f"1 PINHOLE {reference.width} {reference.height} {fx} {fy} {cx} {cy}\n")
    options = ("--stride", "10") if name == "real_3fps" else ()
    return Clip(name, video, calibration, ("--keep_all", *options), reference=reference)


def encode(data: TrainingData, path: Path) -> None:
    """Encode the frames of training data as a video of 30 frames a second."""
    partial = path.with_name(f".partial.{path.name}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = data.width, data.height, "yuv420p"
        for image in data.image_paths:
            pixels = cv2.imread(str(image))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(pixels), format="bgr24")))
        container.mux(stream.encode())
    os.replace(partial, path)


def reconstruct(clip: Clip, mode: str, work: Path, options: argparse.Namespace) -> tuple[ReconstructionPaths, Cost]:
    """Run `reconstruct.py`; the cost is that of the run that wrote the output, unknown if it was resumed."""
    paths = ReconstructionPaths(work / f"{clip.name}_{mode}")
    record = work / f"{clip.name}_{mode}_cost.json"
    is_new = not paths.root.exists()
    training: tuple[object, ...] = ("--train_minutes", options.minutes)
    if options.weights is not None:
        training = ("--weights", options.weights.resolve(), "--train_minutes", 0)
    with timed() as cost:
        run_command(
            *("reconstruct.py", clip.video, "--output", paths.root, "--calibration", clip.calibration),
            *("--correspondences", mode, *(training if mode != "flow" else ()), *clip.options),
        )
    if is_new:
        record.write_text(json.dumps({"wall_s": cost.wall_s, "cpu_s": cost.cpu_s}))
    return paths, Cost(**json.loads(record.read_text())) if record.exists() else Cost()


def measure(clip: Clip, mode: str, paths: ReconstructionPaths, cost: Cost, options: argparse.Namespace) -> Row:
    """The figures of a run."""
    reports = {path.stem: json.loads(path.read_text()) for path in paths.stage_report("x").parent.glob("*.json")}
    for path in (RunPaths(paths.extracted).report("extract"), *paths.extracted.glob("*/colmap/reports/*.json")):
        reports[path.stem] = json.loads(path.read_text())
    sparse, dense = reports["map"]["counts"], reports["densify"]["counts"]
    notes = ["--keep_all"] if "--keep_all" in clip.options else []
    if options.weights is not None and mode != "flow":
        notes.append(weights_note(options.weights, sparse["frames"], options.weights_frames))
    if np.isnan(cost.wall_s):
        # A resumed run: the reports of its stages have wall seconds, and none has CPU seconds.
        cost = Cost(sum(report["total_s"] for report in reports.values()))
        notes.append("resumed")
    return Row(
        clip=clip.name,
        mode=mode,
        registered=sparse["models"][0],
        frames=sparse["frames"],
        points=dense["points"],
        track_length=dense["mean_track_length"],
        error_px=f"{dense['median_reprojection_error_px']:.2f}",
        coverage_percent=100 * dense["mean_coverage"],
        wall_s=cost.wall_s,
        cpu_s=cost.cpu_s,
        memory_gb=max(report["peak_memory_mb"] for report in reports.values()) / 1024,
        notes=", ".join(notes),
        **accuracy(clip, read_training_data(paths.root)),
    )


def accuracy(clip: Clip, data: TrainingData) -> dict[str, Any]:
    """The fields of `Row` that compare a model with ground truth or with the reference."""
    if clip.truth is not None:
        figures = evaluate(data, SurfaceTruth.load(clip.truth))
        return {
            "path_percent": 100 * figures.ate_share,
            "rotation_deg": figures.rotation_deg,
            "surface_percent": 100 * figures.surface_share,
            "completeness_percent": 100 * (figures.completeness or 0),
        }
    assert clip.reference is not None
    # The reference has one pose for each frame of the video, in order.
    difference = compare_paths(data.cam_from_world, clip.reference.cam_from_world[data.frame_index])
    return {
        "path_percent": 100 * difference.ate / difference.extent,
        "rotation_deg": float(np.median(difference.rotation_deg)),
    }


def spans(paths: ReconstructionPaths) -> list[str]:
    """The share of the dense observations in each bin of `SPANS`, in per cent."""
    tracks = Tracks.load(paths.dense_tracks)
    index = tracks.frame_index[tracks.frame]
    first = np.full(tracks.track_count, np.iinfo(np.int64).max)
    np.minimum.at(first, tracks.track, index)
    distances = index - first[tracks.track]
    counts = np.histogram(distances, bins=[0, *(limit + 1 for limit in SPANS)])[0]
    return [f"{100 * count / len(distances):.1f}" for count in counts]


def colmap_row(clip: Clip, sequence: Path, work: Path) -> Row:
    """COLMAP with its defaults on the same frames."""
    attempt = run_alone(COLMAP, sequence, work / f"{clip.name}_colmap")
    video = InputVideo.read(sequence)
    notes = ["--keep_all"] if "--keep_all" in clip.options else []
    cost: dict[str, Any] = {
        "frames": len(video.frame_index),
        "wall_s": attempt.seconds,
        "cpu_s": attempt.cpu_s,
        "memory_gb": attempt.peak_mb / 1024,
    }
    if not attempt.models:
        return Row(clip.name, COLMAP, notes=", ".join([*notes, attempt.failure]), **cost)
    model = read_model(attempt.models[0])
    images = {video.source.image(each).name: video.source.image(each) for each in video.frame_index}
    data = training_data_from_model(model, video.mask, np.array(video.frame_index), images)
    return Row(
        clip=clip.name,
        mode=COLMAP,
        registered=model.num_reg_images(),
        points=model.num_points3D(),
        track_length=model.compute_mean_track_length(),
        error_px=f"{model.compute_mean_reprojection_error():.2f} (mean)",
        notes=", ".join(notes),
        **cost,
        **accuracy(clip, data),
    )


def measure_clip(clip: Clip, work: Path, options: argparse.Namespace) -> tuple[list[Row], list[list[str]]]:
    """Reconstruct a clip in every mode; returns its rows, and those of the distances of observations."""
    rows, distances = [], []
    for mode in options.modes:
        paths, cost = reconstruct(clip, mode, work, options)
        rows.append(measure(clip, mode, paths, cost, options))
        distances.append([clip.name, mode, *spans(paths)])
    if options.colmap:
        rows.append(colmap_row(clip, RunPaths(paths.extracted).sequences()[0].root, work))
    return rows, distances


def print_tables(rows: list[Row], distances: list[list[str]]) -> None:
    """Print both tables."""
    baseline_s: Mapping[str, float] = {row.clip: row.wall_s for row in rows if row.mode == COLMAP}
    table = [list(COLUMNS), *(row.cells(baseline_s.get(row.clip, float("nan"))) for row in rows)]
    heads = ["clip", "mode", *(f"<= {limit}" for limit in SPANS[:-1]), "more"]
    print("\nwhole reconstructions")
    print_table(table)
    print("\ndense observations by frames after the first of their track, %")
    print_table([heads, *distances])


def print_table(table: list[list[str]]) -> None:
    """Print cells in columns; the last column is as wide as its text."""
    for cells in table:
        print("  ".join([*(f"{cell:>11}" for cell in cells[:-1]), cells[-1]]).rstrip())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "build" / "reconstruction"
    parser.add_argument("work", type=Path, nargs="?", default=default, help="folder to work in")
    parser.add_argument("--minutes", type=float, default=14.0, help="of training (default: %(default)g)")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=CLIPS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--weights", type=Path, help="checkpoint of a descriptor, instead of training")
    parser.add_argument("--weights_frames", type=int, help="number of frames the weights were trained on, if known")
    parser.add_argument("--colmap", action="store_true", help="also run COLMAP, which is slow")
    return parser.parse_args()


def main() -> int:
    """Reconstruct every clip in every mode; returns the exit status."""
    options = parse_arguments()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    training = f"{options.minutes:g} minutes of training" if options.weights is None else "weights from a file"
    print_machine("phantoms of 640x512", training)
    rows: list[Row] = []
    distances: list[list[str]] = []
    for clip in filter(None, (make_clip(name, work) for name in options.clips)):
        clip_rows, clip_distances = measure_clip(clip, work, options)
        rows += clip_rows
        distances += clip_distances
    print_tables(rows, distances)
    applied = [
        each
        for row in rows
        for each in bounds.END_TO_END.get((row.clip, row.mode), ())
        if row.clip != "real_3fps" or options.weights is not None
    ]
    limited = {bound.name for bound in applied}
    figures = {name: value for row in rows for name, value in row.figures().items() if name in limited}
    return bounds.check(applied, figures)


if __name__ == "__main__":
    sys.exit(main())
