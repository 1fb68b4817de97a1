"""A reconstruction of a phantom against its truth."""

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.truth import PhantomTruth
from pipeline.training_data import TrainingData
from sfm.alignment import align_poses, compare_paths
from sfm.triangulation import camera_centers


@dataclass(frozen=True)
class PhantomFigures:
    """How good a reconstruction is.

    Attributes:
        registered_share: frames with a pose, of all that are not black, 0..1.
        ate_share: absolute trajectory error after the Sim(3) of the camera centres, of the path's length.
        rotation_deg: median angle between orientations after the alignment of the poses.
        surface_mm: median distance of the points to the true surface after the alignment of the poses.
        depth_mm: median distance of the points from the cameras that see them, the scene's depth.
        focal_share: the focal length over the lens's; it tells nothing of a fisheye lens, because undistorted frames
            have another.
    """

    registered_share: float
    ate_share: float
    rotation_deg: float
    surface_mm: float
    depth_mm: float
    focal_share: float

    @property
    def surface_share(self) -> float:
        """The distance to the surface as a share of the scene's depth."""
        return self.surface_mm / self.depth_mm


def evaluate(data: TrainingData, truth: PhantomTruth) -> PhantomFigures:
    """Compare a reconstruction with the phantom that its video shows; frames are known by their index.

    Raises:
        LumenError: if fewer than 3 frames are registered.
    """
    reference = np.array(truth.cam_from_world)[data.frame_index]
    difference = compare_paths(data.cam_from_world, reference)
    alignment = align_poses(data.cam_from_world, reference)
    points_mm = alignment.scale * data.points @ alignment.rotation.matrix().T + alignment.translation
    centers = camera_centers(data.cam_from_world)[data.observation_view]
    distance = np.linalg.norm(data.points[data.observation_point] - centers, axis=1)
    cosine = (np.trace(_between(data, reference, alignment.rotation.matrix()), axis1=1, axis2=2) - 1) / 2
    return PhantomFigures(
        registered_share=len(data.frame_index) / sum(not frame.is_black for frame in truth.frames),
        ate_share=difference.ate / difference.path_length,
        rotation_deg=float(np.rad2deg(np.median(np.arccos(np.clip(cosine, -1, 1))))),
        surface_mm=float(np.median(truth.distance_to_surface(points_mm))),
        depth_mm=float(alignment.scale * np.median(distance)),
        focal_share=float(data.pinhole[0, :2].mean() / truth.camera.mean_focal_length()),
    )


def _between(data: TrainingData, reference: np.ndarray, reference_from_world: np.ndarray) -> np.ndarray:
    rotations = data.cam_from_world[:, :, :3] @ reference_from_world.T
    between: np.ndarray = np.einsum("nij,nkj->nik", rotations, reference[:, :, :3])
    return between
