"""Reliable decoding: indices, timestamps, rotation, interlacing, losses."""

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from cv2.typing import MatLike as Image

from data_prep.video.frame_source import open_source
from data_prep.video.image_source import list_images
from data_prep.video.source_frame import FrameSource
from pipeline.errors import LumenError
from videos import endoscopic_frames, weave, write_video


def source_of(path: Path) -> FrameSource:
    return open_source(path, image_fps=30)


def test_every_frame_has_its_index_timestamp_and_image(tmp_path: Path) -> None:
    images = endoscopic_frames(50)
    source = source_of(write_video(tmp_path / "video.mp4", images, options={"crf": "10", "bf": "3"}))
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(50))
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.arange(50) / 30, atol=1e-4)
    for frame in frames:
        errors = [cv2.norm(frame.image, image, cv2.NORM_L1) for image in images]
        assert int(np.argmin(errors)) == frame.index
    assert source.losses() == []


def test_reading_twice_gives_the_same_frames(tmp_path: Path) -> None:
    source = source_of(write_video(tmp_path / "video.mp4", endoscopic_frames(20)))
    for first, second in zip(source.frames(), source.frames(), strict=True):
        assert first.timestamp_s == second.timestamp_s
        np.testing.assert_array_equal(first.image, second.image)


def test_variable_frame_rate_keeps_true_timestamps(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "matrix, stored_from_upright",
    [
        (((0, 1), (-1, 0)), lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)),
        (((0, -1), (1, 0)), lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)),
        (((-1, 0), (0, -1)), lambda image: cv2.rotate(image, cv2.ROTATE_180)),
        (((-1, 0), (0, 1)), lambda image: cv2.flip(image, 1)),
        (((1, 0), (0, -1)), lambda image: cv2.flip(image, 0)),
        (((0, 1), (1, 0)), cv2.transpose),
    ],
)
def test_rotated_and_mirrored_video_is_read_upright(tmp_path: Path, matrix: Any, stored_from_upright: Any) -> None:
    """`matrix` maps x, y of the stored image to x, y of the upright image, both relative to the centre."""
    upright = endoscopic_frames(3, mask=np.full((240, 320), 255, np.uint8))
    rotated = write_video(tmp_path / "rotated.mp4", map(stored_from_upright, upright))
    _set_display_matrix(rotated, matrix)
    source = source_of(rotated)
    assert source.info.orientation == matrix
    assert (source.info.width, source.info.height) == (320, 240)
    for frame, image in zip(source.frames(), upright, strict=True):
        assert cv2.norm(frame.image, image, cv2.NORM_L1) / image.size < 6


def test_video_rotated_by_an_odd_angle_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "oblique.mp4", endoscopic_frames(3))
    _set_display_matrix(path, ((0.7071, 0.7071), (-0.7071, 0.7071)))
    with pytest.raises(LumenError, match="neither a quarter turn nor mirroring"):
        source_of(path)


def test_timestamps_in_decoding_order_are_ignored(tmp_path: Path) -> None:
    """H.264 with B-frames in AVI."""
    images = endoscopic_frames(40)
    path = write_video(tmp_path / "video.avi", images, options={"crf": "10", "bf": "3"})
    frames = list(source_of(path).frames())
    assert [frame.index for frame in frames] == list(range(len(frames)))
    np.testing.assert_allclose(np.diff([frame.timestamp_s for frame in frames]), 1 / 30, atol=1e-3)
    matches = [int(np.argmin([cv2.norm(f.image, image, cv2.NORM_L1) for image in images])) for f in frames]
    assert matches == sorted(matches) and len(set(matches)) == len(matches)


def test_concatenated_files_have_ascending_timestamps(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{i}.ts", endoscopic_frames(30, seed=i)).read_bytes() for i in range(2)]
    concatenated = tmp_path / "concatenated.ts"
    concatenated.write_bytes(b"".join(parts))
    source = source_of(concatenated)
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert len(frames) >= 58
    assert all(np.diff([frame.timestamp_s for frame in frames]) > 0)
    assert "timestamps go back" in source.info.warnings[0]


def test_changing_frame_size_is_refused(tmp_path: Path) -> None:
    small = endoscopic_frames(20)
    large = [cv2.resize(image, (480, 360)) for image in small]
    parts = [write_video(tmp_path / f"{i}.ts", images).read_bytes() for i, images in enumerate((small, large))]
    concatenated = tmp_path / "concatenated.ts"
    concatenated.write_bytes(b"".join(parts))
    with pytest.raises(LumenError, match="changes from 320x240 to 480x360"):
        list(source_of(concatenated).frames())


def test_trimmed_video_has_no_losses(tmp_path: Path) -> None:
    """An edit list hides the first frames; the container still counts them."""
    path = write_video(tmp_path / "trimmed.mp4", endoscopic_frames(60), times=list(range(-15, 45)))
    source = source_of(path)
    frames = list(source.frames())
    assert 40 <= len(frames) <= 60
    assert source.losses() == []


def test_stream_without_timestamps_or_index_is_sampled_sparsely(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw.h264", endoscopic_frames(300), options={"crf": "30"})
    assert len(list(source_of(path).sample(50))) <= 100


def test_small_frames_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "tiny.mp4", [np.zeros((32, 48, 3), np.uint8)] * 3)
    with pytest.raises(LumenError, match="48x32 are too small"):
        source_of(path)


def test_interlaced_video_is_detected_and_deinterlaced(tmp_path: Path) -> None:
    fields = endoscopic_frames(80, step_px=9)
    source = source_of(write_video(tmp_path / "video.mp4", weave(fields), fps=25, options={"crf": "10", "tff": "1"}))
    assert source.info.interlaced == "tff"
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.arange(40) / 25, atol=1e-4)
    for frame, field, woven in list(zip(frames, fields[::2], weave(fields), strict=True))[5:-5]:
        assert combing(frame.image) < combing(field) + 0.3 * (combing(woven) - combing(field))


def test_bottom_field_first_is_distinguished_from_top_field_first(tmp_path: Path) -> None:
    fields = endoscopic_frames(160, step_px=9)
    woven = weave([field for pair in zip(fields[1::2], fields[::2], strict=True) for field in pair])
    source = source_of(write_video(tmp_path / "video.mp4", woven, fps=25, options={"crf": "10"}))
    assert source.info.interlaced == "bff"


def test_progressive_video_is_not_deinterlaced(tmp_path: Path) -> None:
    source = source_of(write_video(tmp_path / "video.mp4", endoscopic_frames(70, step_px=9)))
    assert source.info.interlaced is None


def test_truncated_file_gives_decodable_frames_and_reports_the_loss(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", endoscopic_frames(60))
    streamable = write_fast_start(whole, tmp_path / "fast.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(streamable.read_bytes()[: streamable.stat().st_size // 2])
    source = source_of(cut)
    frames = list(source.frames())
    assert 10 < len(frames) < 50
    assert "of 60 frames cannot be decoded" in source.losses()[0]


def test_truncated_stream_without_an_index_gives_decodable_frames(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", endoscopic_frames(60))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    source = source_of(cut)
    assert 10 < len(list(source.frames())) < 50
    assert "truncated" in source.losses()[0]


def test_undecodable_frames_do_not_shift_later_frames(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("blanked", [range(3, 18), range(1, 31, 2)])
def test_damage_near_the_start_does_not_shift_frames(tmp_path: Path, blanked: range) -> None:
    path = write_video(tmp_path / "video.mp4", endoscopic_frames(60), options={"crf": "12", "g": "10", "bf": "0"})
    _blank_packets(path, blanked)
    frames = list(source_of(path).frames())
    assert [frame.index for frame in frames] == [round(frame.timestamp_s * 30) for frame in frames]
    assert all(frame.damaged for frame in frames if frame.index in blanked)


def test_keyframe_samples_are_spread_over_a_long_video(tmp_path: Path) -> None:
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
        ("text.mp4", b"these are words, not images\n" * 200, "cannot be read as a video"),
    ],
)
def test_other_files_are_refused_as_video(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
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


def test_folder_and_glob_read_frame_numbers_from_names(tmp_path: Path) -> None:
    images = endoscopic_frames(4)
    for number, image in zip((2603, 2604, 2606, 10000), images, strict=True):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "notes.txt").write_text("not an image")
    for path in (tmp_path, tmp_path / "*.png"):
        frames = list(source_of(path).frames())
        assert [frame.index for frame in frames] == [2603, 2604, 2606, 10000]
        assert frames[0].timestamp_s == pytest.approx(2603 / 30)
        np.testing.assert_array_equal(frames[3].image, images[3])


def test_varying_number_is_the_index_and_names_sort_numerically(tmp_path: Path) -> None:
    image = endoscopic_frames(1)[0]
    for number in (0, 1, 9, 10, 11):
        cv2.imwrite(str(tmp_path / f"frame{number}_640x480.png"), image)
    assert [frame.index for frame in source_of(tmp_path).frames()] == [0, 1, 9, 10, 11]
    (tmp_path / "frame11_640x480.png").rename(tmp_path / "last.png")
    assert [path.name for path in list_images(tmp_path)][:4] == [f"frame{i}_640x480.png" for i in (0, 1, 9, 10)]
    assert [frame.index for frame in source_of(tmp_path).frames()] == [0, 1, 2, 3, 4]


def test_glob_over_folders(tmp_path: Path) -> None:
    for number, image in enumerate(endoscopic_frames(4)):
        folder = tmp_path / f"part{number // 2}"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    source = source_of(tmp_path / "part*" / "*.png")
    assert [frame.index for frame in source.frames()] == [0, 1, 2, 3]
    assert len(source.fingerprint()) == 64


def test_images_without_numbers_are_sorted_by_name(tmp_path: Path) -> None:
    for name, image in zip(("c", "a", "b"), endoscopic_frames(3), strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    frames = list(source_of(tmp_path).frames())
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_unreadable_image_is_reported_and_another_size_is_refused(tmp_path: Path) -> None:
    for number, image in enumerate(endoscopic_frames(3)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "1.png").write_bytes(b"broken")
    source = source_of(tmp_path)
    assert [frame.index for frame in source.frames()] == [0, 2]
    assert source.losses() == ["1 of 3 images cannot be read"]
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(LumenError, match="3.png is 12x10"):
        list(source_of(tmp_path).frames())


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="holds no images"):
        source_of(tmp_path)
    with pytest.raises(LumenError, match="matches no file"):
        source_of(tmp_path / "*.jpg")


def write_c3vd(folder: Path, count: int) -> list[Image]:
    """A sequence in C3VD's layout: colour, and 16-bit measurements in TIFF."""
    images = endoscopic_frames(count)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i}_color.png"), image)
        cv2.imwrite(str(folder / f"{i:04d}_depth.tiff"), image[:, :, 2].astype(np.uint16) * 200)
        cv2.imwrite(str(folder / f"{i:04d}_normals.tiff"), image.astype(np.uint16) * 200)
        cv2.imwrite(str(folder / f"{i:04d}_occlusion.png"), image[:, :, 0])
    (folder / "pose.txt").write_text("1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1\n" * count)
    return images


def test_colour_images_of_c3vd_are_chosen(tmp_path: Path) -> None:
    images = write_c3vd(tmp_path, 11)
    for path in (tmp_path, tmp_path / "*", tmp_path / "*.png"):
        source = source_of(path)
        frames = list(source.frames())
        assert [frame.index for frame in frames] == list(range(11))
        assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images, strict=True))
        assert "using color (11), ignoring" in source.info.warnings[0]
    with pytest.raises(LumenError, match="--image_kind"):
        source_of(tmp_path / "*.tiff")


@pytest.mark.parametrize(
    "name, dtype",
    [("{:04d}_depth.tiff", np.uint16), ("{:04d}.png", np.uint16), ("frame{}.tif", np.uint16), ("{}.tiff", np.float32)],
)
def test_depth_maps_are_refused(tmp_path: Path, name: str, dtype: type) -> None:
    for i, image in enumerate(endoscopic_frames(3)):
        cv2.imwrite(str(tmp_path / name.format(i)), image[:, :, 1].astype(dtype) * 100)
    kind = "depth" if "depth" in name else None
    with pytest.raises(LumenError, match=f"{np.dtype(dtype)} grey values"):
        open_source(tmp_path, 30, kind)


def test_depth_map_among_frames_is_refused(tmp_path: Path) -> None:
    images = endoscopic_frames(3)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image if i < 2 else image[:, :, 0].astype(np.uint16) * 100)
    with pytest.raises(LumenError, match="2.png: uint16"):
        list(source_of(tmp_path).frames())


def test_16_bit_colour_and_8_bit_grey_images_are_frames(tmp_path: Path) -> None:
    image = endoscopic_frames(1)[0]
    cv2.imwrite(str(tmp_path / "0.png"), image)
    cv2.imwrite(str(tmp_path / "1.png"), image.astype(np.uint16) * 256 + 255)
    cv2.imwrite(str(tmp_path / "2.tif"), image.astype(np.uint16) * 256 + 255)
    cv2.imwrite(str(tmp_path / "3.png"), image[:, :, 1])
    frames = [frame.image for frame in source_of(tmp_path).frames()]
    assert all(frame.dtype == np.uint8 and frame.shape == image.shape for frame in frames)
    assert all(np.array_equal(frame, image) for frame in frames[:3])
    assert all(np.array_equal(frames[3][:, :, channel], image[:, :, 1]) for channel in range(3))


def test_left_and_right_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    images = endoscopic_frames(6)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{('left', 'right')[i % 2]}_{i // 2}.png"), image)
    with pytest.raises(LumenError, match=r"left \(3\), right \(3\)"):
        source_of(tmp_path)
    frames = open_source(tmp_path, 30, "right").frames()
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images[1::2], strict=True))


def test_timestamps_in_names_are_used(tmp_path: Path) -> None:
    images = endoscopic_frames(4)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{1403636579763555584 + i * 10**8}.png"), image)
    source = source_of(tmp_path)
    assert [frame.index for frame in source.frames()] == [0, 1, 2, 3]
    assert [frame.timestamp_s for frame in source.frames()] == pytest.approx(
        [1403636579.763556 + i / 10 for i in range(4)], abs=1e-6
    )
    assert source.info.fps == pytest.approx(10)
    assert "nanoseconds" in source.info.warnings[-1]
    counted = open_source(tmp_path, 30, image_numbers="frames")
    assert [frame.timestamp_s for frame in counted.frames()] == pytest.approx([i / 30 for i in range(4)])


def test_other_files_are_skipped(tmp_path: Path) -> None:
    for i, image in enumerate(endoscopic_frames(3)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    for name in ("Thumbs.db", ".DS_Store", "._1.png", "pose.txt"):
        (tmp_path / name).write_bytes(b"no image")
    for path in (tmp_path, tmp_path / "*"):
        source = source_of(path)
        assert [frame.index for frame in source.frames()] == [0, 1, 2] and source.losses() == []


def test_image_options_are_refused_for_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", endoscopic_frames(2))
    with pytest.raises(LumenError, match="--image_kind needs a folder of images"):
        open_source(path, 30, "color")
    with pytest.raises(LumenError, match="--image_numbers needs a folder of images"):
        open_source(path, 30, image_numbers="ms")


def test_folder_with_only_a_mask_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "undistorted_mask.bmp"), np.full((80, 80), 255, np.uint8))
    with pytest.raises(LumenError, match="no images except undistorted_mask.bmp"):
        source_of(tmp_path)


def combing(image: Image) -> float:
    """Difference between neighbouring rows in excess of rows two apart."""
    rows = image.astype(np.float32)
    return float(np.abs(rows[1:] - rows[:-1]).mean() - 0.5 * np.abs(rows[2:] - rows[:-2]).mean())


def write_fast_start(path: Path, target: Path) -> Path:
    """Copy into an mp4 with the index first, so that a truncated file can still be opened."""
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    return target


def _blank_packets(path: Path, numbers: range) -> None:
    """Overwrite the bytes of some packets, like a bad sector."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for number, packet in enumerate(packets) if number in numbers]
    data = bytearray(path.read_bytes())
    for place, size in places:
        data[place : place + size] = bytes(size)
    path.write_bytes(data)


def _set_display_matrix(path: Path, matrix: Any) -> None:
    """Write a display matrix to an mp4's track header; rows and columns as in `SourceInfo.orientation`."""
    data = path.read_bytes()
    (a, c), (b, d) = matrix
    fixed = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    upright = [65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
    old, new = (b"".join(value.to_bytes(4, "big", signed=True) for value in values) for values in (upright, fixed))
    place = data.index(old, data.index(b"tkhd"))
    path.write_bytes(data[:place] + new + data[place + len(old) :])
