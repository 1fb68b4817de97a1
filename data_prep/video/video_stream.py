"""Choose the video stream of a container, which may also hold cover images, thumbnails and previews."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av.error
from av.stream import Disposition

_STILL_IMAGES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_SIMILAR_LENGTH = 0.9
_FEW_FRAMES = 0.1


@dataclass(frozen=True)
class _Content:
    """Totals over the packets of a stream."""

    stream: Any
    frames: int
    seconds: float

    @property
    def pixels(self) -> int:
        return int(self.stream.width * self.stream.height)

    def __str__(self) -> str:
        return f"stream {self.stream.index} ({self.stream.width}x{self.stream.height}, {self.frames} frames)"


def choose_stream(container: Any) -> tuple[int, str | None]:
    """Choose the video stream to read: among the longest streams, the one with the largest frames.

    Cover images and streams without an FFmpeg decoder are ignored; so are single-frame streams if there are longer
    ones. Several candidates are compared by their packets, so the container must be reopened afterwards.

    Returns:
        The stream's index in the container, and a line that names the choice if there were several.

    Raises:
        LookupError: if there is no such stream; the message lists what the container holds.
    """
    candidates = [stream for stream in container.streams.video if _is_video(stream)]
    if not candidates:
        raise LookupError(_describe_contents(container))
    if len(candidates) == 1:
        return candidates[0].index, None
    contents = _measure(container, candidates)
    videos = [content for content in contents if content.frames > 1]
    if len(videos) < 2:
        return (videos or contents)[0].stream.index, None
    most, longest = (max(getattr(video, name) for video in videos) for name in ("frames", "seconds"))

    def rank(video: _Content) -> tuple[bool, bool, int, bool]:
        is_default = Disposition.default in video.stream.disposition
        return video.frames > _FEW_FRAMES * most, video.seconds >= _SIMILAR_LENGTH * longest, video.pixels, is_default

    chosen = max(videos, key=rank)
    return chosen.stream.index, _warning(chosen, [video for video in videos if video is not chosen])


def read_packets(container: Any, streams: Any, note: Callable[[str], None] = lambda _: None) -> Iterator[Any]:
    """The packets of one or several streams up to the first unreadable one; `note` receives the reason."""
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            note(str(error.strerror))
            return
        yield packet


def _is_video(stream: Any) -> bool:
    has_decoder = stream.codec_context is not None and stream.width > 0
    return has_decoder and not stream.disposition & _STILL_IMAGES


def _describe_contents(container: Any) -> str:
    kinds = {stream.type for stream in container.streams if stream.type != "video"}
    for stream in container.streams.video:
        kinds.add("an image" if stream.disposition & _STILL_IMAGES else "video of a codec that FFmpeg cannot decode")
    return ", ".join(sorted(kinds)) or "nothing"


def _measure(container: Any, streams: list[Any]) -> list[_Content]:
    counts = {stream.index: 0 for stream in streams}
    times: dict[int, list[int]] = {stream.index: [] for stream in streams}
    for packet in read_packets(container, streams):
        if packet.size:
            index = packet.stream.index
            counts[index] += 1
            if packet.pts is not None:
                ends = [*times[index], packet.pts, packet.pts + (packet.duration or 0)]
                times[index] = [min(ends), max(ends)]
    return [_Content(stream, counts[stream.index], _seconds(stream, times[stream.index], counts)) for stream in streams]


def _seconds(stream: Any, ends: list[int], counts: dict[int, int]) -> float:
    if ends:
        return float((ends[1] - ends[0]) * stream.time_base)
    return float(counts[stream.index] / (stream.average_rate or Fraction(30)))


def _warning(chosen: _Content, others: list[_Content]) -> str:
    other = others[0].stream.index
    return (
        f"the file holds {len(others) + 1} videos: {chosen} is used, not {', '.join(map(str, others))}; to use "
        f"another, copy it to its own file: ffmpeg -i FILE -map 0:{other} -c copy NEW.mkv"
    )
