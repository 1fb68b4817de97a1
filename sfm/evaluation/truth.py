"""A reconstruction of a phantom against its truth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import open3d as o3d
import pycolmap

from pipeline.data.training_data import TrainingData
from pipeline.errors import require
from sfm.evaluation.alignment import align_poses, compare_paths, relative_pose_errors
from sfm.evaluation.surface import SurfaceTruth
from sfm.mapping.triangulation import camera_centers

Floats = npt.NDArray[np.float64]

# Surface within this share of the scene's depth of a point is reconstructed.
COMPLETE_SHARE = 0.005
_SEEN_FRAMES = 3
_PIXEL_STEP = 8
# Of the depth: how far a surface point may be from what a depth map's pixel shows and still be the same.
_SAME_DEPTH = 0.03


@dataclass(frozen=True)
class TruthFigures:
    """How good a reconstruction is.

    Attributes:
        registered_share: frames with a pose, of all that are not black, 0..1.
        ate_share: absolute trajectory error after the Sim(3) of the camera centres, of the path's length.
        rpe_share: root mean square error of the steps between neighbouring frames, of their mean length.
        rotation_deg: median angle between orientations after the alignment of the poses.
        surface_mm: median distance of the points to the true surface after the alignment of the poses; NaN, as the next
            and `spacing_mm`, if no frame sees a point.
        depth_mm: median distance of the points from the cameras that see them, the scene's depth.
        completeness: share of the surface seen by 3 frames or more that has a point within `COMPLETE_SHARE` of the
            depth, 0..1; None where the phantom has no depth maps, or no frame sees a point.
        spacing_mm: median distance of a point to its nearest neighbour.
        focal_share: the focal length over the lens's; it tells nothing of a fisheye lens, because undistorted frames
            have another.
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
        """The distance to the surface as a share of the scene's depth."""
        return self.surface_mm / self.depth_mm


def evaluate(data: TrainingData, truth: SurfaceTruth) -> TruthFigures:
    """Compare a reconstruction with the phantom that its video shows; frames are known by their index.

    Raises:
        LumenError: if fewer than 3 frames are registered, or it is of another video.
    """
    last = int(data.frame_index.max(initial=0))
    require(
        last < len(truth.cam_from_world),
        f"frame {last} is reconstructed, the phantom has {len(truth.cam_from_world)}: give the phantom of this video",
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
    """The figures of `TruthFigures` that need points."""
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


def _transformed(similarity: pycolmap.Sim3d, points: Floats) -> Floats:
    return np.asarray(similarity.scale * points @ similarity.rotation.matrix().T + similarity.translation)


def _cloud(points: Floats) -> o3d.geometry.PointCloud:
    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))


def _completeness(points_mm: Floats, truth: SurfaceTruth, tolerance_mm: float) -> float | None:
    """The share of the surface that has a point near to it, of all that enough frames see.

    The surface is sampled through the pixels of some frames, and evenly: one sample in each cube of the tolerance.
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
