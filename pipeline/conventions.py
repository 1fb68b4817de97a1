"""Pixel conventions and the named functions that convert between them (docs/conventions.md).

Everything stored, exported or passed between packages is in COLMAP's convention: the centre of the first pixel is
(0.5, 0.5). OpenCV puts it at (0, 0). A lattice index is the integer (column, row) of the pixel a point falls in.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def opencv_from_colmap(points_px: FloatArray) -> FloatArray:
    """COLMAP pixel coordinates (..., 2) → OpenCV's, where the centre of the first pixel is (0, 0)."""
    return points_px - 0.5


def colmap_from_opencv(points_px: FloatArray) -> FloatArray:
    """OpenCV pixel coordinates (..., 2) → COLMAP's, where the centre of the first pixel is (0.5, 0.5)."""
    return points_px + 0.5


def index_from_colmap(points_px: FloatArray) -> npt.NDArray[np.int64]:
    """COLMAP pixel coordinates (..., 2) → the integer (column, row) of the pixel that holds the point."""
    return np.floor(points_px).astype(np.int64)


def colmap_from_index(pixel_index: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Integer pixel indices (..., 2) as (column, row) → COLMAP coordinates of the pixels' centres."""
    return pixel_index.astype(np.float64) + 0.5
