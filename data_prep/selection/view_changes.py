"""Find view changes: where consecutive frames do not show the same view."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.selection.frame_quality import DOUBTFUL_CONTINUITY, FrameQuality
from pipeline.arrays import Bools

# Between different places, flow tracks up to 0.25 of the pixels.
_LOST_CONTINUITY = 0.35
# Keypoints of different places agree on at most 6 places (7 at 1080p), rarely on 10. If the place is the same and flow
# fails because of large motion, they agree on 13 or more.
_SHARED_PLACES = 10
# A neighbour with failed flow indicates fast motion, so less evidence is needed; a step this short makes fast motion
# unlikely, so more is needed.
_QUICK_FACTOR = 0.6
_SHORT_STEP_S = 0.1
_SHORT_STEP_FACTOR = 2.0


@dataclass(frozen=True)
class ViewChanges:
    """View changes of a video.

    Attributes:
        changed: (N,) frames that do not show the view of the last frame that is neither dark, white nor damaged.
        doubtful: (N,) those with camera motion so fast that the view may still be the same.
    """

    changed: Bools
    doubtful: Bools


def find_view_changes(qualities: Sequence[FrameQuality]) -> ViewChanges:
    """Find the changes by optical flow, and by keypoints if flow tracks too few pixels."""
    lost = np.array([quality.continuity < _LOST_CONTINUITY for quality in qualities])
    shared = np.array([quality.shared_places or 0 for quality in qualities])
    timestamps_s = np.array([quality.timestamp_s for quality in qualities])
    is_short = np.diff(timestamps_s, prepend=-np.inf) < _SHORT_STEP_S
    factor = np.where(_has_neighbour(lost), _QUICK_FACTOR, 1.0) * np.where(is_short, _SHORT_STEP_FACTOR, 1.0)
    changed = lost & (shared < factor * _SHARED_PLACES)
    return ViewChanges(changed, changed & _has_neighbour(lost & ~changed))


def _has_neighbour(chosen: Bools) -> Bools:
    """(N,): whether the previous or the next frame is chosen."""
    padded = np.pad(chosen, 1)
    return np.asarray(padded[:-2] | padded[2:])


def find_flashes(qualities: Sequence[FrameQuality], changed: Bools) -> Bools:
    """(N,): frames that match neither the previous nor the next frame, while these match each other."""
    flashes = np.zeros(len(qualities), bool)
    fits_before = np.array([_skips_one(following) for following in qualities[1:]], bool)
    flashes[:-1] = changed[:-1] & changed[1:] & fits_before
    return flashes


def find_steady_views(qualities: Sequence[FrameQuality], flashes: Bools) -> Bools:
    """(N,): frames that certainly show the view of the previous frame, or of the frame before a flash."""
    after_flash = np.concatenate([[False], flashes[:-1]])
    return np.array(
        [
            _skips_one(quality) if is_after_flash else _is_sure(quality.continuity, quality.shared_places)
            for quality, is_after_flash in zip(qualities, after_flash, strict=True)
        ],
        bool,
    )


def _skips_one(quality: FrameQuality) -> bool:
    return _is_sure(quality.skip_continuity, quality.skip_shared_places)


def _is_sure(continuity: float | None, shared_places: int | None) -> bool:
    return (continuity or 0) >= DOUBTFUL_CONTINUITY or (shared_places or 0) >= _SHARED_PLACES
