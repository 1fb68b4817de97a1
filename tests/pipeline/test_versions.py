"""The version of LumenSfM differs between commits and for changed code."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import __version__, versions


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(versions, "_ROOT", tmp_path)
    versions.tool_version.cache_clear()
    yield tmp_path
    versions.tool_version.cache_clear()


def version() -> str:
    versions.tool_version.cache_clear()
    return versions.tool_version()


def test_without_a_checkout_the_version_has_no_commit(checkout: Path) -> None:
    assert version() == __version__


def test_commits_and_changed_code_have_different_versions(checkout: Path) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "first")
    first = version()
    assert first.startswith(f"{__version__}+") and "." not in first.partition("+")[2]
    (checkout / "pipeline" / "a.py").write_text("a = 2\n")
    changed = version()
    assert changed.startswith(f"{first}.")
    (checkout / "pipeline" / "a.py").write_text("a = 3\n")
    assert version() not in (first, changed)
    git(checkout, "commit", "-qam", "second")
    assert version() not in (first, changed) and "." not in version().partition("+")[2]


def test_without_access_to_git_the_version_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".git").mkdir()
    assert version() == __version__
    monkeypatch.setenv("PATH", "")
    assert version() == __version__


def test_all_libraries_have_a_version() -> None:
    found = versions.versions()
    assert set(found) == {"lumensfm", "opencv", "av", "numpy", "pycolmap", "torch"} and "none" not in found.values()
