"""Detect frames without tissue from their colour and from the continuity of the view at colour changes.

Colour alone does not distinguish a room from cartilage or from tissue in narrow-band light. The continuity of
the view decides: if the colour changes while the view continues, the light or the tissue has changed, and the camera
is still inside the body.
"""

import numpy as np

from pipeline.arrays import Bools, Float64s, Ints

# Distance in log2(R/G), log2(B/G).
FOREIGN_COLOUR_LOG2 = 0.6
_REDDISH_LOG2 = 0.2
_MIN_REDDISH = 0.1
# The threshold grows with the colour variation of the video.
_COLOUR_SPREADS = 4.0
# Share of the colour changes at which the view must continue.
_STEADY_CHANGES = 0.5


def find_out_of_body(colour: Float64s, seen: Bools, steady: Bools) -> Bools:
    """Find the frames that were filmed outside the body.

    Args:
        colour: (N, 2) log2(R/G), log2(B/G) of each frame.
        seen: (N,) frames with a usable image: not dark, white, damaged or a flash.
        steady: (N,) frames that show the same view as the previous seen frame.

    Returns:
        (N,) True for out-of-body frames; a subset of `seen`.
    """
    found = np.zeros(len(colour), bool)
    rows = np.flatnonzero(seen)
    foreign = _far_from_tissue(colour[rows])
    if not foreign.any():
        return found
    run, colours, changes, steady_changes = _foreign_runs(colour[rows], foreign, steady[rows])
    # Runs of similar colour are judged together, because a long run may be split.
    alike = np.linalg.norm(colours[:, None] - colours, axis=2) < FOREIGN_COLOUR_LOG2
    is_tissue = (alike @ steady_changes > 0) & (alike @ steady_changes >= _STEADY_CHANGES * (alike @ changes))
    found[rows[foreign]] = ~is_tissue[run]
    return found


def _far_from_tissue(colour: Float64s) -> Bools:
    """(N,): frames whose colour is far from the video's tissue."""
    # The reddish frames are tissue even if much of the video is outside the body.
    reddish = colour[:, 0] > _REDDISH_LOG2
    tissue = reddish if reddish.sum() >= _MIN_REDDISH * len(colour) else np.ones(len(colour), bool)
    if not len(colour):
        return tissue
    distance = np.linalg.norm(colour - np.median(colour[tissue], axis=0), axis=1)
    return distance > max(FOREIGN_COLOUR_LOG2, _COLOUR_SPREADS * float(np.median(distance[tissue])))


def _foreign_runs(colour: Float64s, foreign: Bools, steady: Bools) -> tuple[Ints, Float64s, Ints, Ints]:
    """Runs of foreign-coloured frames with a continuous view.

    Returns:
        The run of each foreign frame, and for each of the R runs: median colour (R, 2), number of transitions to and
        from tissue, 0 to 2, and number of these that keep the view.
    """
    is_step = foreign[1:] != foreign[:-1]
    begins = np.concatenate([[True], is_step | ~steady[1:]])
    run = np.unique(np.cumsum(begins)[foreign], return_inverse=True)[1].ravel()
    place = np.full(len(foreign), -1)
    place[foreign] = run
    runs = np.arange(int(run.max()) + 1)
    colours = np.array([np.median(colour[place == number], axis=0) for number in runs])
    neighbours = np.maximum(place[1:], place[:-1])
    changes = np.bincount(neighbours[is_step], minlength=len(runs))
    steady_changes = np.bincount(neighbours[is_step & steady[1:]], minlength=len(runs))
    return run, colours, changes, steady_changes
