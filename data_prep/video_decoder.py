"""Decoding a video file so that no frame is dropped, shifted or given a wrong time."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter
import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.errors import LumenError, explain_os_errors

_ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
# Enough consecutive frames that idet agrees with itself; more only while nothing moves.
_INTERLACE_FRAMES_DECIDED = 60
_INTERLACE_FRAMES_SEEN = 900
_FRAMES_COMPARED = 32


@dataclass(frozen=True)
class VideoFacts:
    """What the container and the first frames say; the fields are those of `SourceInfo`."""

    width: int
    height: int
    fps: float
    frame_count: int | None
    interlaced: str | None
    rotation_deg: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DecodedFrame:
    """A frame still in the decoder's own pixel format."""

    index: int
    timestamp_s: float
    damaged: bool
    rotation_deg: int
    frame: av.VideoFrame

    def image(self) -> Image:
        """(H, W, 3) uint8 BGR, upright."""
        image: Image = self.frame.to_ndarray(format="bgr24")
        if self.rotation_deg:
            image = cv2.rotate(image, _ROTATIONS[self.rotation_deg])
        return image


class VideoDecoder:
    """Reads one video file, as often as asked.

    A frame's index is the rank of its presentation timestamp among those of the packets, so that a frame that cannot
    be decoded does not shift the ones after it. Files with two packets a frame (field-coded), or without
    timestamps, are counted as they are decoded.

    Raises:
        LumenError: when made, if the file is missing, is no video, or no frame of it can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claimed = 0
        self._damaged_end: str | None = None
        self._decoded = 0
        self._keyframe_pts: list[int] = []
        self._packet_pts = self._read_packet_pts()
        self.facts = self._read_facts()

    def decode(self) -> Iterator[DecodedFrame]:
        """All frames in presentation order, deinterlaced and upright."""
        self._decoded = 0
        ranks = {pts: rank for rank, pts in enumerate(self._packet_pts)}
        following, reference_lost = 0, False
        with self._open() as container:
            stream = container.streams.video[0]
            for frame, pts in self._deinterlaced(self._raw_frames(container), stream):
                index = ranks.get(pts, self._decoded) if pts is not None else self._decoded
                timestamp_s = float(pts * stream.time_base) if pts is not None else index / self.facts.fps
                # What follows a missing frame is predicted from it, wrongly, until the next keyframe.
                reference_lost = not frame.key_frame and (reference_lost or index > following)
                following = index + 1
                self._decoded += 1
                damaged = bool(frame.is_corrupt) or reference_lost
                yield DecodedFrame(index, timestamp_s, damaged, self.facts.rotation_deg, frame)

    def decode_keyframes(self, count: int) -> Iterator[DecodedFrame]:
        """At most `count` of the keyframes, evenly spread, found by seeking; not deinterlaced."""
        ranks = {pts: rank for rank, pts in enumerate(self._packet_pts)}
        places = np.unique(np.linspace(0, len(self._keyframe_pts) - 1, count).astype(int))
        with self._open() as container:
            stream = container.streams.video[0]
            for pts in (self._keyframe_pts[place] for place in places):
                frame = _frame_at(container, stream, pts)
                if frame is not None:
                    timestamp_s = float(pts * stream.time_base)
                    yield DecodedFrame(ranks[pts], timestamp_s, False, self.facts.rotation_deg, frame)

    @property
    def keyframe_count(self) -> int:
        """How many frames `decode_keyframes` can reach; 0 if the packets do not index the frames."""
        return len(self._keyframe_pts)

    def losses(self) -> list[str]:
        """After `decode` ran to its end: what the file should hold and does not give."""
        expected = max(len(self._packet_pts), self._claimed)
        missing = expected - self._decoded
        if missing <= 0:
            return []
        cause = f" ({self._damaged_end})" if self._damaged_end else ""
        return [f"{missing} of {expected} frames cannot be decoded: the file is truncated or damaged{cause}"]

    def _open(self) -> Any:
        with explain_os_errors("read", self.path):
            size = self.path.stat().st_size
            if size == 0:
                raise LumenError(f"{self.path} is empty")
            try:
                container = av.open(str(self.path))
            except av.error.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise LumenError(
                    f"{self.path} is not a video that can be read ({error.strerror}); "
                    "if it was copied or recorded, the end may be missing: make the copy again"
                ) from error
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            raise LumenError(f"{self.path} has no video stream (it holds {kinds})")
        container.streams.video[0].thread_type = "AUTO"
        return container

    def _read_packet_pts(self) -> list[int]:
        """Sorted timestamps of the packets, from the first decodable frame on; empty if they do not index frames."""
        with self._open() as container:
            stream = container.streams.video[0]
            self._claimed = stream.frames
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in _packets(container, stream)
                if packet.pts is not None and not packet.is_discard
            ]
        with self._open() as container:
            times = [frame.pts for frame in self._take(self._raw_frames(container), _FRAMES_COMPARED)]
        if not times:
            raise LumenError(f"{self.path}: no frame can be decoded; the file is damaged")
        first = {pts for pts in times if pts is not None}
        if len(first) < len(times):
            return []
        ordered = sorted({pts for pts, _ in packets if pts >= min(first)})
        spanned = sum(value <= max(first) for value in ordered)
        one_packet_a_frame = first <= set(ordered) and len(first) > 0.75 * spanned
        if not one_packet_a_frame:
            return []
        self._keyframe_pts = sorted({pts for pts, is_keyframe in packets if is_keyframe and pts >= min(first)})
        return ordered

    def _read_facts(self) -> VideoFacts:
        warnings = []
        with self._open() as container:
            stream = container.streams.video[0]
            frame = next(self._raw_frames(container))
            rotation_deg = round(frame.rotation / 90) * 90 % 360
            rate = stream.average_rate or stream.guessed_rate or stream.base_rate
            width, height = frame.width, frame.height
            aspect = stream.sample_aspect_ratio
        if frame.pts is None:
            warnings.append("the file has no timestamps: they assume a constant frame rate")
        if aspect and aspect not in (0, 1):
            warnings.append(f"pixels are not square ({aspect}): frames keep their pixels, so fx and fy differ")
        if rotation_deg in (90, 270):
            width, height = height, width
        return VideoFacts(
            width=width,
            height=height,
            fps=float(rate) if rate else 30.0,
            frame_count=len(self._packet_pts) or self._claimed or None,
            interlaced=self._detect_interlacing(),
            rotation_deg=rotation_deg,
            warnings=tuple(warnings),
        )

    def _detect_interlacing(self) -> str | None:
        """FFmpeg's `idet` over the first frames that move: "tff", "bff" or None. Flags in the file are often wrong."""
        counts = {"tff": 0, "bff": 0, "progressive": 0, "undetermined": 0}
        with self._open() as container:
            stream = container.streams.video[0]
            frames = self._take(self._raw_frames(container), _INTERLACE_FRAMES_SEEN)
            for frame in _filtered(frames, stream, "idet", ""):
                counts[str(frame.metadata.get("lavfi.idet.multiple.current_frame", "undetermined"))] += 1
                if sum(counts.values()) - counts["undetermined"] >= _INTERLACE_FRAMES_DECIDED:
                    break
        order = "tff" if counts["tff"] >= counts["bff"] else "bff"
        return order if counts["tff"] + counts["bff"] > counts["progressive"] else None

    def _raw_frames(self, container: Any) -> Iterator[av.VideoFrame]:
        stream = container.streams.video[0]
        for packet in _packets(container, stream, self._note_damage):
            try:
                yield from packet.decode()
            except av.error.FFmpegError as error:
                self._note_damage(error)

    def _note_damage(self, error: av.error.FFmpegError) -> None:
        self._damaged_end = str(error.strerror)

    def _deinterlaced(self, frames: Iterator[av.VideoFrame], stream: Any) -> Iterator[tuple[av.VideoFrame, int | None]]:
        if self.facts.interlaced is None:
            for frame in frames:
                yield frame, frame.pts
            return
        # bwdif gives one frame out for each frame in, but in another time base, so the times go around it.
        times: deque[int | None] = deque()

        def remember_times() -> Iterator[av.VideoFrame]:
            for frame in frames:
                times.append(frame.pts)
                yield frame

        options = f"mode=send_frame:parity={self.facts.interlaced}:deint=all"
        for frame in _filtered(remember_times(), stream, "bwdif", options):
            yield frame, times.popleft()

    @staticmethod
    def _take(frames: Iterator[av.VideoFrame], count: int) -> Iterator[av.VideoFrame]:
        for _, frame in zip(range(count), frames, strict=False):
            yield frame


def _packets(container: Any, stream: Any, note: Any = None) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            if note is not None:
                note(error)
            return
        yield packet


def _filtered(frames: Iterator[av.VideoFrame], stream: Any, name: str, options: str) -> Iterator[av.VideoFrame]:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream), graph.add(name, options or None), graph.add("buffersink")
    ).configure()
    for frame in frames:
        graph.push(frame)
        yield from _pulled(graph)
    graph.push(None)
    yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _frame_at(container: Any, stream: Any, pts: int) -> av.VideoFrame | None:
    try:
        container.seek(pts, stream=stream, backward=True)
        return next((frame for frame in container.decode(stream) if frame.pts == pts), None)
    except av.error.FFmpegError:
        return None
