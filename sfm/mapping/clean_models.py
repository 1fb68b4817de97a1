"""Removal of unreliable points from the models of a video."""

import logging
from dataclasses import replace

import numpy as np

from pipeline.arrays import Float64s
from pipeline.data.tracks import Tracks
from pipeline.errors import NoReconstruction
from pipeline.report import StageReport
from sfm.mapping.cleaning import clean
from sfm.mapping.config import MapConfig
from sfm.mapping.track_model import MIN_FRAME_POINTS, TrackModel
from sfm.mapping.video import VideoModels

_EXPLAINED_WARNED = 0.6

logger = logging.getLogger(__name__)


def explained_share(model: TrackModel, tracks: Tracks, min_views: int) -> float:
    """Compute the share 0..1 of the observations in the registered frames that agree with the points.

    Args:
        model: model of the tracks.
        tracks: tracks of the whole video; those with fewer than `min_views` observations in registered frames are
            ignored.
        min_views: smallest number of observations of a point.
    """
    inside = model.registered[tracks.frame]
    views = np.bincount(tracks.track[inside], minlength=tracks.track_count)
    followed = inside & (views[tracks.track] >= min_views)
    return float(model.used.sum() / max(1, followed.sum()))


def clean_models(
    found: VideoModels, tracks: Tracks, colors: Float64s, config: MapConfig, report: StageReport
) -> VideoModels:
    """Remove points with uncertain depth or inconsistent colour, and models that are left with too few points.

    Args:
        found: at least one model.
        tracks: of the whole video.
        colors: (O, 3) of each observation, 0..255; NaN where unknown.
        config: which points stay.
        report: for counts and warnings.

    Raises:
        NoReconstruction: if no model has enough points left.
    """
    before = found.models[0].point_count
    explained = [explained_share(model, tracks, config.min_views) for model in found.models]
    report.counts["explained_observations"] = round(explained[0], 3)
    for number, share in enumerate(explained):
        if share < _EXPLAINED_WARNED:
            report.warnings.append(
                f"model {number} explains only {share:.0%} of the observations in its frames: check its point cloud "
                "before you use it"
            )
            logger.warning(report.warnings[-1])
    share, largest = config.inlier_percentage, config.max_depth_uncertainty
    cleaned = [clean(model, tracks, colors, largest, share) for model in found.models]
    enough = [each for each in cleaned if each.model.point_count >= MIN_FRAME_POINTS]
    best = enough[0] if enough else cleaned[0]
    report.counts |= {"points_of_uncertain_depth": best.uncertain, "points_of_inconsistent_color": best.inconsistent}
    if not enough:
        raise NoReconstruction(
            f"no reconstruction: only {best.model.point_count} of {before} points are certain enough, because the "
            "camera hardly moves or --max_depth_uncertainty is too small"
        )
    facts = (best.model.point_count, best.uncertain, best.inconsistent)
    logger.info("%d points kept; %d with uncertain depth and %d with inconsistent colour removed", *facts)
    return replace(found, models=[each.model for each in enough])
