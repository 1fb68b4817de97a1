"""A file with its final name is complete, also after errors, full disks and kills."""

import errno
import json
import math
import os
import signal
from pathlib import Path

import pytest

from child_process import run_script, stop_script_when_ready
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import (
    atomic_write,
    copy_file,
    is_leftover,
    link_or_copy,
    partial_path,
    read_yaml,
    write_bytes,
    write_json,
    write_yaml,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def make_folder(path: Path, content: str) -> Path:
    """A folder of three files with the same content, so that a mixture of two versions is detected."""
    path.mkdir(parents=True)
    for name in "abc":
        (path / name).write_text(content)
    return path


def contents(path: Path) -> list[str]:
    return [file.read_text() for file in sorted(path.iterdir())]


def test_a_write_creates_missing_folders(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "ü x.bin", b"new")
    assert (tmp_path / "a" / "b" / "ü x.bin").read_bytes() == b"new"
    assert names(tmp_path / "a" / "b") == {"ü x.bin"}


def test_the_temporary_name_keeps_the_suffix() -> None:
    assert partial_path(Path("runs/cloud.ply")) == Path("runs/.partial.cloud.ply")


def test_an_error_in_the_block_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_a_killed_write_leaves_the_old_file_and_the_next_write_works(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    script = """
import time
from pathlib import Path
from pipeline.outputs.files import atomic_write
with atomic_write(Path("file")) as partial, partial.open("wb") as stream:
    for number in range(1000):
        stream.write(b"n" * 4096)
        stream.flush()
        if number == 3:
            print("ready")
        time.sleep(0.01)
"""
    status, _ = stop_script_when_ready(script, tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file", ".partial.file"}
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_reported_and_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    # Writing through this link fails with the kernel's ENOSPC, as on a full disk.
    partial_path(path).symlink_to("/dev/full")
    with pytest.raises(LumenError, match=r"cannot write .*/file: the disk is full: free some space"):
        write_bytes(path, b"new" * 100_000)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_a_disk_that_is_full_at_the_last_moment_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LumenError, match="the disk is full"):
        write_json(tmp_path / "report.json", {"frames": 3})
    assert names(tmp_path) == set()


def test_a_file_size_limit_is_reported_and_leaves_no_file(tmp_path: Path) -> None:
    script = """
import resource
from pathlib import Path
from pipeline.errors import LumenError
from pipeline.outputs.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write_bytes(Path("file"), bytes(1 << 20))
except LumenError as error:
    print(error)
"""
    done = run_script(script, tmp_path)
    assert done.stdout.startswith("cannot write file: the file would be larger than"), done.stderr
    assert names(tmp_path) == set()


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LumenError, match=r"cannot write .*/out/report.json: .*in the way \(.*/out\)"):
        write_bytes(tmp_path / "out" / "report.json", b"")


def test_a_folder_in_place_of_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(LumenError, match="it is a folder, not a file"):
        write_bytes(tmp_path / "file", b"")
    assert names(tmp_path) == {"file"}


def test_the_path_that_caused_the_error_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "elsewhere" / "missing"
    why = f"cannot write .*/out: no such file or folder \\({missing}\\)"
    with pytest.raises(LumenError, match=why), explain_os_errors("write", tmp_path / "out"):
        missing.read_bytes()


def test_an_os_error_without_a_number_is_reported_with_its_text(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="cannot read x: moov atom not found"), explain_os_errors("read", Path("x")):
        raise OSError("moov atom not found")


YAML_VALUES = {
    "ü": 1e-4,
    "small": 1e-300,
    "text_like_numbers": ["1e-4", "2E5", "1.5", "null", "yes", ""],
    "infinite": math.inf,
    "nested": {"list": [1, 2.0, True, None]},
    "same": [0, 0],
}


def test_written_yaml_reads_back_exactly(tmp_path: Path) -> None:
    write_yaml(tmp_path / "x.yaml", YAML_VALUES)
    assert read_yaml(tmp_path / "x.yaml") == YAML_VALUES
    assert list(read_yaml(tmp_path / "x.yaml")) == list(YAML_VALUES)


def test_yaml_has_no_aliases(tmp_path: Path) -> None:
    shared = {"a": 1}
    write_yaml(tmp_path / "x.yaml", [shared, shared])
    assert (tmp_path / "x.yaml").read_text() == "- {a: 1}\n- {a: 1}\n"


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("-3E+5", -3e5), ("1.5e3", 1.5e3), (".5e2", 50.0), ("e5", "e5"), ("1e", "1e")]
)
def test_yaml_numbers_in_exponential_notation_need_no_point_or_sign(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "x.yaml").write_text(f"key: {text}")
    assert read_yaml(tmp_path / "x.yaml") == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: 1\nb: [1", r"\(line 2\) is not valid YAML: did not find expected"),
        (b"a: 1\nb: 2\na: 3", r"\(line 3\) is not valid YAML: duplicate key 'a'"),
        (b"when: 2020-13-45", "is not valid YAML: month must be in 1..12"),
        (b"? [1, 2]\n: 3", "is not valid YAML: found unhashable key"),
        (b"\xff\xfe\xff", "is not valid YAML"),
        (b"\x00\x01", "is not valid YAML"),
    ],
)
def test_invalid_yaml_is_reported_with_the_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(LumenError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_a_missing_yaml_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match=r"cannot read .*x.yaml: no such file or folder"):
        read_yaml(tmp_path / "x.yaml")


def test_json_is_indented_utf8_text(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "Schläuche", "n": [1, 2]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Schläuche", "n": [1, 2]}
    assert "Schläuche" in text and text.endswith("}\n")


def test_leftovers_are_recognised_by_their_names() -> None:
    assert is_leftover(Path(".partial.a.jpg")) and is_leftover(Path("x/.replaced.run/a.jpg"))
    assert not is_leftover(Path("images/a.partial.jpg"))


def test_long_lists_are_written_in_the_same_format_as_short_ones(tmp_path: Path) -> None:
    table = {
        "format": 1,
        "rows": [{"index": i, "flags": []} for i in range(2500)],
        "numbers": list(range(1500)),
        "on": [],
    }
    write_yaml(tmp_path / "table.yaml", table)
    assert read_yaml(tmp_path / "table.yaml") == table
    lines = (tmp_path / "table.yaml").read_text().splitlines()
    assert lines[:3] == ["format: 1", "rows:", "- {index: 0, flags: []}"]


def test_a_copy_has_its_own_storage_and_a_link_shares_it(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(b"mine")
    copy_file(original, tmp_path / "out" / "copy")
    link_or_copy(original, tmp_path / "out" / "link")
    assert (tmp_path / "out" / "link").samefile(original) and not (tmp_path / "out" / "copy").samefile(original)
    (tmp_path / "out" / "copy").write_bytes(b"changed")
    assert original.read_bytes() == b"mine"
    with pytest.raises(LumenError, match="cannot read .*missing"):
        copy_file(tmp_path / "missing", tmp_path / "out" / "none")
    assert not (tmp_path / "out" / "none").exists()
