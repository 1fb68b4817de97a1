"""One process at a time."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LumenError
from pipeline.outputs.files import is_leftover
from pipeline.outputs.locks import LOCK_PREFIX, held

HOLD = """
import sys, time
from pathlib import Path
from pipeline.outputs.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold_elsewhere(path: Path, seconds: float) -> subprocess.Popen[str]:
    other = subprocess.Popen([sys.executable, "-c", HOLD, path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    return other


def test_what_another_process_holds_is_waited_for_or_said_to_be_held(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, 1.0)
    with pytest.raises(LumenError, match="in use"), held(tmp_path, busy="in use"):
        pass
    with held(tmp_path):
        assert other.poll() is not None or other.wait(timeout=10) == 0


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, 60.0)
    other.kill()
    other.wait()
    started = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - started < 30


def test_what_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="cannot open"), held(tmp_path / "nothing"):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "around" / "folder").mkdir(parents=True)
    return tmp_path / "around" / "folder"


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, *, for_writers: bool = True) -> None:
    """Let `flock` fail with an error code: always, or as NFS does for what is not open for writing."""
    flock = fcntl.flock

    def refusing(descriptor: Any, operation: int) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        is_writer = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if for_writers or not is_writer:
            raise OSError(code, os.strerror(code))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refusing)


def test_nfs_locks_folders_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EBADF, for_writers=False)
    other = hold_elsewhere(folder, 60.0)
    with pytest.raises(LumenError, match="in use"), held(folder, busy="in use"):
        pass
    other.kill()
    other.wait()
    with held(folder, busy="in use"), pytest.raises(LumenError, match="in use"), held(folder, busy="in use"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    refuse(monkeypatch, code)
    with held(folder, busy="in use"):
        (record,) = caplog.records
        assert record.levelname == "WARNING" and f"the file system of {folder} has no locks" in record.getMessage()
    assert list(folder.parent.iterdir()) == [folder]


def test_another_error_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EIO)
    with pytest.raises(LumenError, match=f"cannot lock {folder}: "), held(folder):
        pass


def test_no_lock_is_left_behind_and_one_of_a_killed_process_is_ours(folder: Path) -> None:
    with held(folder):
        assert not list(folder.iterdir())
        (lock,) = set(folder.parent.iterdir()) - {folder}
        assert is_leftover(lock.relative_to(folder.parent)) and lock.name.startswith(".")
    assert list(folder.parent.iterdir()) == [folder]
    other = hold_elsewhere(folder, 60.0)
    other.kill()
    other.wait()
    assert lock.exists()
    with held(folder, busy="in use"):
        pass
    assert list(folder.parent.iterdir()) == [folder]


def test_a_file_of_the_user_under_the_name_of_the_lock_stays(folder: Path) -> None:
    mine = folder.with_name(f"{LOCK_PREFIX}{folder.name}")
    mine.write_text("mine")
    with held(folder):
        pass
    assert mine.read_text() == "mine"


def test_a_folder_is_the_same_under_all_its_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for name in (Path("."), folder.parent / "link", Path("../folder")):
        with held(folder), pytest.raises(LumenError, match="in use"), held(name, busy="in use"):
            pass


def test_a_folder_that_is_moved_while_it_is_held_leaves_no_lock(folder: Path) -> None:
    with held(folder):
        folder.rename(folder.with_name("moved"))
    assert list(folder.parent.iterdir()) == [folder.with_name("moved")]
    assert not list(folder.with_name("moved").iterdir())


def test_a_folder_whose_parent_may_not_be_written_to_can_be_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk that is mounted in a container."""
    open_file = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if Path(path).parent == folder.parent and flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    with held(folder), pytest.raises(LumenError, match="in use"), held(folder, busy="in use"):
        pass
    assert not list(folder.iterdir())


def test_many_processes_in_turn_never_hold_it_together(folder: Path) -> None:
    """Each removes the lock when it is done, while others wait for it."""
    script = """
import os, sys
from pathlib import Path
from pipeline.outputs.locks import held
for _ in range(50):
    with held(Path(sys.argv[1])):
        os.close(os.open(os.path.join(sys.argv[1], "alone"), os.O_CREAT | os.O_EXCL))
        os.unlink(os.path.join(sys.argv[1], "alone"))
"""
    others = [subprocess.Popen([sys.executable, "-c", script, folder]) for _ in range(4)]
    assert [other.wait(timeout=60) for other in others] == [0] * 4
    assert not list(folder.iterdir()) and list(folder.parent.iterdir()) == [folder]
