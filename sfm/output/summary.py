"""Summary of the first SfM for the log and the report."""

import logging

import pycolmap

from pipeline.outputs.files import write_bytes
from pipeline.paths import BootstrapPaths
from pipeline.report import StageReport
from sfm.input_video import InputVideo
from sfm.mapping.track_model import TrackModel
from sfm.models import ModelFigures

logger = logging.getLogger(__name__)


def describe_models(
    video: InputVideo,
    models: list[TrackModel],
    best: ModelFigures,
    missing: dict[int, str],
    camera: pycolmap.Camera,
    report: StageReport,
) -> None:
    """Log a summary, and add counts and warnings to the report.

    Args:
        video: the sequence.
        models: the models that were written, the best first.
        best: statistics of the first model.
        missing: frame index → reason, for each frame that is in no model.
        camera: camera of the mapped frames.
        report: report to fill in.
    """
    report.counts |= {
        "registered": best.frames,
        "points": best.points,
        "observations": best.observations,
        "mean_track_length": round(best.mean_track_length, 2),
        "mean_reprojection_error_px": round(best.mean_error_px, 3),
        "models": [int(model.registered.sum()) for model in models],
        "camera": {"model": camera.model_name, "params": [float(value) for value in camera.params]},
    }
    logger.info("%s", summary_line(report))
    if video.camera is None:
        facts = (camera.model_name, camera.mean_focal_length(), video.paths.calibration, video.paths.recorded.root)
        logger.info("camera: %s, focal length %.1f px (%s); the frames as recorded are in %s", *facts)
    if missing:
        index, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(video.frame_index)} frames have no pose"
        report.warnings.append(f"{count}; the first is frame {index}: {reason}")
        logger.warning("%s; %s lists all of them", report.warnings[-1], BootstrapPaths.of(video.paths).unregistered)


def summary_line(report: StageReport) -> str:
    """One line with the counts of the report, for the log and the overview plot."""
    counts = report.counts
    length, error_px = counts["mean_track_length"], counts["mean_reprojection_error_px"]
    return (
        f"registered images {counts['registered']} of {counts['frames']}, points {counts['points']}, mean track length "
        f"{length:.1f}, mean reprojection error {error_px:.2f} px"
    )


def list_unregistered(missing: dict[int, str], paths: BootstrapPaths, *, even_none: bool = False) -> None:
    """Write the list of unregistered frames (index → reason); an empty list only with `even_none`."""
    if missing or even_none:
        lines = [f"{index} {reason}\n" for index, reason in missing.items()]
        write_bytes(paths.unregistered, "".join(lines).encode())
