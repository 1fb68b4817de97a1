"""Index and timestamp of each decoded frame of a video.

A frame's index is the rank of its presentation timestamp among those of the packets, so an undecodable frame does not
shift later ones. If the timestamps are insufficient, frames are counted:

- two packets per frame (field-coded video): every other packet is a frame;
- timestamps that sometimes go back (concatenated files): frames are counted, and time advances by one frame there;
- no timestamps, or some in decoding order (H.264 in AVI): frames are counted at a constant frame rate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timeline:
    """Timing information from the packets of a video stream.

    Attributes:
        frame_pts: presentation timestamp of each frame, ascending; empty if frames are counted.
        keyframe_pts: timestamps of the frames at which decoding can start.
        time_base_s: seconds per timestamp unit.
        has_times: decoded frames carry timestamps in presentation order.
        counted_frames: number of frames in the packets.
        missing_at_end: number of further frames in the container's index, if the file is truncated.
        last_frame_s: duration of the last frame, 0 if not stated.
        decoding_rate: frames per second from the decoding timestamps, 0 if the file has none.
        warnings: warnings for the user, one line each.
    """

    frame_pts: Sequence[int]
    keyframe_pts: Sequence[int]
    time_base_s: float
    has_times: bool
    counted_frames: int
    missing_at_end: int
    last_frame_s: float
    decoding_rate: float
    warnings: tuple[str, ...]

    def frames_up_to(self, index: int | None) -> int:
        """Expected number of frames up to `index`, or in total if it is None."""
        if index is None:
            return self.counted_frames + self.missing_at_end
        return index + 1

    def clock(self, fps: float) -> "Clock":
        """A new clock that starts at the first frame; `fps` is used if there are no timestamps."""
        return Clock(self, fps)


class Clock:
    """Assigns index and timestamp to successive frames."""

    def __init__(self, timeline: Timeline, fps: float) -> None:
        self._timeline = timeline
        self._fps = fps
        self._ranks = {pts: rank for rank, pts in enumerate(timeline.frame_pts)}
        self._count = 0
        self._last_s: float | None = None
        self._offset_s = 0.0

    def next(self, pts: int | None) -> tuple[int, float]:
        """Index and seconds of the next frame in presentation order."""
        index = self._ranks.get(pts, self._count) if pts is not None else self._count
        # If a timestamp is unknown, counting continues from the last rank.
        self._count = index + 1
        if pts is None or not self._timeline.has_times:
            return index, index / self._fps
        seconds = pts * self._timeline.time_base_s + self._offset_s
        if self._last_s is not None and seconds <= self._last_s:
            self._offset_s += self._last_s + 1 / self._fps - seconds
            seconds = self._last_s + 1 / self._fps
        self._last_s = seconds
        return index, seconds

    def at(self, pts: int) -> tuple[int, float]:
        """Index and seconds of a frame whose timestamp is on the timeline."""
        return self._ranks[pts], pts * self._timeline.time_base_s


def read_timeline(
    packets: Iterable[Any], first_pts: Sequence[int | None], time_base_s: float, listed_frames: int
) -> Timeline:
    """Read the timeline from the packets of a stream.

    Args:
        packets: PyAV packets in decoding order.
        first_pts: timestamps of the first decoded frames, in decoder order.
        time_base_s: seconds per timestamp unit.
        listed_frames: number of frames in the container's index, 0 if it has none.
    """
    seen = [
        (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard, packet.is_corrupt, packet.duration)
        for packet in packets
        if packet.size
    ]
    was_cut_off = bool(seen) and bool(seen[-1][4])
    missing = max(0, listed_frames - len(seen)) if was_cut_off else 0
    shown = [(pts, is_keyframe) for pts, _, is_keyframe, is_discard, *_ in seen if not is_discard]
    dts = [packet_dts for _, packet_dts, *_ in seen if packet_dts is not None]
    goes_back = bool(np.any(np.diff(dts) < 0))
    steps = np.diff([pts for pts in first_pts if pts is not None])
    # Concatenated files have a single step back; timestamps in decoding order have many.
    in_order = None not in first_pts and int((steps <= 0).sum()) <= 1
    frame_pts: list[int] = []
    if in_order and not goes_back and all(pts is not None for pts, _ in shown):
        frame_pts = _frame_timestamps({pts for pts, _ in shown}, {pts for pts in first_pts if pts is not None})
    on_timeline = set(frame_pts)
    warnings = []
    if not in_order:
        warnings.append("the file has no presentation timestamps: a constant frame rate is assumed")
    elif goes_back:
        warnings.append("timestamps go back (concatenated files?): time advances by one frame there")
    return Timeline(
        frame_pts=frame_pts,
        keyframe_pts=sorted({pts for pts, is_keyframe in shown if is_keyframe and pts in on_timeline}),
        time_base_s=time_base_s,
        has_times=in_order,
        counted_frames=len(frame_pts) or len(shown),
        missing_at_end=missing,
        last_frame_s=_last_duration(seen) * time_base_s,
        decoding_rate=_rate(dts, time_base_s),
        warnings=tuple(warnings),
    )


def _rate(dts: Sequence[int], time_base_s: float) -> float:
    step_s = float(np.median(np.diff(dts))) * time_base_s if len(dts) > 1 else 0.0
    return 1 / step_s if step_s > 0 else 0.0


def _last_duration(seen: Sequence[tuple[Any, ...]]) -> int:
    shown = [(pts, duration or 0) for pts, *_, duration in seen if pts is not None]
    return max(shown)[1] if shown else 0


def _frame_timestamps(packet_pts: set[int], first_pts: set[int]) -> list[int]:
    """The packet timestamps that belong to frames, from the first decoded frame."""
    ordered = sorted(pts for pts in packet_pts if pts >= min(first_pts))
    ranks = np.sort([rank for rank, pts in enumerate(ordered) if pts in first_pts])
    if len(ranks) < len(first_pts):
        return []
    # With two fields per frame, no two frames are adjacent among the packets; damage leaves adjacent frames.
    is_field_coded = len(ranks) > 1 and bool(np.all(np.diff(ranks) >= 2))
    return ordered[ranks[0] :: 2] if is_field_coded else ordered
