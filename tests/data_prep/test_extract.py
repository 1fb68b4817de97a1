"""Extraction of sequences from synthetic videos: outputs and errors."""

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_prep.extract import ExtractConfig, run
from extraction import digests, extract, only_sequence, run_command
from pipeline.command.config import configure
from pipeline.data.sequence import Sequence
from pipeline.errors import LumenError
from pipeline.outputs.files import partial_path
from pipeline.paths import RunPaths
from videos import SIZE, disc_mask, endoscopic_frames, overlap, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "case.mp4", endoscopic_frames(40))


@pytest.fixture(scope="module")
def extracted(video: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return extract(video, tmp_path_factory.mktemp("extracted") / "case")


def test_sequence_has_frames_masks_and_metadata(extracted: RunPaths, video: Path) -> None:
    paths, sequence = only_sequence(extracted)
    assert paths.root.name == "_start_000000_end_000040_stride_1_segment_00"
    assert [frame.index for frame in sequence.frames] == list(range(40))
    np.testing.assert_allclose([f.timestamp_s for f in sequence.frames], np.arange(40) / 30, atol=1e-4)
    assert sequence.calibration.state == "uncalibrated"
    assert sequence.source.sha256 == hashlib.sha256(video.read_bytes()).hexdigest()
    assert sequence.source.path is None
    assert sequence.source.frames_read == 40
    assert sorted(path.name for path in paths.images.iterdir()) == [f"{i:08d}.jpg" for i in range(40)]
    assert sorted(path.name for path in paths.frame_masks.iterdir()) == [f"{i:08d}.jpg.png" for i in range(40)]
    assert extracted.contact_sheet.exists()
    assert extracted.report("extract").exists()
    assert not partial_path(extracted.root).exists()


def test_mask_is_the_eroded_content_area(extracted: RunPaths) -> None:
    paths, sequence = only_sequence(extracted)
    mask = cv2.imread(str(paths.mask), cv2.IMREAD_UNCHANGED)
    assert mask is not None and mask.dtype == np.uint8 and mask.ndim == 2
    assert set(np.unique(mask)) == {0, 255}
    assert overlap(mask, disc_mask()) >= 0.97
    recorded = cv2.imread(str(extracted.content_area), cv2.IMREAD_GRAYSCALE)
    assert (mask == recorded).all() and sequence.content_area.margin_px == 1
    left, top, right, bottom = sequence.content_area.box
    assert mask[top:bottom, left:right].sum() == mask.sum()


def test_pixels_outside_the_mask_are_black_and_metadata_is_removed(tmp_path: Path) -> None:
    frames = [cv2.putText(f, "DOE, JANE", (2, 12), 0, 0.4, (255.0, 255.0, 255.0), 1) for f in endoscopic_frames(20)]
    run_paths = extract(write_video(tmp_path / "case.mp4", frames), tmp_path / "out")
    paths, _ = only_sequence(run_paths)
    mask = cv2.imread(str(paths.mask), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    # JPEG's 16-pixel blocks show faint ringing of the content beyond its edge.
    far_outside = cv2.dilate(mask, np.ones((33, 33), np.uint8)) == 0
    for image_path in paths.images.iterdir():
        image = cv2.imread(str(image_path))
        assert image is not None and image[far_outside].max() == 0 and image[mask == 0].mean() < 1
        assert b"Exif" not in image_path.read_bytes()
    sheet = cv2.imread(str(run_paths.contact_sheet))
    assert sheet is not None
    # Only the overlay is white; captions and outlines are coloured or grey.
    tiles = sheet[82 : 82 + 240]
    assert not (tiles.min(axis=2) > 236).any()


def test_written_frames_equal_the_video_frames(extracted: RunPaths) -> None:
    paths, sequence = only_sequence(extracted)
    originals = endoscopic_frames(40)
    mask = cv2.erode(cv2.imread(str(paths.mask), cv2.IMREAD_GRAYSCALE), np.ones((17, 17), np.uint8))
    for frame in sequence.frames:
        image = cv2.imread(str(paths.image(frame.index)))
        errors = [cv2.norm(image, original, cv2.NORM_L1, mask) for original in originals]
        assert int(np.argmin(errors)) == frame.index


def test_frame_masks_exclude_highlights(tmp_path: Path) -> None:
    frames = [
        cv2.circle(f, (150 + i % 7, 110), 6, (250.0, 252.0, 255.0), -1) for i, f in enumerate(endoscopic_frames(20))
    ]
    paths, sequence = only_sequence(extract(write_video(tmp_path / "case.mp4", frames), tmp_path / "out"))
    mask = cv2.imread(str(paths.mask), cv2.IMREAD_GRAYSCALE)
    for frame in sequence.frames:
        usable = cv2.imread(str(paths.frame_mask(frame.index)), cv2.IMREAD_UNCHANGED)
        assert usable is not None and usable[110, 150 + frame.index % 7] == 0
        assert ((usable == 0) | (mask == 255)).all()
        assert frame.highlights > 0


def test_rejected_frames_have_explained_reasons(tmp_path: Path) -> None:
    frames = endoscopic_frames(40)
    frames[10] = cv2.GaussianBlur(frames[10], (0, 0), 1)
    frames[20] = frames[19]
    frames[30] = np.zeros_like(frames[30])
    run_paths = extract(write_video(tmp_path / "case.mp4", frames, options={"crf": "8"}), tmp_path / "out")
    paths, sequence = only_sequence(run_paths)
    assert {frame.index: frame.reason for frame in sequence.rejected} == {10: "blurred", 20: "duplicate", 30: "dark"}
    assert set(sequence.choice.reasons) == {"blurred", "duplicate", "dark"}
    assert sequence.choice.rules["min_sharpness"] == 0.45
    assert not paths.image(20).exists()


def test_keep_all_keeps_bad_frames_with_flags(tmp_path: Path) -> None:
    frames = endoscopic_frames(30)
    frames[20] = frames[19]
    video = write_video(tmp_path / "case.mp4", frames, options={"crf": "8"})
    _, sequence = only_sequence(extract(video, tmp_path / "out", keep_all=True))
    assert len(sequence.frames) == 30
    assert {frame.index: frame.flags for frame in sequence.frames if frame.flags} == {20: ["duplicate"]}


def test_cut_makes_two_sequences(tmp_path: Path) -> None:
    frames = [*endoscopic_frames(23), *endoscopic_frames(20, seed=4)]
    run_paths = extract(write_video(tmp_path / "case.mp4", frames), tmp_path / "out")
    names = [paths.root.name for paths in run_paths.sequences()]
    assert names == ["_start_000000_end_000023_stride_1_segment_00", "_start_000023_end_000043_stride_1_segment_01"]
    second = Sequence.load(run_paths.sequences()[1].sequence)
    assert second.choice.begins_because == "hard cut before frame 23"


def test_range_stride_and_max_frames(video: Path, tmp_path: Path) -> None:
    _, sequence = only_sequence(extract(video, tmp_path / "out", start=0.2, end=1.0, stride=3))
    assert [frame.index for frame in sequence.frames] == [6, 9, 12, 15, 18, 21, 24, 27]
    _, sequence = only_sequence(extract(video, tmp_path / "out", max_frames=7, overwrite=True))
    assert len(sequence.frames) == 7
    _, sequence = only_sequence(extract(video, tmp_path / "out", fps=10.0, overwrite=True))
    assert [frame.index for frame in sequence.frames] == list(range(0, 40, 3))
    with pytest.raises(LumenError, match="no frame is 99 s or more"):
        extract(video, tmp_path / "late", start=99.0)


def test_folder_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(endoscopic_frames(12)):
        cv2.imwrite(str(folder / f"{i + 2603:08d}.png"), frame)
    paths, sequence = only_sequence(extract(folder, tmp_path / "out"))
    assert paths.root.name == "_start_002603_end_002615_stride_1_segment_00"
    assert sequence.source.kind == "images"
    assert sequence.frames[0].timestamp_s == pytest.approx(2603 / 30, abs=1e-6)


def test_calibrated_frames_are_undistorted(video: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "fisheye.txt"
    calibration.write_text("170 171 160.5 119.5 -0.02 0.01 0 0\n")
    paths, sequence = only_sequence(extract(video, tmp_path / "out", calibration=calibration))
    assert sequence.calibration.state == "undistorted"
    assert sequence.calibration.model == "OPENCV_FISHEYE"
    assert sequence.calibration.pinhole is not None and len(sequence.calibration.pinhole) == 4
    assert sequence.calibration.content_kept == 1.0
    image = cv2.imread(str(paths.image(0)))
    assert image is not None and image.shape[1::-1] == SIZE


def test_video_path_is_recorded_only_on_request(video: Path, tmp_path: Path) -> None:
    named = tmp_path / "DOE_JANE.mp4"
    named.write_bytes(video.read_bytes())
    calibration = tmp_path / "DOE_JANE.txt"
    calibration.write_text("170 171 160.5 119.5 -0.02 0.01 0 0\n")
    run_paths = extract(named, tmp_path / "out", calibration=calibration)
    for path in run_paths.root.rglob("*"):
        assert "DOE" not in path.name
        assert path.is_dir() or b"DOE_JANE" not in path.read_bytes(), path
    run_paths = extract(named, tmp_path / "asked", calibration=calibration, record_path=True)
    _, sequence = only_sequence(run_paths)
    assert (sequence.source.path, sequence.calibration.file) == (str(named), "DOE_JANE.txt")
    assert str(calibration) in run_paths.config("extract").read_text()


def test_default_output_is_named_after_the_video(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(configure(ExtractConfig, video=video))
    assert only_sequence(RunPaths(tmp_path / "sequences" / video.stem))[1].source.path is None


def test_saved_settings_reproduce_a_calibrated_run_from_any_folder(video: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "fisheye.txt"
    calibration.write_text("170 171 160.5 119.5 -0.02 0.01 0 0\n")
    recorded = ("--calibration", calibration.name, "--record_path")
    first = run_command(video, "--output", "out", *recorded, "--stride", 4, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    saved = RunPaths(tmp_path / "out").config("extract")
    again = run_command(video, "--output", "out", "--config", saved, folder=elsewhere)
    assert again.returncode == 0, again.stderr
    assert digests(elsewhere / "out") == digests(tmp_path / "out")


def test_settings_without_the_calibration_path_require_one(video: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "fisheye.txt"
    calibration.write_text("170 171 160.5 119.5 -0.02 0.01 0 0\n")
    arguments: list[object] = [video, "--output", "out", "--calibration", calibration]
    first = run_command(*arguments, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    saved = RunPaths(tmp_path / "out").config("extract")
    again: list[object] = [video, "--output", "again", "--config", saved]
    refused = run_command(*again, folder=tmp_path)
    assert refused.returncode == 1 and "give it with --calibration" in refused.stderr, refused.stderr
    assert not (tmp_path / "again").exists()
    done = run_command(*again, "--calibration", calibration, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "again") == digests(tmp_path / "out")
    without = run_command(*again, "--no_needs_calibration", "--overwrite", folder=tmp_path)
    assert without.returncode == 0, without.stderr
    assert only_sequence(RunPaths(tmp_path / "again"))[1].calibration.state == "uncalibrated"


def test_options_take_effect(video: Path, tmp_path: Path) -> None:
    coarse, fine = (extract(video, tmp_path / f"q{q}", jpeg_quality=q, max_frames=5) for q in (30, 98))
    sizes = [only_sequence(run_paths)[0].image(0).stat().st_size for run_paths in (coarse, fine)]
    assert sizes[0] < 0.5 * sizes[1]
    none, wide = (extract(video, tmp_path / f"m{m}", mask_margin_px=m, max_frames=5) for m in (0, 20))
    masks = [cv2.imread(str(only_sequence(run_paths)[0].mask), cv2.IMREAD_GRAYSCALE) for run_paths in (none, wide)]
    radii = [np.sqrt((mask > 0).sum() / np.pi) for mask in masks if mask is not None]
    assert radii[0] - radii[1] == pytest.approx(20, abs=1.5)
    strict = extract(video, tmp_path / "strict", min_sharpness=1.0)
    assert "blurred" in {frame.reason for frame in only_sequence(strict)[1].rejected}
    calibration = tmp_path / "fisheye.txt"
    calibration.write_text("90 90 160.5 119.5 -0.02 0.01 0 0\n")
    narrow = extract(video, tmp_path / "narrow", calibration=calibration, max_fov_deg=80.0, max_frames=5)
    facts = only_sequence(narrow)[1].calibration
    assert facts.field_of_view_deg is not None and facts.field_of_view_deg[2] == pytest.approx(80, abs=2)
    assert facts.content_kept is not None and facts.content_kept < 0.9
    with pytest.raises(LumenError, match="margin of 200 px"):
        extract(video, tmp_path / "m200", mask_margin_px=200)


def test_fps_sets_the_stride_in_the_name_and_image_fps_the_timestamps(video: Path, tmp_path: Path) -> None:
    paths, _ = only_sequence(extract(video, tmp_path / "fps", fps=10.0))
    assert "_stride_3_" in paths.root.name
    (tmp_path / "images").mkdir()
    for i, frame in enumerate(endoscopic_frames(8)):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), frame)
    _, sequence = only_sequence(extract(tmp_path / "images" / "*.png", tmp_path / "out", image_fps=10.0))
    assert [frame.timestamp_s for frame in sequence.frames] == [i / 10 for i in range(8)]


@pytest.mark.parametrize(
    "template, message, times_s",
    [
        ("{ns}.png", "nanoseconds", [1403636579.763556 + i / 10 for i in range(8)]),
        ("{seconds}.png", "seconds", [i / 30 for i in range(8)]),
        ("{digits}.png", "relative to the first image", [i / 30 for i in range(8)]),
        ("frame_{i}_color.png", "using color (8), ignoring depth (8)", [i / 30 for i in range(8)]),
    ],
)
def test_image_names_give_order_and_timestamps_and_the_log_reports_assumptions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, template: str, message: str, times_s: list[float]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, frame in enumerate(endoscopic_frames(8)):
        numbers = {"ns": 1403636579763555584 + i * 10**8, "seconds": f"{i / 30:.7g}", "digits": 10**23 + i, "i": i}
        name = template.format(**numbers)
        cv2.imwrite(str(images / name), frame)
        if "color" in name:
            cv2.imwrite(str(images / f"frame_{i:04d}_depth.tiff"), frame[:, :, 0].astype(np.uint16) * 200)
    run_paths = extract(images, tmp_path / "out", keep_all=True, split_at_cuts=False)
    _, sequence = only_sequence(run_paths)
    assert [frame.index for frame in sequence.frames] == list(range(8))
    assert [frame.timestamp_s for frame in sequence.frames] == pytest.approx(times_s, abs=2e-6)
    assert message in caplog.text
    assert any(message in warning for warning in json.loads(run_paths.report("extract").read_text())["warnings"])


def test_command_refuses_ambiguous_image_kinds_and_accepts_the_flag(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, frame in enumerate(endoscopic_frames(8)):
        cv2.imwrite(str(images / f"{('left', 'right')[i % 2]}_{i // 2}.png"), frame)
    refused = run_command(images, "--output", "out", folder=tmp_path)
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1
    assert "left (4), right (4)" in refused.stderr and "--image_kind" in refused.stderr
    done = run_command(images, "--output", "out", "--keep_all", "--image_kind", "left", folder=tmp_path)
    assert done.returncode == 0 and "using left (4), ignoring right (4)" in done.stderr


def test_losses_and_blacked_out_pixels_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_video(tmp_path / "whole.mkv", endoscopic_frames(60))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with caplog.at_level("INFO"):
        run_paths = extract(cut, tmp_path / "out", end=100.0)
    warnings = json.loads(run_paths.report("extract").read_text())["warnings"]
    assert any("truncated" in warning for warning in warnings)
    assert all(warning in caplog.text for warning in warnings)
    assert "pixels outside it are blacked out" in caplog.text
    assert "no metadata of the source is copied" in caplog.text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"stride": 0}, "--stride 0"),
        ({"stride": 2, "fps": 5.0}, "exclude each other"),
        ({"fps": 0.0}, "--fps"),
        ({"max_frames": 0}, "--max_frames"),
        ({"start": 5.0, "end": 5.0}, "--end"),
        ({"jpeg_quality": 101}, "--jpeg_quality"),
        ({"mask_margin_px": -1}, "--mask_margin_px"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LumenError, match=message):
        configure(ExtractConfig, video=Path("case.mp4"), **settings)


def test_bad_input_gives_one_error_line_exit_1_and_no_output(tmp_path: Path) -> None:
    black = write_video(tmp_path / "black.mp4", [np.zeros((240, 320, 3), np.uint8)] * 12)
    single = write_video(tmp_path / "single.mp4", endoscopic_frames(1))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "words.mp4").write_text("words " * 500)
    (tmp_path / "small.txt").write_text("PINHOLE")
    good = write_video(tmp_path / "good.mp4", endoscopic_frames(10))
    (tmp_path / "other_size.yaml").write_text(
        "image_width: 1920\nimage_height: 1080\ncamera_matrix: [[900, 0, 960], [0, 900, 540], [0, 0, 1]]\n"
        "distortion_coefficients: [0.1, 0, 0, 0]\n"
    )
    cases: list[tuple[list[object], str]] = [
        (["missing.mp4"], "missing.mp4"),
        (["empty.mp4"], "is empty"),
        (["words.mp4"], "cannot be read as a video"),
        ([black], "every frame is black"),
        ([single], "only one frame"),
        ([good, "--calibration", "small.txt"], "small.txt"),
        ([good, "--calibration", "other_size.yaml"], "1920x1080"),
        ([good, "--calibration", "missing.yaml"], "missing.yaml"),
        ([good, "--output", "words.mp4/inside"], "words.mp4/inside"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, message in cases:
        if "--output" not in arguments:
            arguments = [*arguments, "--output", "out"]
        result = run_command(*arguments, folder=tmp_path)
        assert result.returncode == 1, result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and message in errors[0], result.stderr
        assert "Traceback" not in result.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_names_with_spaces_and_non_ascii_letters(tmp_path: Path) -> None:
    folder = tmp_path / "Müller, François (1970)"
    folder.mkdir()
    video = write_video(folder / "Darm – Teil 1 内視鏡.mp4", endoscopic_frames(12))
    result = run_command(video.name, folder=folder)
    assert result.returncode == 0, result.stderr
    (paths,) = RunPaths(folder / "sequences" / video.stem).sequences()
    assert len(list(paths.images.iterdir())) == 12
    assert result.stdout.splitlines()[0].endswith(paths.root.name)


def test_zoomed_part_extracted_alone_has_its_own_content_area(tmp_path: Path) -> None:
    small = disc_mask(radius_px=70)
    frames = [*endoscopic_frames(30), *endoscopic_frames(30, seed=3, mask=small)]
    video = write_video(tmp_path / "zoom.mp4", frames)
    whole = extract(video, tmp_path / "whole")
    assert "the content area changes" in whole.report("extract").read_text()
    part = extract(video, tmp_path / "part", start=1.0)
    assert "the content area changes" not in part.report("extract").read_text()
    mask = cv2.imread(str(only_sequence(part)[0].mask), cv2.IMREAD_GRAYSCALE)
    assert mask is not None and overlap(mask, small) >= 0.95


def test_extracted_sequences_are_refused_as_videos(extracted: RunPaths, tmp_path: Path) -> None:
    paths, _ = only_sequence(extracted)
    with pytest.raises(LumenError, match=rf"is already a sequence: .*data_prep/bootstrap.py {paths.root}$"):
        extract(paths.root, tmp_path / "out")
    with pytest.raises(LumenError, match=rf"already holds sequences: .*data_prep/bootstrap.py {paths.root}$"):
        extract(extracted.root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
