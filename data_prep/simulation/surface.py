"""Surfaces as grids of points swept along a curve, and the mesh of several surfaces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Float32s, Float64s


@dataclass(frozen=True)
class Surface:
    """A tube: rows along it, columns around it; the last column repeats the first.

    Attributes:
        points_mm: (rows, columns, 3) float32.
        normals: (rows, columns, 3) float32, unit length, towards the camera's side.
    """

    points_mm: Float32s
    normals: Float32s


@dataclass(frozen=True)
class Mesh:
    """The triangles of all surfaces.

    Attributes:
        vertices_mm: (V, 3) float32.
        triangles: (T, 3) uint32, vertex indices.
    """

    vertices_mm: Float32s
    triangles: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Curve:
    """A curve in space with a rotation-minimising frame.

    Attributes:
        points_mm: (N, 3) float64, evenly spaced by arc length.
        tangents, rights, ups: (N, 3) float64, orthonormal at each point.
        arc_mm: (N,) float64, arc length from the start.
    """

    points_mm: Float64s
    tangents: Float64s
    rights: Float64s
    ups: Float64s
    arc_mm: Float64s

    @property
    def length_mm(self) -> float:
        return float(self.arc_mm[-1])

    def at(self, values: Float64s, arc_mm: Float64s) -> Float64s:
        """Interpolate an attribute (N, 3) or (N,) at arc lengths (M,), mm."""
        if values.ndim == 1:
            return np.interp(arc_mm, self.arc_mm, values)
        return np.stack([np.interp(arc_mm, self.arc_mm, column) for column in values.T], axis=-1)


def curve_through(points_mm: Float64s, step_mm: float, up: Sequence[float] = (0.0, 1.0, 0.0)) -> Curve:
    """Resample a dense polyline (N, 3) evenly by arc length, with `up` parallel-transported along it."""
    lengths = np.linalg.norm(np.diff(points_mm, axis=0), axis=1)
    arc = np.concatenate([[0.0], np.cumsum(lengths)])
    even = np.linspace(0, arc[-1], max(int(round(arc[-1] / step_mm)) + 1, 3))
    points = np.stack([np.interp(even, arc, column) for column in points_mm.T], axis=-1)
    tangents = unit(np.gradient(points, axis=0))
    ups = np.empty_like(points)
    current = np.asarray(up, dtype=np.float64)
    for index, tangent in enumerate(tangents):
        current = unit(current - tangent * (current @ tangent))
        ups[index] = current
    return Curve(points, tangents, np.cross(ups, tangents), ups, even)


def sweep(curve: Curve, right_mm: Float64s, up_mm: Float64s) -> Float64s:
    """Sweep cross-sections along a curve: offsets (rows, columns) to its right and up → points (rows, columns, 3)."""
    return (
        curve.points_mm[:, None] + right_mm[..., None] * curve.rights[:, None] + up_mm[..., None] * curve.ups[:, None]
    )


def make_surface(points_mm: Float64s, centres_mm: Float64s, *, seen_from: str) -> Surface:
    """Compute the normals of a grid (rows, columns, 3).

    Args:
        points_mm: the grid; its last column repeats the first.
        centres_mm: (rows, 3), the swept curve, which distinguishes inside from outside.
        seen_from: "inside" or "outside", the camera's side.
    """
    wrapped = np.concatenate([points_mm[:, -2:-1], points_mm, points_mm[:, 1:2]], axis=1)
    around = (wrapped[:, 2:] - wrapped[:, :-2]) / 2
    along = np.gradient(points_mm, axis=0)
    normals = unit(np.cross(around, along))
    outward = np.mean(np.sum(normals * (points_mm - centres_mm[:, None]), axis=-1))
    if (outward > 0) != (seen_from == "outside"):
        normals = -normals
    for tip, neighbour in ((0, 1), (-1, -2)):
        # A closed end is a single point, where differences around the tube are zero and give no normal.
        if np.ptp(points_mm[tip], axis=0).max() < 1e-9:
            normals[tip] = unit(normals[neighbour].mean(axis=0))
    return Surface(points_mm.astype(np.float32), normals.astype(np.float32))


def join(surfaces: Sequence[Surface]) -> Mesh:
    """Make two triangles per grid cell, surface by surface, row by row (see `cell_corners` for their order)."""
    vertices = []
    triangles = []
    first = 0
    for surface in surfaces:
        rows, columns = surface.points_mm.shape[:2]
        index = first + np.arange(rows * columns).reshape(rows, columns)
        triangles.append(cell_corners(index))
        vertices.append(surface.points_mm.reshape(-1, 3))
        first += rows * columns
    return Mesh(np.concatenate(vertices), np.concatenate(triangles).astype(np.uint32))


def cell_corners(grid: npt.NDArray) -> npt.NDArray:
    """Grid values (rows, columns, ...) at the triangle corners: (2 x cells, 3, ...)."""
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    both = np.stack([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)], axis=2)
    return both.reshape(-1, 3, *grid.shape[2:])


def unit(vectors: npt.NDArray) -> npt.NDArray:
    """Vectors (..., 3) normalised to unit length; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def smooth(values: Float64s, window: int) -> Float64s:
    """Average (N,) or (N, D) over `window` samples twice, along the first axis, with constant padding."""
    flat = values.reshape(len(values), -1)
    kernel = np.convolve(np.ones(window), np.ones(window)) / window**2
    padded = np.pad(flat, ((window - 1, window - 1), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=-1).reshape(values.shape)
