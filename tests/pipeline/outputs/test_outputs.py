"""Output folders: which are rejected or replaced, and that files of the user are kept when a command is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from child_process import stop_script_when_ready
from data_prep.video.frame_source import source_places
from pipeline.errors import LumenError
from pipeline.outputs.files import atomic_write, partial_path, write_bytes
from pipeline.outputs.folders import WorkFolder, check_no_overlap, joined_output, output_folder, work_folder
from pipeline.outputs.owned_files import RECORD_NAME, OutputRecord, own_scratch, recording, remove_own


def make(output: Path, content: str, overwrite: bool = False, kind: str = "test.py") -> None:
    """Write an output of three files with the same content, so that a mixture of two versions is detected."""
    with work_folder(output, kind, overwrite=overwrite) as work:
        work.clear()
        for name in ("a", "b", "inner/c"):
            write_bytes(work.path / name, content.encode())
        work.publish()


def contents(output: Path) -> dict[str, str]:
    """The content of each file of an output, without its record."""
    files = (path for path in output.rglob("*") if path.is_file() and path.name != RECORD_NAME)
    return {str(path.relative_to(output)): path.read_text() for path in files}


def made_of(content: str, **more: str) -> dict[str, str]:
    return {"a": content, "b": content, "inner/c": content, **more}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_output_is_replaced_only_with_overwrite_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(LumenError, match="already exists: pass --overwrite"):
        make(tmp_path / "out", "new")
    make(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path / "out") == made_of("new")
    assert names(tmp_path) == {"out"}


def test_files_of_the_user_are_kept_when_an_output_is_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output, "old")
    (output / "notes.txt").write_text("mine")
    (output / "inner" / "deep").mkdir()
    (output / "inner" / "deep" / "x.bin").write_text("mine, too")
    (output / "link").symlink_to(tmp_path)
    make(output, "new", overwrite=True)
    assert (output / "link").is_symlink()
    (output / "link").unlink()
    assert contents(output) == made_of("new", **{"notes.txt": "mine", "inner/deep/x.bin": "mine, too"})
    assert names(tmp_path) == {"out"}


def test_a_file_of_the_user_with_the_name_of_a_new_file_is_an_error(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output, "old")
    with work_folder(output, "test.py", overwrite=True) as work:
        work.clear()
        write_bytes(work.path / "d", b"new")
        (output / "d").write_text("mine")
        with pytest.raises(LumenError, match=r"out/d is in the way and was not written by LumenSfM"):
            work.publish()
    assert contents(output) == made_of("old", d="mine")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_the_user_is_rejected_and_not_changed(tmp_path: Path, overwrite: bool) -> None:
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter.tex").write_text("years of work")
    with pytest.raises(LumenError, match=r"contains files that LumenSfM has no record of, such as chapter\.tex"):
        make(output, "new", overwrite)
    assert names(output) == {"chapter.tex"} and names(tmp_path) == {"thesis"}


def test_an_output_of_another_command_is_rejected(tmp_path: Path) -> None:
    make(tmp_path / "out", "old", kind="extract.py")
    with pytest.raises(LumenError, match="is an output of extract.py"):
        make(tmp_path / "out", "new", overwrite=True)
    with pytest.raises(LumenError, match="is an output of extract.py"), output_folder(tmp_path / "out", "train.py"):
        pass
    assert contents(tmp_path / "out") == made_of("old")


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    (tmp_path / "out" / RECORD_NAME).write_text("{}\n")
    with pytest.raises(LumenError, match=r"\.lumensfm is damaged"):
        make(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path / "out") == made_of("old")


def test_a_file_is_rejected_as_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(LumenError, match="out is a file"):
        make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_is_empty_except_for_desktop_files_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").write_text("desktop")
    make(tmp_path / "out", "new")
    assert contents(tmp_path / "out") == made_of("new", **{".DS_Store": "desktop"})
    assert names(tmp_path) == {"out"}


def test_a_link_to_a_folder_is_written_through(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "out").symlink_to(disk / "run")
    for content in ("old", "new"):
        make(tmp_path / "out", content, overwrite=True)
        assert (tmp_path / "out").is_symlink() and contents(disk / "run") == made_of(content)
    assert names(disk) == {"run"}
    (tmp_path / "place").symlink_to(disk)
    with output_folder(tmp_path / "place" / "run2", "train.py"):
        write_bytes(tmp_path / "place" / "run2" / "x", b"x")
    assert (disk / "run2" / "x").exists()


@pytest.mark.parametrize(
    ("output", "given", "how"),
    [
        ("study", "study/a.mp4", "contains the input"),
        ("study/images", "study/images", "is the input"),
        ("study/images/run", "study/images", "lies inside the input"),
        ("link", "study/images", "is the input"),
        ("link/run", "study/images", "lies inside the input"),
        ("study/images/../images/new/run", "study/images", "lies inside the input"),
    ],
)
def test_an_output_that_overlaps_with_an_input_is_rejected(tmp_path: Path, output: str, given: str, how: str) -> None:
    (tmp_path / "study" / "images").mkdir(parents=True)
    (tmp_path / "study" / "a.mp4").write_text("video")
    (tmp_path / "link").symlink_to(tmp_path / "study" / "images")
    with pytest.raises(LumenError, match=how):
        check_no_overlap(tmp_path / output, [None, tmp_path / given])
    check_no_overlap(tmp_path / "study" / "run", [tmp_path / given])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LumenError, match=how), work_folder(tmp_path / output, "test.py", inputs=[tmp_path / given]):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_files_written_in_place_are_listed_and_files_of_the_user_are_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with output_folder(output, "train.py"):
        write_bytes(output / "a", b"1")
    (output / "mine").write_text("mine")
    with output_folder(output, "train.py") as record:
        write_bytes(output / "a", b"2")
        with pytest.raises(LumenError, match="mine is in the way"):
            write_bytes(output / "mine", b"ours")
        assert record.foreign() == [output / "mine"]
        record.clear()
    assert contents(output) == {"mine": "mine"}


def test_only_the_temporary_files_of_listed_files_are_removed(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with output_folder(output, "train.py") as record:
        with pytest.raises(KeyboardInterrupt), stopped_write(output / "a"):
            raise KeyboardInterrupt
        partial_path(output / "a").write_text("cut off")
        partial_path(output / "b").write_text("mine")
        record.clear()
        assert contents(output) == {".partial.b": "mine"}


@contextmanager
def stopped_write(path: Path) -> Iterator[None]:
    with atomic_write(path) as partial:
        partial.write_text("x")
        yield


def test_in_a_scratch_folder_only_files_with_listed_names_are_removed(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with output_folder(output, "train.py"):
        (output / "mapping" / "0").mkdir(parents=True)
        own_scratch(output / "mapping", ["database.db*", "cameras.bin"])
        for name in ("database.db", "database.db-wal", "0/cameras.bin", "notes.txt", "0/mine.bin"):
            (output / "mapping" / name).write_text(name)
        remove_own(output / "mapping")
        assert contents(output) == {"mapping/notes.txt": "notes.txt", "mapping/0/mine.bin": "0/mine.bin"}


def test_an_inner_output_is_removed_with_the_outer_one_except_for_files_of_the_user(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with output_folder(output, "reconstruct.py") as record:
        make(output / "extracted", "frames", kind="extract.py")
        with output_folder(output / "training", "train.py"):
            write_bytes(output / "training" / "last.pt", b"weights")
        for place in ("extracted/inner", "training"):
            (output / place / "mine").write_text("mine")
        assert record.foreign() == sorted([output / "extracted" / "inner" / "mine", output / "training" / "mine"])
        record.clear()
    assert contents(output) == {"extracted/inner/mine": "mine", "training/mine": "mine"}


def test_files_that_another_command_adds_to_an_output_belong_to_the_output(tmp_path: Path) -> None:
    make(tmp_path / "out", "frames")
    with joined_output(tmp_path / "out" / "inner"):
        write_bytes(tmp_path / "out" / "inner" / "model", b"model")
    write_bytes(tmp_path / "out" / "inner" / "other", b"written without holding the output")
    make(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path / "out") == made_of("new", **{"inner/other": "written without holding the output"})


def test_two_processes_that_add_to_one_record_lose_no_entry(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    first, second = (OutputRecord.load(tmp_path / "out") for _ in range(2))
    assert first is not None and second is not None
    with recording(first):
        write_bytes(tmp_path / "out" / "x", b"first")
    with recording(second):
        write_bytes(tmp_path / "out" / "x", b"second")
        write_bytes(tmp_path / "out" / "y", b"second")
    first.remove(tmp_path / "out" / "a")
    found = OutputRecord.load(tmp_path / "out")
    assert found is not None and found.foreign() == []


def test_a_truncated_line_does_not_damage_the_next_one(tmp_path: Path) -> None:
    with output_folder(tmp_path / "run", "train.py"):
        write_bytes(tmp_path / "run" / "a", b"1")
    with (tmp_path / "run" / RECORD_NAME).open("ab") as stream:
        stream.write(b'\n"cut o')
    with output_folder(tmp_path / "run", "train.py"):
        write_bytes(tmp_path / "run" / "b", b"1")
    found = OutputRecord.load(tmp_path / "run")
    assert found is not None and found.foreign() == []


def test_a_command_that_fails_before_writing_leaves_no_folder(tmp_path: Path) -> None:
    for hold in (work_folder, output_folder):
        with pytest.raises(LumenError, match="wrong input"), hold(tmp_path / "out", "test.py"):
            raise LumenError("wrong input")
        assert names(tmp_path) == set()
    (tmp_path / "out").mkdir()
    with pytest.raises(LumenError, match="wrong input"), output_folder(tmp_path / "out", "test.py"):
        raise LumenError("wrong input")
    assert names(tmp_path) == {"out"}


def test_names_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.bin")
    with output_folder(tmp_path / "run", "train.py"):
        write_bytes(tmp_path / "run" / name, b"1")
    found = OutputRecord.load(tmp_path / "run")
    assert found is not None and found.foreign() == [] and (tmp_path / "run" / name) in found


@pytest.mark.parametrize("function", ["rename", "rmdir", "unlink"])
@pytest.mark.parametrize("call", range(8))
def test_publishing_stopped_at_any_step_keeps_files_of_the_user_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    output = tmp_path / "out"
    make(output, "old")
    (output / "inner" / "mine").write_text("mine")
    original = getattr(os, function)
    calls = iter(range(100))

    def stop(*arguments: object, **keywords: object) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        original(*arguments, **keywords)

    def publish(work: WorkFolder) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, function, stop)
            work.publish()

    try:
        with work_folder(output, "test.py", overwrite=True) as work:
            work.clear()
            for name in ("a", "b", "inner/c"):
                write_bytes(work.path / name, b"new")
            publish(work)
    except KeyboardInterrupt:
        pass
    everything = {path.read_text() for path in tmp_path.rglob("mine")}
    assert everything == {"mine"}, "the file must exist before the next command"
    make(output, "newest", overwrite=True)
    assert contents(output) == made_of("newest", **{"inner/mine": "mine"})
    assert names(tmp_path) == {"out"}


def test_publishing_killed_at_any_moment_leaves_a_complete_output_not_older_than_reported(tmp_path: Path) -> None:
    script = """
from pathlib import Path
from pipeline.outputs.files import write_bytes
from pipeline.outputs.folders import work_folder
for number in range(1, 100_000):
    with work_folder(Path("sequence"), "test.py", overwrite=True) as work:
        work.clear()
        for name in "abc":
            write_bytes(work.path / name, str(number).encode())
        work.publish()
    print("ready" if number == 1 else number)
"""
    for round_number in range(10):
        _, lines = stop_script_when_ready(script, tmp_path, signal.SIGKILL, delay_s=0.0037 * round_number)
        reported = int(lines[-1]) if lines and lines[-1].isdigit() else 1
        with work_folder(tmp_path / "sequence", "test.py", overwrite=True):
            found = [int(text) for text in contents(tmp_path / "sequence").values()]
        assert len(found) == 3 and len(set(found)) == 1
        assert found[0] in (reported, reported + 1)
        assert names(tmp_path) <= {"sequence", ".partial.sequence"}


@pytest.mark.parametrize("named", [".", "link"])
def test_the_output_that_contains_a_folder_is_found_by_any_path_to_the_folder(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", "frames")
    (tmp_path / "link").symlink_to(tmp_path / "out" / "inner")
    monkeypatch.chdir(tmp_path / "out" / "inner" if named == "." else tmp_path)
    with joined_output(Path(named)):
        write_bytes(Path(named) / "model", b"model")
    make(tmp_path / "out", "new", overwrite=True)
    assert contents(tmp_path / "out") == made_of("new")


def test_publishing_elsewhere_checks_the_target_like_an_output(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (far / "mine").write_text("mine")
    (tmp_path / "elsewhere").symlink_to(far)
    (tmp_path / "file").write_text("mine")
    for name in ("elsewhere", "file"):
        with work_folder(tmp_path / "out", "test.py") as work:
            work.clear()
            write_bytes(work.path / "a", b"new")
            with pytest.raises(LumenError, match="has no record of|is a file"):
                work.publish(tmp_path / name)
            work.discard()
    assert (tmp_path / "elsewhere").is_symlink() and contents(far) == {"mine": "mine"}
    assert (tmp_path / "file").read_text() == "mine" and names(tmp_path) == {"elsewhere", "far", "file"}


def test_a_partially_written_record_does_not_block_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".partial.{RECORD_NAME}").write_text('{"tool": ')
    make(tmp_path / "out", "new")
    assert contents(tmp_path / "out").items() >= made_of("new").items()


def test_a_published_output_is_not_discarded(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", "test.py") as work:
        write_bytes(work.path / "a", b"new")
        work.publish()
        work.discard()
    assert contents(tmp_path / "out") == {"a": "new"}


def test_inner_records_are_removed_before_outer_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Path] = []
    original = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path)
        original(path, missing_ok)

    with output_folder(tmp_path / "run", "reconstruct.py") as record:
        with output_folder(tmp_path / "run" / "a", "extract.py"):
            make(tmp_path / "run" / "a" / "b", "x", kind="bootstrap.py")
            write_bytes(tmp_path / "run" / "a" / "file", b"x")
        monkeypatch.setattr(Path, "unlink", unlink)
        record.clear()
    records = [path.parent.name for path in removed if path.name == RECORD_NAME]
    assert records[:2] == ["b", "a"]


def test_a_folder_inside_another_output_is_not_replaced(tmp_path: Path) -> None:
    with output_folder(tmp_path / "run", "reconstruct.py"):
        write_bytes(tmp_path / "run" / "colmap" / "model", b"dense")
    with (
        joined_output(tmp_path / "run"),
        pytest.raises(LumenError, match=r"is part of an output of reconstruct\.py"),
        work_folder(tmp_path / "run" / "colmap", "bootstrap.py", overwrite=True),
    ):
        pass
    assert (tmp_path / "run" / "colmap" / "model").read_bytes() == b"dense"


def test_an_output_at_a_mount_point_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == disk)
    original = os.rename

    def rename(source: Path, target: Path) -> None:
        assert disk not in (Path(source), Path(target)), "a mount point cannot be renamed"
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    make(disk, "old")
    (disk / "inner" / "mine").write_text("mine")
    make(disk, "new", overwrite=True)
    assert contents(disk) == made_of("new", **{"inner/mine": "mine"})
    assert {path.name for path in disk.iterdir()} == {"a", "b", "inner", RECORD_NAME}
    with pytest.raises(LumenError, match="already exists"):
        make(disk, "newer")


def test_an_inner_output_with_a_file_of_the_user_can_be_written_again(tmp_path: Path) -> None:
    with output_folder(tmp_path / "run", "reconstruct.py") as record:
        make(tmp_path / "run" / "extracted", "old", kind="extract.py")
        (tmp_path / "run" / "extracted" / "mine").write_text("mine")
        record.clear()
        make(tmp_path / "run" / "extracted", "new", overwrite=True, kind="extract.py")
    assert contents(tmp_path / "run" / "extracted") == made_of("new", mine="mine")


def test_an_output_inside_one_that_another_process_holds_is_rejected(tmp_path: Path) -> None:
    script = """
from pathlib import Path
from pipeline.outputs.folders import output_folder
import time
with output_folder(Path("run"), "reconstruct.py"):
    Path("run/extracted").mkdir()
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        with pytest.raises(LumenError, match=r"another process is writing to .*run"):
            make(tmp_path / "run" / "extracted", "new", kind="extract.py")
        child.kill()
    make(tmp_path / "run" / "extracted", "new", kind="extract.py")


def test_a_replaced_folder_keeps_its_permissions_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "out" / "my" / "empty folder").mkdir(parents=True)
    (tmp_path / "out").chmod(0o700)
    for content in ("old", "new"):
        make(tmp_path / "out", content, overwrite=True)
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "out" / "my" / "empty folder").is_dir()


def test_targets_of_linked_images_count_as_inputs(tmp_path: Path) -> None:
    (tmp_path / "out" / "frames").mkdir(parents=True)
    (tmp_path / "out" / "frames" / "0.jpg").write_text("image")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "0.jpg").symlink_to("../out/frames/0.jpg")
    for name in ("out", "out/frames", "out/frames/run"):
        with pytest.raises(LumenError, match="the input"):
            check_no_overlap(tmp_path / name, source_places(tmp_path / "links"))
    check_no_overlap(tmp_path / "run", source_places(tmp_path / "links" / "*.jpg"))


def test_a_file_of_the_user_in_a_work_folder_is_kept(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", "test.py") as work:
        write_bytes(work.path / "a", b"killed")
        (work.path / "deep").mkdir()
        (work.path / "deep" / "mine").write_text("mine")
    for content in ("first", "second"):
        make(tmp_path / "out", content, overwrite=True)
        assert contents(tmp_path / "out") == made_of(content)
        assert (tmp_path / ".partial.out" / "deep" / "mine").read_text() == "mine"
    with work_folder(tmp_path / "out", "test.py", overwrite=True) as work:
        work.discard()
    make(tmp_path / "out", "third", overwrite=True)
    assert (tmp_path / ".partial.out" / "deep" / "mine").read_text() == "mine"
