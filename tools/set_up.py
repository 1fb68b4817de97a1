"""Install the packages of constraints.txt into `.venv`, and check that they can be imported.

Does nothing if nothing changed since the last successful run. An interrupted installation is repeated. Needs only the
standard library; `make setup` runs it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from system_packages import SetUpError, install

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
INSTALLING = VENV / ".installing"
INSTALLED = VENV / ".installed"
CHECKED = VENV / ".checked"
CHECK = ROOT / "tools" / "check_imports.py"


def main() -> int:
    try:
        with _alone():
            _set_up()
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run make setup again", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until other set-ups of this folder end. If the file system has no locks, print a note."""
    path = ROOT / "pyproject.toml"
    # NFS locks only files that are open for writing. The folder may be read-only once everything is installed.
    with path.open("rb+" if os.access(path, os.W_OK) else "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            print(f"note: cannot lock {path} ({error.strerror}): run only one make setup at a time", file=sys.stderr)
        yield


def _set_up() -> None:
    wanted = _wanted()
    if _read(INSTALLED) != wanted or not PYTHON.exists():
        INSTALLED.unlink(missing_ok=True)
        _make_environment()
        print("installing the packages of constraints.txt into .venv, about 2 GB", flush=True)
        _pip("install", "--constraint", "constraints.txt", "setuptools")
        _pip("install", "--constraint", "constraints.txt", "--no-build-isolation", "--editable", ".[dev]")
        INSTALLING.unlink()
        INSTALLED.write_text(wanted)
    if _read(CHECKED) != wanted:
        if subprocess.run([str(PYTHON), str(CHECK)], stdin=subprocess.DEVNULL, check=False).returncode:
            sys.exit(1)
        CHECKED.write_text(wanted)


def _wanted() -> str:
    """A digest of everything that an installation depends on, including the folder, which it refers to."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return f"{digest.hexdigest()} {ROOT}"


def _read(stamp: Path) -> str | None:
    return stamp.read_text() if stamp.exists() else None


def _make_environment() -> None:
    """Create a `.venv` with pip, marked as unfinished. An unfinished or broken one is replaced."""
    if INSTALLING.exists() or not _works([str(PYTHON), "-m", "pip", "--version"]):
        if not _works([sys.executable, "-c", "import ensurepip"]):
            install([f"python{sys.version_info.major}.{sys.version_info.minor}-venv"])
        # Removed first, so that a partially deleted folder counts as broken.
        PYTHON.unlink(missing_ok=True)
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    INSTALLING.touch()
    if not PYTHON.exists():
        _run([sys.executable, "-m", "venv", str(VENV)], "cannot create .venv, see above")


def _pip(*arguments: str) -> None:
    advice = "pip failed, see above; fix the cause (network, disk space), then run make setup again"
    _run([str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"], advice)


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command: list[str], advice: str) -> None:
    # setuptools prints an irrelevant warning at every editable installation.
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=quiet, check=False).returncode:
        raise SetUpError(advice)


if __name__ == "__main__":
    sys.exit(main())
