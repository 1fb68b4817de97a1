"""Ground truth of a phantom: trajectory, surface and depth maps."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pycolmap

from pipeline.arrays import Bools, Float32s, Float64s
from pipeline.data.images import read_pixels
from pipeline.data.phantom_files import DEPTH_UNIT_MM, PhantomPaths, read_facts
from pipeline.errors import LumenError, explain_os_errors


@dataclass(frozen=True)
class SurfaceTruth:
    """Ground-truth trajectory and surface of a phantom, mm.

    Attributes:
        paths: files of the phantom.
        camera: camera of the video as recorded.
        cam_from_world: (N, 3, 4) poses of all frames of the video.
        shows: (N,) bool, frames that are not black.
        scene: the surface mesh.
    """

    paths: PhantomPaths
    camera: pycolmap.Camera
    cam_from_world: Float64s
    shows: Bools
    scene: o3d.t.geometry.RaycastingScene

    @classmethod
    def load(cls, root: Path) -> "SurfaceTruth":
        """Read a phantom's folder.

        Raises:
            LumenError: if `root` holds no phantom, or its format version is not supported.
        """
        paths = PhantomPaths(root)
        if not paths.truth.exists():
            raise LumenError(
                f"{root} is not a phantom folder: {paths.truth.name} is missing; data_prep/phantom.py renders one"
            )
        facts = read_facts(paths)
        with explain_os_errors("read", paths.poses):
            poses = np.load(paths.poses)
        mesh = o3d.t.io.read_triangle_mesh(paths.mesh) if paths.mesh.is_file() else None
        if mesh is None or "positions" not in mesh.vertex:
            raise LumenError(f"{paths.mesh} contains no mesh: render the phantom again")
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(mesh)
        shows = np.array([not frame["is_black"] for frame in facts["frames"]])
        return cls(paths, pycolmap.Camera(**facts["camera"], camera_id=1), poses, shows, scene)

    def distance(self, points_mm: Float64s) -> Float64s:
        """Distance from points (N, 3) to the surface: (N,) float64, mm."""
        query = o3d.core.Tensor.from_numpy(np.ascontiguousarray(points_mm, np.float32))
        return np.asarray(self.scene.compute_distance(query).numpy(), np.float64)

    def depth(self, frame: int) -> Float32s | None:
        """(H, W) float32 depth along the optical axis, mm, 0 where unknown; None if there is no depth map."""
        path = self.paths.depth(frame)
        stored = read_pixels(path, cv2.IMREAD_UNCHANGED)
        return None if stored is None else (stored * np.float32(DEPTH_UNIT_MM)).astype(np.float32)

    def surface_points(self, frame: int, step: int) -> Float64s:
        """Back-project every `step`-th pixel of a depth map: (N, 3) mm; N = 0 if there is no depth map."""
        depth = self.depth(frame)
        if depth is None:
            return np.zeros((0, 3))
        rows, columns = np.mgrid[step // 2 : depth.shape[0] : step, step // 2 : depth.shape[1] : step].reshape(2, -1)
        known = depth[rows, columns] > 0
        rows, columns = rows[known], columns[known]
        rays = np.asarray(self.camera.cam_ray_from_img(np.column_stack([columns, rows]) + 0.5))
        in_camera = rays / rays[:, 2:] * depth[rows, columns, None]
        pose = self.cam_from_world[frame]
        return np.asarray((in_camera - pose[:, 3]) @ pose[:, :3])

    def sees(self, frame: int, points_mm: Float64s, tolerance: float) -> Bools:
        """Which points (N, 3) a frame sees.

        Args:
            frame: index of the frame.
            points_mm: (N, 3).
            tolerance: largest difference from the depth map, as a share of the depth.

        Returns:
            (N,) bool; all False if the frame has no depth map.
        """
        depth = self.depth(frame)
        seen = np.zeros(len(points_mm), bool)
        if depth is None:
            return seen
        pose = self.cam_from_world[frame]
        in_camera = points_mm @ pose[:, :3].T + pose[:, 3]
        ahead = np.flatnonzero(in_camera[:, 2] > 0)
        pixels = np.floor(np.asarray(self.camera.img_from_cam(np.ascontiguousarray(in_camera[ahead]))))
        inside = np.isfinite(pixels).all(axis=1) & (pixels >= 0).all(axis=1) & (pixels < depth.shape[::-1]).all(axis=1)
        ahead, index = ahead[inside], pixels[inside].astype(np.int64)
        shown = depth[index[:, 1], index[:, 0]]
        seen[ahead] = (shown > 0) & (np.abs(in_camera[ahead, 2] - shown) <= tolerance * shown)
        return seen
