"""Whole reconstructions from video: what flow and the descriptor each add, how true it is, how long each stage takes.

Run with `python benchmarks/reconstruction.py [WORK] [--minutes 10] [--clips colon sinus real real_3fps]`. Phantoms are
rendered, and measured by their truth beside COLMAP's SIFT on the same frames; if LUMEN_REAL_DATA names the folder of
real data, its sinus clip is made a video and compared with the published camera path. What is in WORK already is not
made again. Each run is a process of its own.

On phantoms fewer than 98 % of the frames, an ATE above 1 % of the path, points farther than 0.5 % of the depth from the
surface or a completeness under 85 % are regressions.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from bootstrap import COLMAP, run_alone

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

ROOT = Path(__file__).parent.parent
MODES = ("flow", "descriptor", "both")
CLIPS = ("colon", "sinus", "real", "real_3fps")
# Frames apart: how many observations of dense points lie so far from the first of their track.
SPANS = (5, 10, 20, 40, 80, 10_000)


@dataclass(frozen=True)
class Clip:
    """A video to reconstruct, and what is known of it."""

    name: str
    video: Path
    calibration: Path
    options: tuple[str, ...] = ()
    truth: Path | None = None
    reference: TrainingData | None = None


def make_clip(name: str, work: Path) -> Clip | None:
    """Render or encode a video; None if there is no real data."""
    if name in ("colon", "sinus"):
        paths = PhantomPaths(work / f"phantom_{name}")
        if not paths.report.exists():
            command("data_prep/phantom.py", str(paths.root), "--anatomy", name, "--overwrite")
        return Clip(name, paths.video, paths.calibration, truth=paths.root)
    if "LUMEN_REAL_DATA" not in os.environ:
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
    """The frames of training data as a video of 30 frames a second."""
    partial = path.with_name(f".partial.{path.name}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = data.width, data.height, "yuv420p"
        for image in data.image_paths:
            pixels = cv2.imread(str(image))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(pixels), format="bgr24")))
        container.mux(stream.encode())
    os.replace(partial, path)


def command(script: str, *arguments: str) -> None:
    """One of our commands, its output on the terminal."""
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)


def reconstruct(clip: Clip, mode: str, work: Path, minutes: float, weights: Path | None) -> ReconstructionPaths:
    """Run `reconstruct.py`, as a user would."""
    paths = ReconstructionPaths(work / f"{clip.name}_{mode}")
    given = () if weights is None else ("--weights", str(weights), "--train_minutes", "0")
    training = () if mode == "flow" else given or ("--train_minutes", str(minutes))
    where = ("--output", str(paths.root), "--calibration", str(clip.calibration))
    command("reconstruct.py", str(clip.video), *where, "--correspondences", mode, *training, *clip.options)
    return paths


def row(clip: Clip, mode: str, paths: ReconstructionPaths) -> list[str]:
    """The figures of a run."""
    reports = {path.stem: json.loads(path.read_text()) for path in paths.stage_report("x").parent.glob("*.json")}
    for path in (RunPaths(paths.extracted).report("extract"), *paths.extracted.glob("*/colmap/reports/*.json")):
        reports[path.stem] = json.loads(path.read_text())
    skeleton, flesh = reports["map"]["counts"], reports["densify"]["counts"]
    total_s = sum(report["total_s"] for report in reports.values())
    memory = max(report["peak_memory_mb"] for report in reports.values()) / 1024
    return [
        clip.name,
        mode,
        f"{skeleton['registered']} of {skeleton['frames']}",
        str(flesh["points"]),
        f"{flesh['mean_track_length']:.1f}",
        f"{flesh['median_reprojection_error_px']:.2f}",
        f"{100 * flesh['mean_coverage']:.0f}",
        *truth_cells(clip, read_training_data(paths.root)),
        f"{total_s / 60:.1f}",
        f"{memory:.1f}",
    ]


def truth_cells(clip: Clip, data: TrainingData) -> list[str]:
    """ATE or RMSE in per cent, rotation, distance from the surface in per cent of the depth, completeness."""
    if clip.truth is not None:
        figures = evaluate(data, SurfaceTruth.load(clip.truth))
        share = 100 * (figures.completeness or 0)
        cells = 100 * figures.ate_share, figures.rotation_deg, 100 * figures.surface_share
        return [*(f"{value:.2f}" for value in cells), f"{share:.0f}"]
    assert clip.reference is not None
    # Frames of the video are counted from 0.
    reference = clip.reference.cam_from_world[data.frame_index]
    difference = compare_paths(data.cam_from_world, reference)
    return [f"{100 * difference.ate / difference.extent:.2f}", f"{np.median(difference.rotation_deg):.2f}", "-", "-"]


def spans(paths: ReconstructionPaths) -> list[str]:
    """Of all dense observations, the share so many frames after the first of their track."""
    tracks = Tracks.load(paths.dense_tracks)
    index = tracks.frame_index[tracks.frame]
    first = np.full(tracks.track_count, np.iinfo(np.int64).max)
    np.minimum.at(first, tracks.track, index)
    apart = index - first[tracks.track]
    counts = np.histogram(apart, bins=[0, *(limit + 1 for limit in SPANS)])[0]
    return [f"{100 * count / len(apart):.1f}" for count in counts]


def colmap_row(clip: Clip, sequence: Path, work: Path) -> list[str]:
    """COLMAP's SIFT with its defaults on the same frames."""
    attempt = run_alone(COLMAP, sequence, work / f"{clip.name}_colmap")
    if not attempt.models:
        return [clip.name, COLMAP, attempt.failure]
    model = read_model(attempt.models[0])
    points = model.num_points3D()
    cells = f"{model.num_reg_images()}", str(points), f"{model.compute_mean_track_length():.1f}"
    error = f"{model.compute_mean_reprojection_error():.2f} (mean)"
    video = InputVideo.read(sequence)
    images = {video.source.image(each).name: video.source.image(each) for each in video.frame_index}
    data = training_data_from_model(model, video.mask, np.array(video.frame_index), images)
    return [clip.name, COLMAP, *cells, error, "-", *truth_cells(clip, data), f"{attempt.seconds / 60:.1f}"]


def main() -> None:
    """Make, reconstruct, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=ROOT / "build" / "reconstruction", help="folder for it")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=CLIPS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--weights", type=Path, help="of the descriptor, instead of training")
    parser.add_argument("--colmap", action="store_true", help="also COLMAP's SIFT, slow")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    rows = [
        ["", "", "frames", "points", "length", "px", "cover %", "path %", "deg", "surf %", "compl %", "min", "GiB"],
    ]
    apart = [["", "", *(f"<= {limit}" for limit in SPANS[:-1]), "more"]]
    for name in arguments.clips:
        clip = make_clip(name, work)
        if clip is None:
            continue
        for mode in arguments.modes:
            paths = reconstruct(clip, mode, work, arguments.minutes, arguments.weights)
            rows.append(row(clip, mode, paths))
            apart.append([name, mode, *spans(paths)])
        if arguments.colmap:
            rows.append(colmap_row(clip, RunPaths(paths.extracted).sequences()[0].root, work))
    for table in (rows, apart):
        print()
        for cells in table:
            print("  ".join(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    main()
