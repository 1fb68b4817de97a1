"""Densification of a video with known poses: each next reference frame is the one with the lowest coverage."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Float64s
from pipeline.data.array_files import read_arrays, write_arrays
from pipeline.data.tracks import Tracks
from pipeline.finder import Finder
from pipeline.progress import ProgressBar
from sfm.dense_points import DenseLimits, Lattice, densify_from, joined

# A frame is skipped as a reference if a smaller share of its cells is free.
_LEAST_FREE_SHARE = 0.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceRules:
    """When to stop adding reference frames.

    Attributes:
        most: largest number of reference frames.
        coverage: stop when this share of the cells of every frame is covered, 0..1.
    """

    most: int
    coverage: float


def densify(
    find: Finder,
    lattice: Lattice,
    camera: pycolmap.Camera,
    cam_from_world: Float64s,
    limits: DenseLimits,
    rules: ReferenceRules,
    usable: Callable[[int], Bools | None],
    folder: Path,
) -> tuple[Tracks, Float64s]:
    """Reconstruct the dense points of the whole video.

    Args:
        find: finds pixels of a frame in other frames.
        lattice: cells of the video; the cells of the observations are marked as taken.
        camera: camera of all frames.
        cam_from_world: (F, 3, 4), NaN for frames without a pose.
        limits: acceptance limits of points.
        rules: when to stop adding reference frames.
        usable: frame row → (H, W) bool, usable pixels of that frame; None if it cannot be read.
        folder: cache of the points of each reference, from which an interrupted run resumes.

    Returns:
        Tracks of T points, with frame rows as in `cam_from_world`, and the points (T, 3).
    """
    open_rows = _spread([int(row) for row in np.flatnonzero(np.isfinite(cam_from_world[:, 0, 0]))])
    parts: list[tuple[Tracks, Float64s]] = []
    with ProgressBar("densifying", total=min(rules.most, len(open_rows)), unit="reference") as bar:
        while open_rows and len(parts) < rules.most:
            covered = lattice.coverage()[open_rows]
            if covered.min() >= rules.coverage:
                break
            reference = open_rows.pop(int(np.argmin(covered)))
            mask = usable(reference)
            if mask is None:
                continue
            if len(lattice.free(reference, mask)) < _LEAST_FREE_SHARE * lattice.usable_cells:
                # Nearly all cells are masked in this frame, or taken.
                continue
            parts.append(_part(reference, find, lattice, camera, cam_from_world, limits, mask, folder))
            bar.update()
    frame_index = np.arange(len(cam_from_world))
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Tracks(frame_index, nothing, nothing, np.zeros((0, 2), np.float32)), np.zeros((0, 3))
    return joined(parts, frame_index)


def _part(
    reference: int,
    find: Finder,
    lattice: Lattice,
    camera: pycolmap.Camera,
    cam_from_world: Float64s,
    limits: DenseLimits,
    usable: Bools,
    folder: Path,
) -> tuple[Tracks, Float64s]:
    """The points of a reference frame, from the cache of an earlier run if it holds them."""
    path = folder / f"{reference:06d}.npz"
    part = _load(path, len(cam_from_world))
    if part is not None:
        lattice.take(part[0].frame, part[0].pixels)
        return part
    tracks, points = densify_from(reference, find, lattice, camera, cam_from_world, limits, usable)
    logger.debug("reference %d: %d points, %d observations", reference, len(points), len(tracks.frame))
    frame, track = tracks.frame.astype(np.int32), tracks.track.astype(np.int32)
    write_arrays(path, {"frame": frame, "track": track, "pixels": tracks.pixels, "points": points})
    return tracks, points


def _load(path: Path, frames: int) -> tuple[Tracks, Float64s] | None:
    arrays = read_arrays(path, ("frame", "track", "pixels", "points"))
    if arrays is None:
        return None
    frame, track, points = arrays["frame"].astype(np.int64), arrays["track"].astype(np.int64), arrays["points"]
    return Tracks(np.arange(frames), frame, track, arrays["pixels"], len(points)), points


def _spread(rows: list[int]) -> list[int]:
    """Reorder rows so that any first few are spread evenly: the middle, the first, then the quarters, ..."""
    bits = max(1, (len(rows) - 1).bit_length())
    order = sorted(range(2**bits), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))
    middle = 2 ** (bits - 1)
    return [rows[(place + middle) % 2**bits] for place in order if (place + middle) % 2**bits < len(rows)]
