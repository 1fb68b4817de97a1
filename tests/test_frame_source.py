"""Decoding that can be trusted: indices, timestamps, rotation, interlacing, losses."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from cv2.typing import MatLike as Image

from data_prep.frame_source import FrameSource, open_source
from pipeline.errors import LumenError
from videos import endoscopic_frames, weave, write_video


def source_of(path: Path) -> FrameSource:
    return open_source(path, image_fps=30)


def test_every_frame_has_its_index_time_and_picture(tmp_path: Path) -> None:
    images = endoscopic_frames(50)
    source = source_of(write_video(tmp_path / "video.mp4", images, options={"crf": "10", "bf": "3"}))
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(50))
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.arange(50) / 30, atol=1e-4)
    for frame in frames:
        errors = [cv2.norm(frame.image, image, cv2.NORM_L1) for image in images]
        assert int(np.argmin(errors)) == frame.index
    assert source.losses() == []


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    source = source_of(write_video(tmp_path / "video.mp4", endoscopic_frames(20)))
    for first, second in zip(source.frames(), source.frames(), strict=True):
        assert first.timestamp_s == second.timestamp_s
        np.testing.assert_array_equal(first.image, second.image)


def test_variable_frame_rate_keeps_true_times(tmp_path: Path) -> None:
    times = [0, 3, 4, 9, 10, 11, 30, 31, 45, 46, 47, 90]
    path = write_video(tmp_path / "video.mkv", endoscopic_frames(12), fps=100, times=times)
    frames = list(source_of(path).frames())
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.array(times) / 100, atol=1e-3)


@pytest.mark.parametrize(
    "suffix, codec", [("mkv", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg2video"), ("ts", "libx264")]
)
def test_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(tmp_path / f"video.{suffix}", endoscopic_frames(31), fps=25, codec=codec, options={"b": "4000k"})
    frames = list(source_of(path).frames())
    assert [frame.index for frame in frames] == list(range(31))
    steps = np.diff([frame.timestamp_s for frame in frames])
    np.testing.assert_allclose(steps, 1 / 25, atol=1e-3)


def test_rotation_metadata_is_applied(tmp_path: Path) -> None:
    upright = endoscopic_frames(3, mask=np.full((240, 320), 255, np.uint8))
    stored = [cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE) for image in upright]
    plain = write_video(tmp_path / "plain.mp4", stored)
    rotated = tmp_path / "rotated.mp4"
    _set_rotation(plain, rotated)
    source = source_of(rotated)
    assert source.info.rotation_deg == 90
    assert (source.info.width, source.info.height) == (320, 240)
    for frame, image in zip(source.frames(), upright, strict=True):
        assert cv2.norm(frame.image, image, cv2.NORM_L1) / image.size < 4


def test_interlaced_video_is_found_and_deinterlaced(tmp_path: Path) -> None:
    fields = endoscopic_frames(80, step_px=9)
    source = source_of(write_video(tmp_path / "video.mp4", weave(fields), fps=25, options={"crf": "10", "tff": "1"}))
    assert source.info.interlaced == "tff"
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.arange(40) / 25, atol=1e-4)
    for frame, field, woven in list(zip(frames, fields[::2], weave(fields), strict=True))[5:-5]:
        assert combing(frame.image) < combing(field) + 0.3 * (combing(woven) - combing(field))


def test_progressive_video_is_left_alone(tmp_path: Path) -> None:
    source = source_of(write_video(tmp_path / "video.mp4", endoscopic_frames(70, step_px=9)))
    assert source.info.interlaced is None


def test_truncated_file_gives_what_decodes_and_says_the_loss(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", endoscopic_frames(60))
    streamable = write_fast_start(whole, tmp_path / "fast.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(streamable.read_bytes()[: streamable.stat().st_size // 2])
    source = source_of(cut)
    frames = list(source.frames())
    assert 10 < len(frames) < 50
    assert "of 60 frames cannot be decoded" in source.losses()[0]


def test_truncated_stream_without_an_index_gives_what_decodes(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", endoscopic_frames(60))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 10 < len(list(source_of(cut).frames())) < 50


def test_frames_that_do_not_decode_do_not_shift_those_after_them(tmp_path: Path) -> None:
    images = endoscopic_frames(60)
    path = write_video(tmp_path / "video.mp4", images, options={"crf": "12", "g": "10", "bf": "0"})
    _blank_packets(path, range(21, 24))
    source = source_of(path)
    frames = list(source.frames())
    assert 50 <= len(frames) <= 60
    for frame in frames:
        assert frame.index == round(frame.timestamp_s * 30)
    assert {frame.index for frame in frames if frame.damaged} | (
        set(range(60)) - {frame.index for frame in frames}
    ) == set(range(21, 30))
    assert "cannot be decoded" in source.losses()[0]
    assert cv2.norm(frames[-1].image, images[59], cv2.NORM_L1) / images[59].size < 4


def test_keyframe_samples_of_a_long_video_are_spread(tmp_path: Path) -> None:
    scene = endoscopic_frames(40)
    path = write_video(tmp_path / "long.mp4", (scene[i % 40] for i in range(1200)), options={"crf": "30", "g": "20"})
    samples = list(source_of(path).sample(50))
    assert 40 <= len(samples) <= 60
    assert samples[0].index == 0
    assert samples[-1].index >= 1100


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"these are words, not pictures\n" * 200, "not a video"),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LumenError, match=message):
        source_of(tmp_path / name)


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(LumenError, match="no video stream"):
        source_of(path)


def test_folder_and_glob_take_their_numbers_from_the_names(tmp_path: Path) -> None:
    images = endoscopic_frames(4)
    for number, image in zip((2603, 2604, 2606, 10000), images, strict=True):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "notes.txt").write_text("not an image")
    for path in (tmp_path, tmp_path / "*.png"):
        frames = list(source_of(path).frames())
        assert [frame.index for frame in frames] == [2603, 2604, 2606, 10000]
        assert frames[0].timestamp_s == pytest.approx(2603 / 30)
        np.testing.assert_array_equal(frames[3].image, images[3])


def test_images_without_numbers_go_by_name(tmp_path: Path) -> None:
    for name, image in zip(("c", "a", "b"), endoscopic_frames(3), strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    frames = list(source_of(tmp_path).frames())
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_unreadable_image_is_named_and_others_of_another_size_refused(tmp_path: Path) -> None:
    for number, image in enumerate(endoscopic_frames(3)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "1.png").write_bytes(b"broken")
    source = source_of(tmp_path)
    assert [frame.index for frame in source.frames()] == [0, 2]
    assert "1.png" in source.losses()[0]
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(LumenError, match="3.png is 12x10"):
        list(source_of(tmp_path).frames())


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="holds no images"):
        source_of(tmp_path)
    with pytest.raises(LumenError, match="matches no file"):
        source_of(tmp_path / "*.jpg")


def combing(image: Image) -> float:
    """How much neighbouring rows differ beyond rows two apart."""
    rows = image.astype(np.float32)
    return float(np.abs(rows[1:] - rows[:-1]).mean() - 0.5 * np.abs(rows[2:] - rows[:-2]).mean())


def write_fast_start(path: Path, target: Path) -> Path:
    """Copy into an mp4 whose index comes first, so that a cut-off file can still be opened."""
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    return target


def _blank_packets(path: Path, numbers: range) -> None:
    """Overwrite the bytes of some packets, as a bad sector does."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for number, packet in enumerate(packets) if number in numbers]
    data = bytearray(path.read_bytes())
    for place, size in places:
        data[place : place + size] = bytes(size)
    path.write_bytes(data)


def _set_rotation(path: Path, target: Path) -> None:
    """Put a display matrix of 90 degrees counter-clockwise into an mp4's track header."""
    data = path.read_bytes()
    identity = b"".join(value.to_bytes(4, "big", signed=True) for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    turned = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30))
    header = data.index(b"tkhd")
    place = data.index(identity, header)
    target.write_bytes(data[:place] + turned + data[place + len(identity) :])
