"""What a first SfM has come to, told to the log and the report."""

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
    """Tell the log, and fill in the report's counts and warnings.

    Args:
        video: the sequence.
        models: what is written of it, the best first.
        best: figures of the first model.
        missing: index of each frame that is in no model → why.
        camera: of the frames that were mapped.
        report: to fill in.
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
        logger.info("camera: %s, focal length %.1f px (%s); frames as recorded are in %s", *facts)
    if missing:
        index, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(video.frame_index)} frames have no pose"
        report.warnings.append(f"{count}; the first is frame {index}: {reason}")
        logger.warning("%s; each is listed in %s", report.warnings[-1], BootstrapPaths.of(video.paths).unregistered)


def summary_line(report: StageReport) -> str:
    """The report's counts in words, for the log and the overview."""
    counts = report.counts
    length, error_px = counts["mean_track_length"], counts["mean_reprojection_error_px"]
    return (
        f"{counts['registered']} of {counts['frames']} frames, {counts['points']} points, each seen in {length:.1f} "
        f"frames, mean reprojection error {error_px:.2f} px"
    )


def list_unregistered(missing: dict[int, str], paths: BootstrapPaths, *, even_none: bool = False) -> None:
    """Write which frames (index → why) have no pose; an empty list, which says that all have one, only if asked for."""
    if missing or even_none:
        lines = [f"{index} {reason}\n" for index, reason in missing.items()]
        write_bytes(paths.unregistered, "".join(lines).encode())
