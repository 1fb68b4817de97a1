"""Colour variation of each point across its views. DDL prunes sparse clouds by this measure."""

import numpy as np

from pipeline.arrays import Float64s, Ints

# Grey levels added to a point's brightness, so that noise in dark areas does not count as variation.
_DARKNESS = 10.0


def color_inconsistency(point: Ints, colors: Float64s, point_count: int) -> Float64s:
    """Deviation of each point's colours from their mean, relative to its brightness.

    The light moves with the camera, so the brightness of a point changes by a factor. A wrong point shows other
    tissue, a highlight or an edge in some of its views.

    Args:
        point: (O,) the point of each observation.
        colors: (O, 3) 0..255; NaN where unknown.
        point_count: P.

    Returns:
        (P,) root mean square over views and channels; NaN for points without a known colour.
    """
    known = np.isfinite(colors).all(axis=1)
    point, colors = point[known], colors[known]
    mean = mean_colors(point, colors, point_count)
    squared = ((colors - mean[point]) ** 2).mean(axis=1)
    count = np.bincount(point, minlength=point_count)
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(np.bincount(point, squared, point_count) / count)
    result: Float64s = deviation / (mean.mean(axis=1) + _DARKNESS)
    return result


def mean_colors(point: Ints, colors: Float64s, point_count: int) -> Float64s:
    """(P, 3) mean of the known colours of each point's observations; NaN for points without one."""
    known = np.isfinite(colors).all(axis=1)
    point, colors = point[known], colors[known]
    count = np.bincount(point, minlength=point_count)
    with np.errstate(invalid="ignore"):
        return np.stack([np.bincount(point, channel, point_count) / count for channel in colors.T], axis=1)
