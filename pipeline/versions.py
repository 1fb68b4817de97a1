"""The versions that results depend on: LumenSfM's, and those of libraries whose output differs between versions."""

import functools
import hashlib
import os
import subprocess
from importlib import metadata
from pathlib import Path

import cv2

from pipeline import __version__

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("pipeline", "data_prep", "descriptor", "sfm")
# A library may have separate distributions for CPU and GPU.
_LIBRARIES = {
    "av": ("av",),
    "numpy": ("numpy",),
    "pycolmap": ("pycolmap", "pycolmap-cuda12", "pycolmap-cuda13"),
    "torch": ("torch",),
}


@functools.cache
def versions() -> dict[str, str]:
    """Name → version of LumenSfM and the libraries. Except for OpenCV, libraries are not imported."""
    libraries = {name: _installed(distributions) for name, distributions in _LIBRARIES.items()}
    return {"lumensfm": tool_version(), "opencv": cv2.__version__, **libraries}


@functools.cache
def tool_version() -> str:
    """The version of LumenSfM, with the commit in a checkout, and a digest of the code if it has changed."""
    commit = _git("rev-parse", "--short=12", "HEAD") if (_ROOT / ".git").exists() else None
    if commit is None:
        return __version__
    has_changed = bool(_git("status", "--porcelain", "--", *_PACKAGES))
    return f"{__version__}+{commit}" + (f".{_source_digest()}" if has_changed else "")


def _installed(distributions: tuple[str, ...]) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _git(*arguments: str) -> str | None:
    """The output of a git command in this checkout; None if git is missing or fails, e.g. for another user's files."""
    try:
        result = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
        )
    except OSError:
        return None
    return result.stdout.decode(errors="replace").strip() if result.returncode == 0 else None


def _source_digest() -> str:
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(file.relative_to(_ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:8]
