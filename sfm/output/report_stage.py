"""The page that says whether a reconstruction can be trusted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays import Float64s
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import read_point_cloud
from pipeline.errors import explain_os_errors
from pipeline.reconstruction_paths import ReconstructionPaths
from sfm.colmap.model import read_model
from sfm.dense_points import Lattice
from sfm.densify_stage import finished_models
from sfm.input_video import InputVideo
from sfm.map_stage import model_numbers, poses_of
from sfm.mapping.triangulation import reprojection_errors
from sfm.output.report_page import ReportContent, write_report

_LOW_COVERAGE = 0.1


def report_stage(
    video: InputVideo,
    paths: ReconstructionPaths,
    reports_of: Sequence[Path],
    name: str | None = None,
    warnings: Sequence[str] = (),
) -> list[Path]:
    """Write a page for each finished model of a reconstruction.

    Args:
        video: the sequence.
        paths: of the run.
        reports_of: the stages' reports, in their order.
        name: for the titles (`Sequence.title`).
        warnings: more than the reports have.

    Returns:
        The pages, that of the largest model first, and what to look at next: overlay, point cloud, dense model.
    """
    reports: list[dict[str, Any]] = [_read(path) for path in reports_of]
    everything = [*warnings, *(warning for report in reports for warning in report["warnings"])]
    poses = {
        number: poses_of(read_model(paths.of_model(number).sparse), video.frame_index)
        for number in model_numbers(paths)
    }
    title = f"Reconstruction: {video.facts.title(name)}"
    pages = [_report_model(video, model, poses, reports, everything, title) for model in finished_models(paths)]
    return [*pages, paths.overlay, paths.point_cloud, paths.dense]


def _report_model(
    video: InputVideo,
    paths: ReconstructionPaths,
    poses_by_model: Mapping[int, Float64s],
    reports: Sequence[dict],
    warnings: Sequence[str],
    title: str,
) -> Path:
    camera = video.camera
    assert camera is not None
    poses = poses_by_model[paths.number]
    tracks = Tracks.load(paths.dense_tracks)
    points, colors = read_point_cloud(paths.point_cloud)
    assert colors is not None
    models = _read(paths.stage_report("densify"))["counts"]["models"]
    figures = next(each for each in models if each["number"] == paths.number)
    lattice = Lattice(video.mask > 0, len(poses), figures["cell_px"])
    lattice.take(tracks.frame, tracks.pixels)
    coverage = lattice.coverage()
    registered = np.isfinite(poses[:, 0, 0])
    in_no_model = ~np.any([np.isfinite(each[:, 0, 0]) for each in poses_by_model.values()], axis=0)
    facts = {
        "frames in this model": f"{registered.sum()} of {len(poses)}",
        "frames without a pose": f"{in_no_model.sum()}",
        "points": f"{len(points):,}",
        "observations": f"{len(tracks.frame):,}",
        "frames a point is seen in": f"{figures['mean_track_length']:.1f}",
        "median reprojection error": f"{figures['median_reprojection_error_px']:.2f} px",
        "mean coverage": f"{100 * coverage[registered].mean():.0f} %",
    }
    warnings = [*_unrelated(paths, models), *warnings]
    low = int((coverage[registered] < _LOW_COVERAGE).sum())
    if low:
        warnings.append(f"{low} frames have less than {_LOW_COVERAGE:.0%} of their cells covered: see Frames below")
    error_px = reprojection_errors(tracks, points, camera, poses)
    title += f", model {paths.number} of {len(models)}" if len(models) > 1 else ""
    content = ReportContent(title, warnings, facts, tracks, points, colors, poses, error_px, coverage, reports)
    write_report(paths.page, content)
    return paths.page


def _unrelated(paths: ReconstructionPaths, models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know of a model that is not the only one."""
    others = [each for each in models if each["number"] != paths.number]
    if not others:
        return []
    named = ", ".join(f"model {each['number']} ({each.get('frames', 0)} frames)" for each in others)
    return [
        f"This is model {paths.number}. The sequence also has {named}: they could not be joined, so their scales and "
        "world coordinates are unrelated. index.html lists all of them."
    ]


def _read(path: Path) -> dict:
    with explain_os_errors("read", path):
        report: dict = json.loads(path.read_bytes())
    return report
