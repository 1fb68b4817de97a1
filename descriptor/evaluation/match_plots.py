"""Plot of matches: two frames side by side, with points of the first and their matches in the second."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.collections import LineCollection

from descriptor.evaluation.pck import Distances, Errors, PairSample
from pipeline.arrays import Float64s
from pipeline.outputs.files import atomic_write

_POINTS = 60
# Colours of errors up to each limit; the last colour is for larger errors.
_LIMITS_PX = (5.0, 20.0)
_COLORS = ("#35d04f", "#ffd23f", "#ff3b30")
_PANEL_WIDTH_IN = 5.0


def draw_matches(
    pairs: Mapping[Distances, Sequence[PairSample]],
    results: Mapping[str, Errors],
    pixel_downsampling: float,
    path: Path,
) -> None:
    """Plot one pair of frames per distance (rows) and method (columns).

    Dots are points and their matches; a line leads from each match to the reference.

    Args:
        pairs: the matched pairs.
        results: method name → its matches and errors.
        pixel_downsampling: errors are in pixels of a frame this many times smaller than recorded.
        path: path of the plot.
    """
    shown = {distances: len(own) // 2 for distances, own in pairs.items() if own}
    height, width = next(iter(pairs[next(iter(shown))])).clip.mask.shape
    size = (_PANEL_WIDTH_IN * len(results), _PANEL_WIDTH_IN * height / (2 * width) * len(shown) + 0.6)
    figure, panels = pyplot.subplots(len(shown), len(results), figsize=size, squeeze=False, layout="constrained")
    for row, (distances, number) in zip(panels, shown.items(), strict=True):
        pair = pairs[distances][number]
        for panel, (name, errors) in zip(row, results.items(), strict=True):
            _draw_pair(panel, pair, errors.found[distances][number], errors.by_distance[distances][number])
            apart = abs(int(np.diff(pair.clip.frame_index[[pair.source, pair.target]])[0]))
            panel.set_title(f"{name}, {apart} frames apart", fontsize=9)
    near, far = _LIMITS_PX
    figure.suptitle(
        f"error up to {near:g} px (green), up to {far:g} px (yellow), larger (red), in px at 1/{pixel_downsampling:g} "
        "size; lines lead to the reference",
        fontsize=9,
    )
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)


def _draw_pair(panel: Any, pair: PairSample, found: Float64s, errors: Float64s) -> None:
    clip = pair.clip
    chosen = np.linspace(0, len(errors) - 1, min(_POINTS, len(errors))).astype(int)
    in_frame = clip.frame.network_from_image
    width = clip.mask.shape[1]
    panel.imshow(
        np.concatenate([clip.images[pair.source], clip.images[pair.target]], axis=1),
        extent=(0, 2 * width, clip.mask.shape[0], 0),
    )
    colors = np.array(_COLORS)[np.digitize(np.nan_to_num(errors[chosen], nan=np.inf), _LIMITS_PX, right=True)]
    source = in_frame(pair.points[chosen])
    target, truth = in_frame(found[chosen]) + (width, 0), in_frame(pair.truth[chosen]) + (width, 0)
    panel.scatter(*source.T, s=6, c=colors, linewidths=0)
    panel.scatter(*target.T, s=6, c=colors, linewidths=0)
    panel.add_collection(LineCollection(list(np.stack([target, truth], axis=1)), colors=colors, linewidths=0.7))
    # Otherwise the points determine the limits.
    panel.set(xlim=(0, 2 * width), ylim=(clip.mask.shape[0], 0), xticks=[], yticks=[])
