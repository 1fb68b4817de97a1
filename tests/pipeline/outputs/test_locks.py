"""A folder is held by one process at a time."""

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


def test_a_folder_held_by_another_process_is_an_error_or_waited_for(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, 1.0)
    with pytest.raises(LumenError, match="in use"), held(tmp_path, busy="in use"):
        pass
    with held(tmp_path):
        assert other.poll() is not None or other.wait(timeout=10) == 0


def test_a_killed_process_releases_the_folder(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, 60.0)
    other.kill()
    other.wait()
    started = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - started < 30


def test_a_missing_folder_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="cannot open"), held(tmp_path / "nothing"):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "around" / "folder").mkdir(parents=True)
    return tmp_path / "around" / "folder"


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, *, for_writers: bool = True) -> None:
    """Make `flock` fail with an error code: always, or only for files not open for writing, as on NFS."""
    flock = fcntl.flock

    def refusing(descriptor: Any, operation: int) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        is_writer = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if for_writers or not is_writer:
            raise OSError(code, os.strerror(code))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refusing)


def test_folders_can_be_held_on_nfs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EBADF, for_writers=False)
    other = hold_elsewhere(folder, 60.0)
    with pytest.raises(LumenError, match="in use"), held(folder, busy="in use"):
        pass
    other.kill()
    other.wait()
    with held(folder, busy="in use"), pytest.raises(LumenError, match="in use"), held(folder, busy="in use"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_gives_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    refuse(monkeypatch, code)
    with held(folder, busy="in use"):
        (record,) = caplog.records
        assert record.levelname == "WARNING" and f"the file system of {folder} has no locks" in record.getMessage()
    assert list(folder.parent.iterdir()) == [folder]


def test_another_lock_error_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EIO)
    with pytest.raises(LumenError, match=f"cannot lock {folder}: "), held(folder):
        pass


def test_no_lock_file_is_left_behind_and_that_of_a_killed_process_is_reused(folder: Path) -> None:
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


def test_a_file_of_the_user_with_the_name_of_the_lock_is_kept(folder: Path) -> None:
    mine = folder.with_name(f"{LOCK_PREFIX}{folder.name}")
    mine.write_text("mine")
    with held(folder):
        pass
    assert mine.read_text() == "mine"


def test_all_paths_to_a_folder_share_one_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for name in (Path("."), folder.parent / "link", Path("../folder")):
        with held(folder), pytest.raises(LumenError, match="in use"), held(name, busy="in use"):
            pass


def test_a_folder_that_is_moved_while_it_is_held_leaves_no_lock_file(folder: Path) -> None:
    with held(folder):
        folder.rename(folder.with_name("moved"))
    assert list(folder.parent.iterdir()) == [folder.with_name("moved")]
    assert not list(folder.with_name("moved").iterdir())


def test_a_folder_in_a_read_only_parent_can_be_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a disk mounted in a container."""
    open_file = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if Path(path).parent == folder.parent and flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    with held(folder), pytest.raises(LumenError, match="in use"), held(folder, busy="in use"):
        pass
    assert not list(folder.iterdir())


def test_processes_never_hold_a_folder_at_the_same_time(folder: Path) -> None:
    """Each process removes the lock file at the end, while others wait for the lock."""
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
