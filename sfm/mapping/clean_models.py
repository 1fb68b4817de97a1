"""Models of a video without the points that are not to be trusted."""

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt

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
    """The share 0..1 of the observations in a model's own frames that agree with its points.

    Args:
        model: of the tracks.
        tracks: of the whole video; only those count that are observed in `min_views` of the model's frames.
        min_views: fewest frames of a point.
    """
    inside = model.registered[tracks.frame]
    views = np.bincount(tracks.track[inside], minlength=tracks.track_count)
    followed = inside & (views[tracks.track] >= min_views)
    return float(model.used.sum() / max(1, followed.sum()))


def clean_models(
    found: VideoModels, tracks: Tracks, colors: npt.NDArray[np.float64], config: MapConfig, report: StageReport
) -> VideoModels:
    """Remove points of uncertain depth and of inconsistent colour, and models that are left with too few.

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
                f"model {number} explains only {share:.0%} of what was followed in its frames: check its point cloud "
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
            f"no reconstruction: of {before} points {best.model.point_count} are certain enough; the camera may hardly "
            "move, or loosen --max_depth_uncertainty"
        )
    facts = (best.model.point_count, best.uncertain, best.inconsistent)
    logger.info("%d points left; %d of uncertain depth and %d of inconsistent colour removed", *facts)
    return replace(found, models=[each.model for each in enough])
