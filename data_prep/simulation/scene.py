"""Ray casting against the anatomy: Open3D's RaycastingScene (Embree) with numpy arrays."""

from dataclasses import dataclass

import numpy as np
import open3d as o3d

from data_prep.simulation.surface import Mesh
from pipeline.arrays import AnyFloats, Bools, Float32s, Float64s, Ints


@dataclass(frozen=True)
class Hits:
    """First intersections of rays with a surface.

    Attributes:
        distance: (N,) float32, in lengths of the ray's direction; infinite for a miss.
        triangle: (N,) int64; 0 for a miss.
        weights: (N, 3) float32, barycentric weights of the triangle's corners.
    """

    distance: Float32s
    triangle: Ints
    weights: Float32s


class SurfaceScene:
    """All surfaces of an anatomy, for ray casting and distance queries."""

    def __init__(self, mesh: Mesh) -> None:
        self._scene = o3d.t.geometry.RaycastingScene()
        vertices, triangles = (o3d.core.Tensor.from_numpy(array) for array in (mesh.vertices_mm, mesh.triangles))
        self._scene.add_triangles(vertices, triangles)
        self._corners = mesh.vertices_mm[mesh.triangles.astype(np.int64)]

    def cast(self, origin_mm: Float64s, directions: AnyFloats) -> Hits:
        """Cast rays from one point (3,) along directions (N, 3)."""
        answer = self._scene.cast_rays(_rays(origin_mm, directions))
        triangle = answer["primitive_ids"].numpy().astype(np.int64)
        distance = answer["t_hit"].numpy()
        triangle[~np.isfinite(distance)] = 0
        uv = answer["primitive_uvs"].numpy()
        return Hits(distance, triangle, np.concatenate([1 - uv.sum(axis=1, keepdims=True), uv], axis=1))

    def cast_exactly(self, origin_mm: Float64s, directions: Float64s) -> Float64s:
        """Distance along each ray to the triangle it hits, in float64: (N,), infinite for a miss."""
        hits = self.cast(origin_mm, directions)
        corners = self._corners[hits.triangle].astype(np.float64)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        towards = np.sum(normals * directions, axis=-1)
        exact = np.sum(normals * (corners[:, 0] - origin_mm), axis=-1) / np.where(towards == 0, np.inf, towards)
        usable = np.isfinite(hits.distance) & (np.abs(exact - hits.distance) < 1e-3 * np.abs(hits.distance))
        return np.where(usable, exact, hits.distance.astype(np.float64))

    def is_lit(self, points_mm: Float32s, light_mm: Float64s) -> Bools:
        """Whether the segment between each point (N, 3) and a light (3,) is unobstructed."""
        rays = _rays(light_mm, points_mm - light_mm.astype(np.float32))
        return ~self._scene.test_occlusions(rays, tnear=0.0, tfar=0.97).numpy()

    def closest_points(self, points_mm: Float64s) -> Float64s:
        """The nearest surface point (N, 3) to each point (N, 3), mm."""
        query = o3d.core.Tensor.from_numpy(np.ascontiguousarray(points_mm, dtype=np.float32))
        return self._scene.compute_closest_points(query)["points"].numpy().astype(np.float64)

    def distance_mm(self, points_mm: Float64s) -> Float64s:
        """Unsigned distance of points (N, 3) to the nearest surface: (N,), mm."""
        return np.linalg.norm(points_mm - self.closest_points(points_mm), axis=-1)


def _rays(origin_mm: Float64s, directions: AnyFloats) -> o3d.core.Tensor:
    rays = np.empty((len(directions), 6), dtype=np.float32)
    rays[:, :3] = origin_mm
    rays[:, 3:] = directions
    return o3d.core.Tensor.from_numpy(rays)
