"""Telling a camera that only turns from one that moves, before its focal length is known.

Without parallax there are no points, but a self-calibration does not see it: with a wrong focal length it explains a
panorama by depth that is not there. So the other explanation is tried first, by itself: that some camera in one place
turns between two keyframes, which moves all rays by one rotation (Hartley, Self-calibration from multiple views with a
rotating camera, ECCV 1994).
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.tracks import Integers, Tracks
from sfm.triangulation import bearing_vectors

Floats = npt.NDArray[np.float64]

# Keyframes between the two of a pair: far enough for parallax to show.
_APART = 3
_MIN_SHARED = 30
_TRIMMING_ROUNDS = 5


def turning_share(
    tracks: Tracks, keyframes: Integers, cameras: Iterable[pycolmap.Camera], max_error_px: float
) -> float:
    """Say how much of what keyframes share is explained by rotations alone, with the camera that suits them best.

    Phantoms and the tubes of the tests give 0.1 and less; a camera that only turns 0.7 and more.

    Args:
        tracks: in pixels of the frames as recorded.
        keyframes: (K,) rows of `tracks.frame_index`.
        cameras: the cameras to try.
        max_error_px: largest distance from where the rotation takes a point.

    Returns:
        The median share of a pair's points over the pairs, 0..1; 0 if no pair shares enough points.
    """
    pairs = list(_pairs(tracks, keyframes))
    if not pairs:
        return 0.0
    return max(_explained(pairs, camera, max_error_px) for camera in cameras)


def _pairs(tracks: Tracks, keyframes: Integers) -> Iterator[tuple[npt.NDArray, npt.NDArray]]:
    """Where keyframes see the points that they share: (N, 2) and (N, 2) px."""
    for first, second in zip(keyframes[:-_APART].tolist(), keyframes[_APART:].tolist(), strict=True):
        a, b = tracks.in_frame(first), tracks.in_frame(second)
        common, in_a, in_b = np.intersect1d(tracks.track[a], tracks.track[b], assume_unique=True, return_indices=True)
        if len(common) >= _MIN_SHARED:
            yield tracks.pixels[a][in_a], tracks.pixels[b][in_b]


def _explained(pairs: list[tuple[npt.NDArray, npt.NDArray]], camera: pycolmap.Camera, max_error_px: float) -> float:
    shares = []
    for pixels_a, pixels_b in pairs:
        rays_a, rays_b = bearing_vectors(camera, pixels_a), bearing_vectors(camera, pixels_b)
        seen = np.isfinite(np.column_stack([rays_a, rays_b])).all(axis=1)
        error_px = np.full(len(pixels_a), np.inf)
        error_px[seen] = _rotation_error_px(rays_a[seen], rays_b[seen], pixels_b[seen], camera)
        shares.append(float((error_px < max_error_px).mean()))
    return float(np.median(shares))


def _rotation_error_px(rays_a: Floats, rays_b: Floats, pixels_b: npt.NDArray, camera: pycolmap.Camera) -> Floats:
    """Distances (N,) from where the rotation that suits most rays (N, 3) takes them; infinite behind the camera."""
    kept = np.ones(len(rays_a), np.bool_)
    for _ in range(_TRIMMING_ROUNDS):
        b_from_a = _rotation(rays_a[kept], rays_b[kept])
        moved = rays_a @ b_from_a.T
        gap = np.linalg.norm(moved - rays_b, axis=1)
        kept = gap <= max(2 * float(np.median(gap)), 1e-9)
    found = np.asarray(camera.img_from_cam(np.ascontiguousarray(moved)), np.float64)
    error_px: Floats = np.linalg.norm(found - pixels_b, axis=1)
    return np.where(np.isfinite(error_px), error_px, np.inf)


def _rotation(rays_a: Floats, rays_b: Floats) -> Floats:
    """The rotation that brings rays onto others with the least squares (Kabsch 1976)."""
    left, _, right = np.linalg.svd(rays_b.T @ rays_a)
    flip = np.sign(np.linalg.det(left @ right))
    rotation: Floats = left @ np.diag([1.0, 1.0, flip]) @ right
    return rotation
