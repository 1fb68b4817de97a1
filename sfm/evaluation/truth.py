"""Accuracy and completeness of a phantom's reconstruction against ground truth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
import pycolmap

from pipeline.arrays import Float64s
from pipeline.data.training_data import TrainingData
from pipeline.errors import require
from sfm.evaluation.alignment import align_poses, compare_paths, relative_pose_errors
from sfm.evaluation.surface import SurfaceTruth
from sfm.mapping.triangulation import camera_centers

# A surface sample counts as reconstructed if a point is within this share of the scene depth.
COMPLETE_SHARE = 0.005
_SEEN_FRAMES = 3
_PIXEL_STEP = 8
# Largest difference of a visible surface sample from the depth map, as a share of the depth.
_SAME_DEPTH = 0.03


@dataclass(frozen=True)
class TruthFigures:
    """Errors of a reconstruction against ground truth.

    Attributes:
        registered_share: registered frames over frames that are not black, 0..1.
        ate_share: absolute trajectory error after Sim(3) alignment of the camera centres, over the trajectory length.
        rpe_share: root mean square error of the steps between neighbouring frames, over the mean step.
        rotation_deg: median angle between the orientations after alignment of the poses.
        surface_mm: median distance of the points to the true surface after alignment of the poses; NaN if no point is
            observed, as are `depth_mm` and `spacing_mm`.
        depth_mm: median distance of the points from the cameras that see them: the scene depth.
        completeness: share of the surface seen by 3 frames or more that has a point within `COMPLETE_SHARE` of the
            scene depth, 0..1; None if the phantom has no depth maps, or no point is observed.
        spacing_mm: median distance of a point to its nearest neighbour.
        focal_share: estimated over true focal length; meaningless for a fisheye lens, whose undistorted frames have
            another focal length.
    """

    registered_share: float
    ate_share: float
    rpe_share: float
    rotation_deg: float
    surface_mm: float
    depth_mm: float
    completeness: float | None
    spacing_mm: float
    focal_share: float

    @property
    def surface_share(self) -> float:
        """Distance to the surface as a share of the scene depth."""
        return self.surface_mm / self.depth_mm


def evaluate(data: TrainingData, truth: SurfaceTruth) -> TruthFigures:
    """Compare a reconstruction with the phantom whose video it is made from; frames are matched by index.

    Raises:
        LumenError: if fewer than 3 frames are registered, or the phantom has fewer frames than the reconstruction.
    """
    last = int(data.frame_index.max(initial=0))
    require(
        last < len(truth.cam_from_world),
        f"frame {last} is registered, but the phantom has only {len(truth.cam_from_world)} frames: give the phantom of "
        "this video",
    )
    reference = truth.cam_from_world[data.frame_index]
    difference = compare_paths(data.cam_from_world, reference)
    alignment = align_poses(data.cam_from_world, reference)
    rotations = data.cam_from_world[:, :, :3] @ alignment.rotation.matrix().T
    between = np.einsum("nij,nkj->nik", rotations, reference[:, :, :3])
    cosine = (np.trace(between, axis1=1, axis2=2) - 1) / 2
    return TruthFigures(
        registered_share=len(data.frame_index) / int(truth.shows.sum()),
        ate_share=difference.ate / difference.path_length,
        rpe_share=relative_pose_errors(data.cam_from_world, reference, float(alignment.scale)),
        rotation_deg=float(np.rad2deg(np.median(np.arccos(np.clip(cosine, -1, 1))))),
        **_point_figures(data, truth, alignment),
        focal_share=float(data.pinhole[0, :2].mean() / truth.camera.mean_focal_length()),
    )


def _point_figures(data: TrainingData, truth: SurfaceTruth, alignment: pycolmap.Sim3d) -> dict[str, Any]:
    """The fields of `TruthFigures` that need points."""
    if not len(data.observation_point):
        return {"surface_mm": np.nan, "depth_mm": np.nan, "completeness": None, "spacing_mm": np.nan}
    points_mm = _transformed(alignment, data.points)
    centers = camera_centers(data.cam_from_world)[data.observation_view]
    distance = np.linalg.norm(data.points[data.observation_point] - centers, axis=1)
    depth_mm = float(alignment.scale * np.median(distance))
    return {
        "surface_mm": float(np.median(truth.distance(points_mm))),
        "depth_mm": depth_mm,
        "completeness": _completeness(points_mm, truth, COMPLETE_SHARE * depth_mm),
        "spacing_mm": float(np.median(np.asarray(_cloud(points_mm).compute_nearest_neighbor_distance()))),
    }


def _transformed(similarity: pycolmap.Sim3d, points: Float64s) -> Float64s:
    return np.asarray(similarity.scale * points @ similarity.rotation.matrix().T + similarity.translation)


def _cloud(points: Float64s) -> o3d.geometry.PointCloud:
    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))


def _completeness(points_mm: Float64s, truth: SurfaceTruth, tolerance_mm: float) -> float | None:
    """Share of the sufficiently observed surface that has a point within the tolerance; None without depth maps.

    Surface samples are back-projected depth maps of some frames, thinned to one sample per cube of the tolerance.
    """
    frames = np.flatnonzero(truth.shows)
    some = frames[np.unique(np.linspace(0, len(frames) - 1, 30).astype(int))]
    surface = np.concatenate([np.zeros((0, 3)), *(truth.surface_points(int(row), _PIXEL_STEP) for row in some)])
    if not len(surface):
        return None
    _, first = np.unique(np.floor(surface / tolerance_mm).astype(np.int64), axis=0, return_index=True)
    surface = surface[first]
    seen = np.zeros(len(surface), np.int64)
    for row in frames:
        seen += truth.sees(int(row), surface, _SAME_DEPTH)
    surface = surface[seen >= _SEEN_FRAMES]
    if not len(surface):
        return None
    distance = np.asarray(_cloud(surface).compute_point_cloud_distance(_cloud(points_mm)))
    return float((distance <= tolerance_mm).mean())
