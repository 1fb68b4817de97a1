"""The set-up reports packages that it cannot install, and finds all missing libraries, not only the first."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT

TOOLS = ROOT / "tools"


def run_tool(script: str, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TOOLS), "PATH": path}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_without_apt_get_the_packages_are_named(tmp_path: Path) -> None:
    done = run_tool("import system_packages\nsystem_packages.install(['libgl1', 'libegl1'])", tmp_path, str(tmp_path))
    assert done.stderr.endswith("SetUpError: install these first: sudo apt-get install libgl1 libegl1\n")


def test_a_failing_apt_get_names_the_packages(tmp_path: Path) -> None:
    for name in ("apt-get", "sudo"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 100\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run_tool("import system_packages\nsystem_packages.install(['libgl1'])", tmp_path, path)
    assert done.stderr.endswith("SetUpError: install these first: sudo apt-get install libgl1\n")


def test_the_library_named_by_an_import_error_is_found(tmp_path: Path) -> None:
    reason = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    script = f"import check_imports\nprint(check_imports.missing_libraries({{'no_such_module': {reason!r}}}))"
    assert run_tool(script, tmp_path, os.environ["PATH"]).stdout == "{'libGL.so.1'}\n"


@pytest.mark.skipif(not shutil.which("gcc") or not shutil.which("ldd"), reason="builds a library that lacks another")
def test_all_missing_libraries_are_found(tmp_path: Path) -> None:
    package = tmp_path / "lacking"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("libGL.so.1", "libusb-1.0.so.0"):
        subprocess.run(["gcc", "-shared", f"-Wl,-soname,absent-{name}", "-o", name, "-xc", "/dev/null"], cwd=tmp_path)
    link = ["gcc", "-shared", "-Wl,--no-as-needed", "-o", "lacking/native.so", "libGL.so.1", "libusb-1.0.so.0"]
    subprocess.run(link, cwd=tmp_path, check=True)
    script = "import check_imports\nprint(sorted(check_imports.missing_libraries({'lacking': 'ImportError'})))"
    expected = "['absent-libGL.so.1', 'absent-libusb-1.0.so.0']\n"
    assert run_tool(script, tmp_path, os.environ["PATH"]).stdout == expected


def test_without_import_errors_nothing_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / "check_imports.py")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("is_read_only", [False, True])
@pytest.mark.parametrize("code", ["EBADF", "ENOLCK"])
def test_a_set_up_continues_on_a_file_system_without_locks(tmp_path: Path, code: str, is_read_only: bool) -> None:
    """NFS fails with EBADF for files that are not open for writing."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    script = f"""
import errno, fcntl, os
from pathlib import Path
import set_up
def refuse(file, _):
    if errno.{code} != errno.EBADF or fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.{code}, os.strerror(errno.{code}))
fcntl.flock = refuse
if {is_read_only}:
    os.access = lambda *_: False
set_up.ROOT = Path({str(tmp_path)!r})
set_up._set_up = lambda: print("set up")
raise SystemExit(set_up.main())
"""
    done = run_tool(script, tmp_path, os.environ["PATH"])
    assert (done.returncode, done.stdout) == (0, "set up\n")
    notes = done.stderr.splitlines()
    assert len(notes) == (code == "ENOLCK" or is_read_only)
    assert all("run only one make setup at a time" in note for note in notes)
    assert (tmp_path / "pyproject.toml").read_text() == "[project]"
