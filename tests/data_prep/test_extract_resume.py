"""Killed, interrupted, repeated and concurrent extractions."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest

from extraction import EXTRACT, digests, extract, only_sequence, run_command
from pipeline.data.images import write_image
from pipeline.errors import LumenError
from pipeline.outputs.files import partial_path, write_bytes
from pipeline.outputs.folders import work_folder
from pipeline.outputs.owned_files import OutputRecord, recording
from pipeline.paths import RunPaths
from videos import endoscopic_frames, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "case.mp4", endoscopic_frames(40))


def test_existing_output_needs_overwrite_and_foreign_folders_are_never_replaced(video: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    extract(video, output)
    before = digests(output)
    with pytest.raises(LumenError, match="--overwrite"):
        extract(video, output)
    assert digests(output) == before
    extract(video, output, overwrite=True, stride=2)
    assert len(only_sequence(RunPaths(output))[1].frames) == 20
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    with pytest.raises(LumenError, match="has no record of"):
        extract(video, foreign, overwrite=True)
    assert (foreign / "chapter.tex").exists()


def test_output_of_another_video_suggests_another_folder(video: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_video(tmp_path / "other" / video.name, endoscopic_frames(20, seed=4))
    extract(video, tmp_path / "out", record_path=True)
    before = digests(tmp_path / "out")
    with pytest.raises(LumenError, match=f"another video .{video}.: choose another folder with --output"):
        extract(other, tmp_path / "out")
    assert digests(tmp_path / "out") == before
    with pytest.raises(LumenError, match="already exists: pass --overwrite"):
        extract(video, tmp_path / "out", stride=2)
    extract(other, tmp_path / "out", overwrite=True)
    assert len(only_sequence(RunPaths(tmp_path / "out"))[1].frames) == 20


def test_killed_and_repeated_run_gives_the_same_bytes(tmp_path: Path) -> None:
    frames = [cv2.resize(frame, (640, 480)) for frame in endoscopic_frames(50)]
    video = write_video(tmp_path / "case.mp4", frames)
    arguments = [video.name, "--output", "out"]
    started = time.monotonic()
    assert run_command(*arguments, folder=tmp_path).returncode == 0
    duration_s = time.monotonic() - started
    undisturbed = digests(tmp_path / "out")
    assert len(undisturbed) > 100
    for share in (0.5, 0.7, 0.8, 0.9, 0.97):
        subprocess.run(["rm", "-rf", str(tmp_path / "out")], check=True)
        child = subprocess.Popen(
            [sys.executable, str(EXTRACT), *arguments],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(share * duration_s)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (tmp_path / "out").exists():
            assert digests(tmp_path / "out") == undisturbed
            continue
        result = run_command(*arguments, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert digests(tmp_path / "out") == undisturbed


def test_interrupted_run_resumes(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write_a_few(path: Path, image: Any, options: list[int]) -> None:
        if len(written) == 21:
            raise KeyboardInterrupt
        write_image(path, image, options)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.selection.writer.write_image", write_a_few)
        with pytest.raises(KeyboardInterrupt):
            extract(video, tmp_path / "out")
    assert partial_path(tmp_path / "out").exists()
    modified = {path: path.stat().st_mtime_ns for path in written}
    run_paths = extract(video, tmp_path / "out")
    for path, time_ns in modified.items():
        final = run_paths.root / path.relative_to(partial_path(run_paths.root))
        assert final.stat().st_mtime_ns == time_ns


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def interrupted_before_the_end(video: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> RunPaths:
    """The work folder of a run with every frame written, but without the contact sheet."""
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.extract.draw_contact_sheet", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(video, output, **settings)
    return RunPaths(partial_path(output))


def test_resumed_run_does_not_repeat_the_survey(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_before_the_end(video, tmp_path / "out", monkeypatch)
    monkeypatch.setattr("data_prep.extract.survey_video", interrupt)
    run_paths = extract(video, tmp_path / "out", jpeg_quality=40)
    assert only_sequence(run_paths)[0].image(0).stat().st_size < 20_000


def test_resumed_run_detects_an_edited_calibration(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = tmp_path / "fisheye.txt"
    calibration.write_text("170 171 160.5 119.5 -0.02 0.01 0 0\n")
    work = interrupted_before_the_end(video, tmp_path / "out", monkeypatch, calibration=calibration)
    (before,) = (path / "images" / "00000005.jpg" for path in work.segments())
    old = before.read_bytes()
    calibration.write_text("120 121 160.5 119.5 -0.05 0.01 0 0\n")
    paths, _ = only_sequence(extract(video, tmp_path / "out", calibration=calibration))
    assert paths.image(5).read_bytes() != old


def test_two_concurrent_runs_cannot_write_the_same_output(video: Path, tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", "extract.py"):
        result = run_command(video, "--output", "out", folder=tmp_path)
    assert result.returncode == 1
    assert "another process" in result.stderr
    extract(video, tmp_path / "out")


def test_user_file_in_the_output_stays(video: Path, tmp_path: Path) -> None:
    extract(video, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    extract(video, tmp_path / "out", overwrite=True, stride=2)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert len(only_sequence(RunPaths(tmp_path / "out"))[1].frames) == 20


def test_other_settings_do_not_resume_an_interrupted_run(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_before_the_end(video, tmp_path / "out", monkeypatch)
    _, sequence = only_sequence(extract(video, tmp_path / "out", stride=4))
    assert [frame.index for frame in sequence.frames] == list(range(0, 40, 4))
    assert len(list(only_sequence(RunPaths(tmp_path / "out"))[0].images.iterdir())) == 10


def test_work_folder_of_another_format_is_cleared(video: Path, tmp_path: Path) -> None:
    work = partial_path(tmp_path / "out")
    work.mkdir()
    with recording(OutputRecord.create(work, "extract.py")):
        write_bytes(work / "manifest.json", b'{"format_version": 99}')
        write_bytes(work / "leftover", b"old")
    run_paths = extract(video, tmp_path / "out")
    assert not (run_paths.root / "leftover").exists()
    assert len(only_sequence(run_paths)[1].frames) == 40
