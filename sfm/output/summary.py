"""What mapping found, in the log, the report and the list of frames without a pose."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.tracks import Tracks
from pipeline.outputs.files import write_bytes
from pipeline.paths import MappingPaths
from pipeline.report import StageReport
from sfm.input_video import InputVideo
from sfm.mapping.track_model import TrackModel
from sfm.models import figures_of

logger = logging.getLogger(__name__)


def report_models(
    video: InputVideo,
    models: Sequence[TrackModel],
    tracks: Tracks,
    missing: dict[int, str],
    paths: MappingPaths,
    report: StageReport,
    *,
    listed_in: Path | None = None,
) -> None:
    """Log what mapping found, fill in the report's counts and warnings, and list the frames without a pose.

    Args:
        video: the sequence.
        models: as they are written, the best first.
        tracks: of the whole video.
        missing: index of each frame that is in no model → why.
        paths: where the list goes.
        report: to fill in.
        listed_in: where the list will be in the end; by default where it is written.
    """
    best = figures_of(models[0], tracks)
    report.counts |= {
        "frames": len(video.frame_index),
        "registered": int(np.any([model.registered for model in models], axis=0).sum()),
        "points": best.points,
        "observations": best.observations,
        "mean_track_length": round(best.mean_track_length, 2),
        "mean_reprojection_error_px": round(best.mean_error_px, 3),
        "models": [int(model.registered.sum()) for model in models],
    }
    for number, model in enumerate(models):
        figures = figures_of(model, tracks)
        facts = (number, figures.frames, len(video.frame_index), figures.points, figures.mean_error_px)
        logger.info("model %d: %d of %d frames, %d points, mean reprojection error %.2f px", *facts)
    list_unregistered(missing, paths, even_none=True)
    if missing:
        index, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(video.frame_index)} frames are in no model"
        report.warnings.append(f"{count}; the first is frame {index}: {reason}")
        logger.warning("%s; %s lists them", report.warnings[-1], listed_in or paths.unregistered)


def summary_line(report: StageReport) -> str:
    """The figures of the best model in one line."""
    counts = report.counts
    length, error_px = counts["mean_track_length"], counts["mean_reprojection_error_px"]
    return (
        f"{counts['models'][0]} of {counts['frames']} frames, {counts['points']} points, mean track length "
        f"{length:.1f} frames, mean reprojection error {error_px:.2f} px"
    )


def list_unregistered(missing: dict[int, str], paths: MappingPaths, *, even_none: bool = False) -> None:
    """Write which frames (index → why) have no pose; an empty list, which says that all have one, only if asked for."""
    if missing or even_none:
        lines = [f"{index} {reason}\n" for index, reason in missing.items()]
        write_bytes(paths.unregistered, "".join(lines).encode())
