"""Frames from a video file, decoded without dropped frames, shifted indices or wrong timestamps.

The decoder is PyAV (FFmpeg's libraries): OpenCV's reader takes frame counts and timestamps from the container's
header and hides frames that it could not decode.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import av.filter
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from cv2.typing import MatLike as Image

from data_prep.video.source_frame import UPRIGHT, Orientation, SourceFrame, SourceInfo
from data_prep.video.video_stream import choose_stream, read_packets
from data_prep.video.video_timeline import Timeline, read_timeline
from pipeline.errors import LumenError, explain_os_errors
from pipeline.manifest import fingerprint_path
from pipeline.outputs.file_names import ffmpeg_url

_SAMPLES_BY_DECODING_ALL = 1000
# Enough consecutive frames for a stable idet result; more only while nothing moves.
_INTERLACE_FRAMES_DECIDED = 60
_INTERLACE_FRAMES_SEEN = 900
_FRAMES_COMPARED = 32
_ENDS_EARLY_S = 0.5
# Larger than the number of side data types in FFmpeg.
_NAMELESS_SIDE_DATA = sorted(set(range(64)) - {kind.value for kind in SideDataType})


@dataclass(frozen=True)
class _Raw:
    """A frame in the decoder's pixel format, and its timestamp in the stream's time base."""

    frame: av.VideoFrame
    pts: int | None


class VideoSource:
    """A video file; `data_prep.video.video_timeline` defines the index and timestamp of each frame.

    Raises:
        LumenError: on construction, if the file is missing, is no video, or no frame can be decoded; on reading, if the
            frame size changes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoded = 0
        self._damaged = 0
        self._last_index = -1
        self._last_s = 0.0
        self._reached_end = False
        self._damage: str | None = None
        self._ends_s = 0.0
        self._rotation_deg = 0
        self._stream_index, self._choice = self._choose_stream()
        self._timeline = self._read_timeline()
        self.info = self._read_info()

    def frames(self) -> Iterator[SourceFrame]:
        """All frames in presentation order, deinterlaced and upright; pixels are converted on first access."""
        self._decoded, self._damaged, self._last_index, self._reached_end = 0, 0, -1, False
        clock = self._timeline.clock(self.info.fps)
        reference_lost = False
        with self._open() as (container, stream):
            for raw in self._deinterlaced(self._raw_frames(container, stream, self._note_damage), stream):
                self._check_shape(raw.frame)
                index, timestamp_s = clock.next(raw.pts)
                # Frames after a missing or damaged frame are predicted from it and stay wrong until the next keyframe.
                is_gap = index > self._last_index + 1
                reference_lost = bool(raw.frame.is_corrupt) or (not raw.frame.key_frame and (reference_lost or is_gap))
                self._decoded, self._last_index, self._last_s = self._decoded + 1, index, timestamp_s
                self._damaged += reference_lost
                yield SourceFrame(index, timestamp_s, self._loader(raw.frame), reference_lost)
        self._reached_end = True

    def sample(self, count: int) -> Iterator[SourceFrame]:
        """Keyframes found by seeking in a long video, every n-th frame of a short one; at most about `count`."""
        keyframes = self._timeline.keyframe_pts
        total = self.info.frame_count
        if total > _SAMPLES_BY_DECODING_ALL and len(keyframes) >= count // 4:
            places = np.unique(np.linspace(0, len(keyframes) - 1, count).astype(int))
            return self._keyframes([keyframes[place] for place in places])
        step = max(1, total // count)
        return islice((frame for frame in self.frames() if frame.index % step == 0), 2 * count)

    def losses(self) -> list[str]:
        """How many frames were missing in the last call of `frames`."""
        lines = []
        expected = self._timeline.frames_up_to(None if self._reached_end else self._last_index)
        missing = expected - self._decoded
        if missing > 0:
            cause = f" ({self._damage})" if self._damage else ""
            lines.append(f"{missing} of {expected} frames cannot be decoded: the file is truncated or damaged{cause}")
        elif self._reached_end and self._ends_s > self._last_s + self._last_frame_duration_s + _ENDS_EARLY_S:
            lines.append(
                f"the file states that it ends at {self._ends_s:.1f} s, but its last frame is at {self._last_s:.1f} s: "
                "it is truncated or damaged"
            )
        if self._damaged:
            lines.append(f"{self._damaged} frames are damaged, or predicted from a damaged frame")
        return lines

    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes, as hex."""
        return fingerprint_path(self._path)

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Open the file; yield the container and the stream."""
        with self._open_container() as container:
            stream = container.streams[self._stream_index]
            stream.thread_type = "AUTO"
            yield container, stream

    def _choose_stream(self) -> tuple[int, str | None]:
        with self._open_container() as container:
            try:
                return choose_stream(container)
            except LookupError as error:
                raise LumenError(f"{self._path} has no video stream (it holds {error})") from error

    def _open_container(self) -> Any:
        with explain_os_errors("read", self._path):
            if self._path.stat().st_size == 0:
                raise LumenError(f"{self._path} is empty")
            try:
                # Titles and comments may have any encoding; they are not used.
                return av.open(ffmpeg_url(self._path), metadata_errors="replace")
            except av.error.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise LumenError(
                    f"{self._path} cannot be read as a video ({error.strerror}); "
                    "if it was copied or recorded, the end may be missing: copy it again"
                ) from error

    def _read_timeline(self) -> Timeline:
        with self._open() as (container, stream):
            first = [raw.pts for raw in islice(self._raw_frames(container, stream), _FRAMES_COMPARED)]
        if not first:
            raise LumenError(f"{self._path}: no frame can be decoded; the file is damaged")
        with self._open() as (container, stream):
            return read_timeline(read_packets(container, stream), first, float(stream.time_base), stream.frames)

    def _read_info(self) -> SourceInfo:
        with self._open() as (container, stream):
            frame = next(self._raw_frames(container, stream)).frame
            rate = stream.average_rate or stream.guessed_rate or stream.base_rate or 30
            self._ends_s = _stated_end_s(container, stream)
            aspect = stream.sample_aspect_ratio
            orientation = self._orientation(_without_nameless_side_data(frame, stream))
            self._rotation_deg = frame.rotation
        is_on_its_side = orientation[0][0] == 0
        warnings = [*([self._choice] if self._choice else []), *self._timeline.warnings]
        if aspect and aspect not in (0, 1):
            warnings.append(f"pixels are not square ({aspect}): frames are not resampled, so fx and fy differ")
        return SourceInfo(
            path=self._path,
            kind="video",
            width=frame.height if is_on_its_side else frame.width,
            height=frame.width if is_on_its_side else frame.height,
            # FFmpeg's average rate of H.264 without presentation timestamps can be twice the true rate.
            fps=float(rate) if self._timeline.has_times else self._timeline.decoding_rate or float(rate),
            frame_count=self._timeline.frames_up_to(None),
            interlaced=self._detect_interlacing(),
            orientation=orientation,
            warnings=tuple(warnings),
        )

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return UPRIGHT
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5] / 65536
        orientation = ((round(a), round(c)), (round(b), round(d)))
        exact = np.allclose([a, c, b, d], [*orientation[0], *orientation[1]], atol=0.01)
        if not exact or abs(orientation[0][0] * orientation[1][1] - orientation[0][1] * orientation[1][0]) != 1:
            found = np.round([[a, c], [b, d]], 3).tolist()
            raise LumenError(
                f"{self._path} has the display matrix {found}, which is neither a quarter turn nor mirroring: "
                "encode it upright"
            )
        return orientation

    def _detect_interlacing(self) -> Literal["tff", "bff"] | None:
        """Run FFmpeg's `idet` on the first frames with motion; flags in the file are often wrong."""
        counts = {"tff": 0, "bff": 0, "progressive": 0, "undetermined": 0}
        with self._open() as (container, stream):
            raw_frames = islice(self._raw_frames(container, stream), _INTERLACE_FRAMES_SEEN)
            for frame in _filtered((raw.frame for raw in raw_frames), stream, ("idet", "")):
                counts[str(frame.metadata.get("lavfi.idet.multiple.current_frame", "undetermined"))] += 1
                if sum(counts.values()) - counts["undetermined"] >= _INTERLACE_FRAMES_DECIDED:
                    break
        if counts["tff"] + counts["bff"] <= counts["progressive"]:
            return None
        return "tff" if counts["tff"] >= counts["bff"] else "bff"

    def _keyframes(self, wanted_pts: list[int]) -> Iterator[SourceFrame]:
        clock = self._timeline.clock(self.info.fps)
        with self._open() as (container, stream):
            for pts in wanted_pts:
                frame = _frame_at(container, stream, pts)
                if frame is not None:
                    yield SourceFrame(*clock.at(pts), self._loader(frame))

    @property
    def _last_frame_duration_s(self) -> float:
        return max(self._timeline.last_frame_s, 1 / self.info.fps)

    def _check_shape(self, frame: av.VideoFrame) -> None:
        size = (frame.width, frame.height)
        expected = (self.info.width, self.info.height)
        if self.info.orientation[0][0] == 0:
            expected = expected[::-1]
        if size != expected:
            raise LumenError(
                f"{self._path}: the frame size changes from {expected[0]}x{expected[1]} to {size[0]}x{size[1]} pixels "
                f"at frame {self._last_index + 1}: cut the video there"
            )
        if frame.rotation != self._rotation_deg:
            raise LumenError(
                f"{self._path}: the display rotation changes from {self._rotation_deg} to {frame.rotation} degrees "
                f"at frame {self._last_index + 1}: cut the video there"
            )

    def _loader(self, frame: av.VideoFrame) -> Callable[[], Image]:
        return lambda: _upright(frame.to_ndarray(format="bgr24"), self.info.orientation)

    def _raw_frames(self, container: Any, stream: Any, note: Callable[[str], None] = lambda _: None) -> Iterator[_Raw]:
        for packet in read_packets(container, stream, note):
            try:
                for frame in packet.decode():
                    yield _Raw(frame, frame.pts)
            except av.error.FFmpegError as error:
                note(str(error.strerror))

    def _note_damage(self, what: str) -> None:
        self._damage = what

    def _deinterlaced(self, frames: Iterator[_Raw], stream: Any) -> Iterator[_Raw]:
        if self.info.interlaced is None:
            yield from frames
            return
        # bwdif outputs one frame per input frame, but in another time base, so the timestamps bypass it.
        times: deque[int | None] = deque()

        def remember_times() -> Iterator[av.VideoFrame]:
            for raw in frames:
                times.append(raw.pts)
                yield raw.frame

        options = f"mode=send_frame:parity={self.info.interlaced}:deint=all"
        for frame in _filtered(remember_times(), stream, ("bwdif", options)):
            yield _Raw(frame, times.popleft())


def _upright(image: Image, orientation: Orientation) -> Image:
    (x_from_x, x_from_y), (y_from_x, y_from_y) = orientation
    if x_from_x == 0:
        image = cv2.transpose(image)
    if x_from_x + x_from_y < 0:
        image = cv2.flip(image, 1)
    if y_from_x + y_from_y < 0:
        image = cv2.flip(image, 0)
    return image


def _without_nameless_side_data(frame: av.VideoFrame, stream: Any) -> av.VideoFrame:
    """The frame without side data for which PyAV raises a ValueError, such as the EXIF of a JPEG."""
    try:
        len(frame.side_data)
        return frame
    except ValueError:
        deleted = (("sidedata", f"mode=delete:type={number}") for number in _NAMELESS_SIDE_DATA)
        return next(_filtered(iter([frame]), stream, *deleted))


def _filtered(frames: Iterator[av.VideoFrame], stream: Any, *filters: tuple[str, str]) -> Iterator[av.VideoFrame]:
    """Apply filters to frames; each filter is a name and its options."""
    graph = av.filter.Graph()
    nodes = [graph.add(name, options or None) for name, options in filters]
    graph.link_nodes(graph.add_buffer(template=stream), *nodes, graph.add("buffersink")).configure()
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


def _stated_end_s(container: Any, stream: Any) -> float:
    """The end of the video stated in the file, on its clock; 0 if not stated."""
    if stream.duration:
        return float((stream.start_time or 0) * stream.time_base + stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(((container.start_time or 0) + container.duration) / av.time_base)
    return 0.0


def _frame_at(container: Any, stream: Any, pts: int) -> av.VideoFrame | None:
    try:
        container.seek(pts, stream=stream, backward=True)
        return next((frame for frame in container.decode(stream) if frame.pts == pts), None)
    except av.error.FFmpegError:
        return None
