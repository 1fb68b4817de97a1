"""Which frames show something other than tissue, judged by colour and by how the view came to have that colour.

Colour alone does not tell a room from cartilage or from tissue in narrow-band light. Tissue is what the camera sees
without losing the view: where the colour changes while the view stays, the light or the tissue has changed, and the
camera is still inside.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

# Distance in log2(R/G), log2(B/G).
FOREIGN_COLOUR_LOG2 = 0.6
_REDDISH_LOG2 = 0.2
_LEAST_REDDISH = 0.1
# A video whose own colour varies widely gets more room.
_COLOUR_SPREADS = 4.0
# Share of the changes between two colours at which the view has to stay.
_STEADY_CHANGES = 0.5


def find_out_of_body(colour: Floats, seen: Booleans, steady: Booleans) -> Booleans:
    """Find the frames that were filmed outside of the body.

    Args:
        colour: (N, 2) log2(R/G), log2(B/G) of each frame.
        seen: (N,) frames that show anything: neither dark, white, damaged nor a flash.
        steady: (N,) frames that show the same view as the one seen before.

    Returns:
        (N,) True for frames out of body; only frames that are `seen`.
    """
    found = np.zeros(len(colour), bool)
    rows = np.flatnonzero(seen)
    foreign = _far_from_tissue(colour[rows])
    if not foreign.any():
        return found
    run, colours, changes, steady_changes = _foreign_runs(colour[rows], foreign, steady[rows])
    # Runs of one colour are judged together: a long one may have been cut in the middle.
    alike = np.linalg.norm(colours[:, None] - colours, axis=2) < FOREIGN_COLOUR_LOG2
    is_tissue = (alike @ steady_changes > 0) & (alike @ steady_changes >= _STEADY_CHANGES * (alike @ changes))
    found[rows[foreign]] = ~is_tissue[run]
    return found


def _far_from_tissue(colour: Floats) -> Booleans:
    """(N,): frames whose colour is not that of the video's tissue."""
    # Where much of the video lies outside the body, the reddish part still is the tissue.
    reddish = colour[:, 0] > _REDDISH_LOG2
    tissue = reddish if reddish.sum() >= _LEAST_REDDISH * len(colour) else np.ones(len(colour), bool)
    if not len(colour):
        return tissue
    distance = np.linalg.norm(colour - np.median(colour[tissue], axis=0), axis=1)
    return distance > max(FOREIGN_COLOUR_LOG2, _COLOUR_SPREADS * float(np.median(distance[tissue])))


def _foreign_runs(colour: Floats, foreign: Booleans, steady: Booleans) -> tuple[Integers, Floats, Integers, Integers]:
    """Runs of foreign frames in which the view stays the same.

    Returns:
        The run of each foreign frame, and of each of the R runs: its median colour (R, 2), and in how many of the
        steps to and from tissue it has, 0 to 2, and how many of these leave the view the same.
    """
    is_step = foreign[1:] != foreign[:-1]
    begins = np.concatenate([[True], is_step | ~steady[1:]])
    run = np.unique(np.cumsum(begins)[foreign], return_inverse=True)[1].ravel()
    place = np.full(len(foreign), -1)
    place[foreign] = run
    runs = np.arange(int(run.max()) + 1)
    colours = np.array([np.median(colour[place == number], axis=0) for number in runs])
    beside = np.maximum(place[1:], place[:-1])
    changes = np.bincount(beside[is_step], minlength=len(runs))
    steady_changes = np.bincount(beside[is_step & steady[1:]], minlength=len(runs))
    return run, colours, changes, steady_changes
