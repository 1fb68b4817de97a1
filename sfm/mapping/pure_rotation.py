"""Detection of a purely rotating camera before its focal length is known.

Without parallax there are no points, but self-calibration does not notice: with a wrong focal length it explains a
panorama by spurious depth. So the alternative is tested first: that a camera in one place rotates between two
keyframes, which moves all rays by one rotation (Hartley, Self-calibration from multiple views with a rotating camera,
ECCV 1994).
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.arrays import Bools, Float64s, Ints
from pipeline.data.tracks import Tracks
from sfm.mapping.triangulation import bearing_vectors

# Distance of the two keyframes of a pair, large enough for parallax.
_APART = 3
_MIN_SHARED = 30
# Points per pair that rotations are fitted to; more points change the share by a few percent.
_SAMPLE = 150
_TRIMMING_ROUNDS = 5
# Phantoms and the tubes of the tests have shares of 0.3 and less, mostly 0.1; a rotating camera has 0.6 and more.
_MAX_ROTATION_SHARE = 0.5


def rotation_shares(
    tracks: Tracks, keyframes: Ints, cameras: Iterable[pycolmap.Camera], max_error_px: float
) -> Float64s:
    """Compute the share of the common points of two keyframes that a pure rotation explains.

    Args:
        tracks: tracks in pixels of the frames as recorded.
        keyframes: (K,) rows of `tracks.frame_index`.
        cameras: cameras to try; the one that explains the most pairs is used for all of them.
        max_error_px: largest error of a point that the rotation explains.

    Returns:
        (max(0, K - 3),) share for each pair of keyframes three apart, 0..1; NaN if a pair shares too few points.
    """
    pixels_a, pixels_b, known = _pairs(tracks, keyframes)
    shares = np.full(len(known), np.nan)
    if known.any():
        found = [_explained(pixels_a, pixels_b, camera, max_error_px) for camera in cameras]
        shares[known] = max(found, key=lambda each: ((each > _MAX_ROTATION_SHARE).sum(), each.sum()))
    return shares


def rotation_share(shares: Float64s) -> float:
    """Median of the shares; 0 if no pair shares enough points."""
    known = shares[np.isfinite(shares)]
    return float(np.median(known)) if len(known) else 0.0


def covisible_neighbours(tracks: Tracks, keyframes: Ints) -> Bools:
    """(max(0, K - 1),) bool: whether each keyframe shares enough points with the next one to be mapped with it."""
    pairs = zip(keyframes[:-1].tolist(), keyframes[1:].tolist(), strict=True)
    return np.array([len(_shared(tracks, *pair)[0]) >= _MIN_SHARED for pair in pairs], np.bool_)


def moving_runs(shares: Float64s, sharing: Bools) -> list[range]:
    """Find the runs of keyframes in which the camera translates.

    Args:
        shares: (max(0, K - 3),) result of `rotation_shares`.
        sharing: (K - 1,) result of `covisible_neighbours`.

    Returns:
        Ranges of keyframe positions, the longest first. A run ends if the next keyframe shares too few points, or if
        both keyframes are within a pair that a rotation explains. Every keyframe is in one run; where the camera only
        rotates, runs have one keyframe.
    """
    apart = ~sharing
    for first in np.flatnonzero(np.nan_to_num(shares) > _MAX_ROTATION_SHARE).tolist():
        apart[first : first + _APART] = True
    ends = [0, *(np.flatnonzero(apart) + 1).tolist(), len(sharing) + 1]
    return sorted((range(first, end) for first, end in zip(ends, ends[1:], strict=False)), key=len, reverse=True)


def _shared(tracks: Tracks, first: int, second: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Pixels of the common points of two frames: (N, 2) and (N, 2)."""
    a, b = tracks.in_frame(first), tracks.in_frame(second)
    _, in_a, in_b = np.intersect1d(tracks.track[a], tracks.track[b], assume_unique=True, return_indices=True)
    return tracks.pixels[a][in_a], tracks.pixels[b][in_b]


def _pairs(tracks: Tracks, keyframes: Ints) -> tuple[Float64s, Float64s, Bools]:
    """Pixels of common points of P keyframe pairs, twice (P, `_SAMPLE`, 2), and which of all pairs these are."""
    every = list(zip(keyframes[:-_APART].tolist(), keyframes[_APART:].tolist(), strict=True))
    pixels, known = [], np.zeros(len(every), np.bool_)
    for number, (first, second) in enumerate(every):
        in_first, in_second = _shared(tracks, first, second)
        if len(in_first) >= _MIN_SHARED:
            known[number] = True
            some = np.linspace(0, len(in_first) - 1, _SAMPLE).round().astype(np.int64)
            pixels.append((in_first[some], in_second[some]))
    stacked = np.array(pixels, np.float64).reshape(-1, 2, _SAMPLE, 2)
    return stacked[:, 0], stacked[:, 1], known


def _explained(pixels_a: Float64s, pixels_b: Float64s, camera: pycolmap.Camera, max_error_px: float) -> Float64s:
    """(P,) share of the points (P, N, 2) of each pair that a rotation maps within the error."""
    rays_a, rays_b = (
        bearing_vectors(camera, pixels.reshape(-1, 2)).reshape(*pixels.shape[:2], 3) for pixels in (pixels_a, pixels_b)
    )
    seen: Bools = np.isfinite(np.concatenate([rays_a, rays_b], axis=2)).all(axis=2)
    rays_a, rays_b = np.where(seen[..., None], rays_a, 0), np.where(seen[..., None], rays_b, 0)
    moved = _rotated(rays_a, rays_b, seen)
    found = np.asarray(camera.img_from_cam(np.ascontiguousarray(moved.reshape(-1, 3))), np.float64)
    error_px = np.linalg.norm(found.reshape(pixels_b.shape) - pixels_b, axis=2)
    # Points behind the camera are NaN, and comparisons with NaN are false.
    shares: Float64s = (seen & (error_px < max_error_px)).mean(axis=1)
    return shares


def _rotated(rays_a: Float64s, rays_b: Float64s, seen: Bools) -> Float64s:
    """Rotate rays (P, N, 3) with the rotation of each pair that aligns most of them; trimmed least squares."""
    kept = seen
    for _ in range(_TRIMMING_ROUNDS):
        b_from_a = _rotations(rays_a * kept[..., None], rays_b)
        moved: Float64s = rays_a @ b_from_a.transpose(0, 2, 1)
        gap = np.where(seen, np.linalg.norm(moved - rays_b, axis=2), np.inf)
        kept = seen & (gap <= np.maximum(2 * np.median(gap, axis=1), 1e-9)[:, None])
    return moved


def _rotations(rays_a: Float64s, rays_b: Float64s) -> Float64s:
    """Least-squares rotations (P, 3, 3) that align rays (P, N, 3) with others (Kabsch 1976)."""
    left, _, right = np.linalg.svd(rays_b.transpose(0, 2, 1) @ rays_a)
    flip = np.sign(np.linalg.det(left @ right))
    scale = np.stack([np.ones_like(flip), np.ones_like(flip), flip], axis=1)
    rotations: Float64s = (left * scale[:, None, :]) @ right
    return rotations
