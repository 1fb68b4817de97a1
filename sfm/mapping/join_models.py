"""Joining models of one video that share frames and points."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from pipeline.arrays import Float64s
from pipeline.data.tracks import Tracks
from sfm.mapping.track_model import TrackModel, refine, triangulate_all
from sfm.mapping.triangulation import Limits, camera_centers

# The first triangulation uses poses before bundle adjustment.
_ROUGH_FACTOR = 2.0
_MIN_SHARED_FRAMES = 3
_MIN_SHARED_POINTS = 30
# Points of two models agree if they are within this share of their distance from the cameras.
_SHARED_POINT_TOLERANCE = 0.05

logger = logging.getLogger(__name__)


def join_models(models: list[TrackModel], tracks: Tracks, limits: Limits, log: Path) -> list[TrackModel]:
    """Join models that share frames until no two can be joined; return all models, the largest first."""
    rough = replace(limits, error_px=_ROUGH_FACTOR * limits.error_px)
    models = sorted(models, key=_rank, reverse=True)
    for first, base in enumerate(models):
        for second in range(first + 1, len(models)):
            poses = joined_poses(base, models[second], tracks)
            if poses is None:
                continue
            shared = (base.registered & models[second].registered).sum()
            logger.info("joining two models that share %d frames", shared)
            joined = triangulate_all(base.camera, poses, tracks, rough)
            joined = refine(refine(joined, tracks, rough, log), tracks, limits, log)
            rest = [model for place, model in enumerate(models) if place not in (first, second)]
            return join_models([joined, *rest], tracks, limits, log)
    return models


def joined_poses(base: TrackModel, other: TrackModel, tracks: Tracks) -> Float64s | None:
    """Express the poses of two models in the world of the first.

    Returns:
        (F, 3, 4) poses, or None if the models share too few frames or points, or disagree on them.
    """
    shared = base.registered & other.registered
    common = np.flatnonzero(np.isfinite(base.points[:, 0]) & np.isfinite(other.points[:, 0]))
    if shared.sum() < _MIN_SHARED_FRAMES or len(common) < _MIN_SHARED_POINTS:
        return None
    centers = camera_centers(base.cam_from_world)
    distance = np.median(np.linalg.norm(base.points[common] - centers[shared].mean(axis=0), axis=1))
    options = pycolmap.RANSACOptions()
    options.max_error = _SHARED_POINT_TOLERANCE * float(distance)
    options.random_seed = 0
    # The stubs declare a Sim3d, but the function returns a dictionary that also holds the inliers.
    found: Any = pycolmap.estimate_sim3d_robust(other.points[common], base.points[common], options)
    if found is None or found["num_inliers"] < 0.5 * len(common):
        return None
    base_from_other = found["tgt_from_src"]
    poses = base.cam_from_world.copy()
    for row in np.flatnonzero(other.registered & ~base.registered):
        moved = base_from_other.transform_camera_world(pycolmap.Rigid3d(other.cam_from_world[row]))
        poses[row] = moved.matrix()
    return poses


def _rank(model: TrackModel) -> tuple[int, int]:
    return int(model.registered.sum()), model.point_count
