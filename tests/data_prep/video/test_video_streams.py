"""Files with more than one plain video: other streams, still images, JPEGs with EXIF, odd rates and names."""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from cv2.typing import MatLike as Image

from data_prep.video.video_source import VideoSource
from pipeline.errors import LumenError
from videos import endoscopic_frames, write_video

COVER = Disposition.attached_pic
ODD_NAMES = [
    "2026-01-05T12:30:00.mp4",
    "concat:a.mp4",
    "-x.mp4",
    "a%d.mp4",
    "a|b?.mp4",
    "[1]*.mp4",
    "new\nline.mp4",
    "caf\udce9.mp4",
]


def write_streams(
    path: Path, *videos: Sequence[Image], codecs: Sequence[str] = (), disposition: int = 0, sound: bool = False
) -> Path:
    """Write one stream per video at 30 frames per second, after a silent audio stream if `sound`.

    Args:
        path: its suffix chooses the container.
        videos: (H, W, 3) uint8 BGR frames of each video.
        codecs: codec of each; by default H.264.
        disposition: disposition of the first video.
        sound: whether the first stream is audio.
    """
    with av.open(f"file:{path}", "w") as container:
        packets = _silence(container) if sound else []
        streams = [_add_stream(container, *each) for each in zip(videos, codecs or ["libx264"] * 9, strict=False)]
        if disposition:
            streams[0].disposition = disposition
        packets += [packet for each in zip(streams, videos, strict=True) for packet in _encoded(*each)]
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def write_jpegs(path: Path, jpegs: Iterable[bytes], size: tuple[int, int]) -> Path:
    """Mux JPEG files into an AVI unchanged."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
        for number, jpeg in enumerate(jpegs):
            packet = av.Packet(jpeg)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 30), number, number
            container.mux(packet)
    return path


def jpeg_with_exif(image: Image, orientation: int) -> bytes:
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    entry = struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def difference(first: Image, second: Image) -> float:
    assert first.shape == second.shape
    return cv2.norm(first, second, cv2.NORM_L1) / first.size


@pytest.mark.parametrize(
    "suffix, codec, seconds",
    [("avi", "mpeg4", 1), *((suffix, "libx264", seconds) for suffix in ("mp4", "mkv", "ts") for seconds in (1, 5))],
)
def test_low_frame_rate_has_no_losses(tmp_path: Path, suffix: str, codec: str, seconds: int) -> None:
    times = list(range(0, 12 * seconds, seconds))
    path = write_video(tmp_path / f"v.{suffix}", endoscopic_frames(12), 1, times, codec, {"b": "4000k"})
    source = VideoSource(path)
    frames = list(source.frames())
    np.testing.assert_allclose(np.diff([frame.timestamp_s for frame in frames]), seconds, atol=1e-3)
    assert len(frames) == 12 and source.losses() == [] and source.info.warnings == ()


def test_long_last_frame_is_not_a_loss(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", endoscopic_frames(12), 10, [*range(11), 200])
    source = VideoSource(path)
    assert len(list(source.frames())) == 12
    assert source.losses() == []


def test_truncated_file_with_a_low_frame_rate_is_detected(tmp_path: Path) -> None:
    options = {"crf": "15", "g": "1"}
    path = write_video(tmp_path / "v.mkv", endoscopic_frames(12), 1, list(range(12)), options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    source = VideoSource(path)
    assert 2 < len(list(source.frames())) < 11
    assert "truncated" in source.losses()[0]


def test_h264_in_avi_uses_decoding_timestamps(tmp_path: Path) -> None:
    """FFmpeg's average rate is twice the true one if B-frames and skipped ticks coincide."""
    path = write_video(tmp_path / "v.avi", endoscopic_frames(20), 60, list(range(0, 40, 2)), options={"bf": "2"})
    source = VideoSource(path)
    assert source.info.fps == pytest.approx(30)
    np.testing.assert_allclose(np.diff([frame.timestamp_s for frame in source.frames()]), 1 / 30, atol=1e-3)
    assert source.losses() == []


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 9])
def test_jpegs_with_exif_match_other_readers(tmp_path: Path, orientation: int) -> None:
    jpegs = [jpeg_with_exif(image, orientation) for image in endoscopic_frames(4)]
    source = VideoSource(write_jpegs(tmp_path / "e.avi", jpegs, (320, 240)))
    for frame, jpeg in zip(source.frames(), jpegs, strict=True):
        assert difference(frame.image, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)) < 2
    assert source.losses() == []


def test_changing_rotation_is_refused(tmp_path: Path) -> None:
    images = endoscopic_frames(6)
    jpegs = [jpeg_with_exif(image, 1 if number < 3 else 3) for number, image in enumerate(images)]
    source = VideoSource(write_jpegs(tmp_path / "e.avi", jpegs, (320, 240)))
    with pytest.raises(LumenError, match=r"changes from 0 to -?180 degrees at frame 3"):
        list(source.frames())


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_thumbnail_track_is_not_the_video(tmp_path: Path, suffix: str) -> None:
    images = endoscopic_frames(20)
    path = write_streams(tmp_path / f"t.{suffix}", images[7:8], images, codecs=("mjpeg", "libx264"))
    source = VideoSource(path)
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(20))
    assert difference(frames[0].image, images[0]) < 4
    assert source.losses() == [] and source.info.warnings == ()


def test_cover_image_is_not_the_video(tmp_path: Path) -> None:
    large = [cv2.resize(image, (640, 480)) for image in endoscopic_frames(1)]
    path = write_streams(
        tmp_path / "c.mp4", large, endoscopic_frames(20), codecs=("mjpeg", "libx264"), disposition=COVER
    )
    source = VideoSource(path)
    assert len(list(source.frames())) == 20
    assert (source.info.width, source.info.height) == (320, 240) and source.info.warnings == ()


def test_cover_image_alone_is_not_a_video(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "c.mp4", endoscopic_frames(1), codecs=("mjpeg",), disposition=COVER, sound=True)
    with pytest.raises(LumenError, match=r"no video stream \(it holds an image, audio\)"):
        VideoSource(path)


def test_video_after_audio_is_found(tmp_path: Path) -> None:
    source = VideoSource(write_streams(tmp_path / "s.mp4", endoscopic_frames(20), sound=True))
    assert len(list(source.frames())) == 20
    assert source.losses() == [] and source.info.warnings == ()


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
@pytest.mark.parametrize("preview_first", [True, False])
def test_larger_of_two_equally_long_videos_is_read_and_logged(tmp_path: Path, suffix: str, preview_first: bool) -> None:
    images = endoscopic_frames(20)
    videos = [images, [cv2.resize(image, (160, 120)) for image in images]]
    source = VideoSource(write_streams(tmp_path / f"v.{suffix}", *videos[:: -1 if preview_first else 1]))
    assert (source.info.width, source.info.height) == (320, 240)
    assert len(list(source.frames())) == 20
    (warning,) = source.info.warnings
    chosen, other = (1, 0) if preview_first else (0, 1)
    assert f"stream {chosen} (320x240, 20 frames) is used, not stream {other} (160x120, 20 frames)" in warning
    assert f"-map 0:{other} " in warning


def test_longer_of_two_videos_is_read(tmp_path: Path) -> None:
    images = endoscopic_frames(30)
    large = [cv2.resize(image, (640, 480)) for image in images[:8]]
    source = VideoSource(write_streams(tmp_path / "v.mov", large, images))
    assert len(list(source.frames())) == 30 and source.losses() == []
    assert "stream 1 (320x240, 30 frames) is used" in source.info.warnings[0]


def test_keyframes_are_sampled_from_the_chosen_stream(tmp_path: Path) -> None:
    images = [np.full((64, 96, 3), 60 + number % 100, np.uint8) for number in range(1100)]
    source = VideoSource(write_streams(tmp_path / "v.mp4", images[:1], images, codecs=("mjpeg", "libx264")))
    assert {frame.image.shape for frame in source.sample(8)} == {(64, 96, 3)}


def test_stream_without_a_decoder_is_not_a_video(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "v.mp4", endoscopic_frames(5))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(LumenError, match="a codec that FFmpeg cannot decode"):
        VideoSource(path)


def test_stream_without_a_decoder_is_skipped(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "v.mov", endoscopic_frames(9), endoscopic_frames(5), codecs=("mjpeg", "libx264"))
    path.write_bytes(path.read_bytes().replace(b"jpeg\0", b"zzzz\0"))
    assert len(list(VideoSource(path).frames())) == 5


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_title_in_another_encoding_is_ignored(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf#"
        stream = _add_stream(container, endoscopic_frames(1), "mpeg4")
        for packet in _encoded(stream, endoscopic_frames(5)):
            container.mux(packet)
    data = path.read_bytes()
    assert b"caf#" in data
    path.write_bytes(data.replace(b"caf#", b"caf\xe9"))
    assert len(list(VideoSource(path).frames())) == 5


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_video(tmp_path / "plain.mp4", endoscopic_frames(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoSource(Path(name)).frames())) == 3


def _add_stream(container: Any, images: Sequence[Image], codec: str) -> Any:
    stream = container.add_stream(codec, rate=30, options={"crf": "15"} if codec == "libx264" else {})
    stream.height, stream.width = images[0].shape[:2]
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.codec_context.time_base = Fraction(1, 30)
    return stream


def _encoded(stream: Any, images: Sequence[Image]) -> Iterable[Any]:
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts, frame.time_base = number, Fraction(1, 30)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _silence(container: Any) -> list[Any]:
    stream = container.add_stream("aac", rate=8000)
    samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    samples.sample_rate, samples.pts = 8000, 0
    stream.layout = "mono"
    return [*stream.encode(samples), *stream.encode(None)]
