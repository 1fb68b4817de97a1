"""The page that says whether a reconstruction can be trusted."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.bootstrap_input import InputVideo
from pipeline.errors import explain_os_errors
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.tracks import Tracks
from pipeline.training_files import read_point_cloud
from reconstruction.skeleton_stage import poses_of
from sfm.colmap_model import read_model
from sfm.densification import Lattice
from sfm.report_page import ReportContent, write_report
from sfm.triangulation import reprojection_errors

_LOW_COVERAGE = 0.1


def report_on(video: InputVideo, paths: ReconstructionPaths, reports_of: Sequence[Path]) -> Path:
    """Write the page of a finished reconstruction.

    Args:
        video: the sequence.
        paths: of the run.
        reports_of: the stages' reports, in their order.
    """
    camera = video.camera
    assert camera is not None
    poses = poses_of(read_model(paths.sparse()), video.frame_index)
    tracks = Tracks.load(paths.dense_tracks)
    points, colors = read_point_cloud(paths.point_cloud)
    assert colors is not None
    reports = [_read(path) for path in reports_of]
    flesh = _read(paths.stage_report("flesh"))["counts"]
    lattice = Lattice(video.mask > 0, len(poses), flesh["cell_px"])
    lattice.take(tracks.frame, tracks.pixels)
    coverage = lattice.coverage()
    registered = np.isfinite(poses[:, 0, 0])
    facts = {
        "frames with a pose": f"{registered.sum()} of {len(poses)}",
        "points": f"{len(points):,}",
        "observations": f"{len(tracks.frame):,}",
        "frames a point is seen in": f"{flesh['mean_track_length']:.1f}",
        "median reprojection error": f"{flesh['median_reprojection_error_px']:.2f} px",
        "mean coverage": f"{100 * coverage[registered].mean():.0f} %",
    }
    warnings = [warning for report in reports for warning in report["warnings"]]
    low = int((coverage[registered] < _LOW_COVERAGE).sum())
    if low:
        warnings.append(f"{low} frames have less than {_LOW_COVERAGE:.0%} of their cells covered: see Frames below")
    error_px = reprojection_errors(tracks, points, camera, poses)
    title = f"Reconstruction: {paths.root.resolve().name}"
    content = ReportContent(
        title, warnings, facts, tracks, points, colors, poses, error_px, coverage, reports
    )  # fmt: skip
    write_report(paths.page, content)
    return paths.page


def _read(path: Path) -> dict:
    with explain_os_errors("read", path):
        report: dict = json.loads(path.read_text())
    return report
