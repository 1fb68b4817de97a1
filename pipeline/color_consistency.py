"""How much the colour of a point changes from view to view: the measure by which DDL prunes a sparse cloud."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Levels added to a point's brightness, so that noise in the dark does not count as a change.
_DARKNESS = 10.0


def color_inconsistency(point: npt.NDArray[np.int64], colors: Floats, point_count: int) -> Floats:
    """The deviation of a point's colours from their mean, as a share of its brightness.

    The light moves with the camera, so a point brightens and darkens by a factor; a point that is not where it seems
    to be sees another tissue, a highlight or an edge.

    Args:
        point: (O,) the point of each observation.
        colors: (O, 3) 0..255; NaN where unknown.
        point_count: P.

    Returns:
        (P,) root of the mean square over views and channels; NaN for points with no known colour.
    """
    known = np.isfinite(colors).all(axis=1)
    point, colors = point[known], colors[known]
    mean = mean_colors(point, colors, point_count)
    squared = ((colors - mean[point]) ** 2).mean(axis=1)
    count = np.bincount(point, minlength=point_count)
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(np.bincount(point, squared, point_count) / count)
    result: Floats = deviation / (mean.mean(axis=1) + _DARKNESS)
    return result


def mean_colors(point: npt.NDArray[np.int64], colors: Floats, point_count: int) -> Floats:
    """(P, 3) mean of the known colours of each point's observations; NaN where there is none."""
    known = np.isfinite(colors).all(axis=1)
    point, colors = point[known], colors[known]
    count = np.bincount(point, minlength=point_count)
    with np.errstate(invalid="ignore"):
        return np.stack([np.bincount(point, channel, point_count) / count for channel in colors.T], axis=1)
