"""The folder for decoded frames: without a home folder, and checked before work starts."""

import os
import tempfile
from pathlib import Path

import pytest

from descriptor.clips import cache_root
from descriptor.clips.cache_root import check_cache_root, default_cache_root
from pipeline.command.config import configure
from pipeline.errors import LumenError
from reconstruct import ReconstructConfig, reconstruct


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a home folder; returns the folder of temporary files."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_folder_frames_are_stored_in_a_temporary_folder(
    homeless: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = default_cache_root()
    assert root == homeless / f"lumensfm-{os.getuid()}" / "frames"
    assert not root.parent.exists()
    check_cache_root(root)
    assert root.is_dir() and root.parent.stat().st_mode & 0o077 == 0
    assert f"no home folder: decoded frames are stored in {root}; see --cache_root" in caplog.text


def test_the_configs_of_commands_need_no_home_folder(homeless: Path) -> None:
    assert configure(ReconstructConfig, Path("video.mp4")).cache_root.is_relative_to(homeless)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_temporary_folder_of_another_user_is_refused(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root = default_cache_root()
    if kind == "link":
        (homeless / "theirs").mkdir()
        root.parent.symlink_to("theirs")
    else:
        root.parent.mkdir()
    mine = os.getuid()
    monkeypatch.setattr(cache_root, "_temporary_folder", lambda: homeless / f"lumensfm-{mine}")
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(LumenError, match="belongs to another user; .*--cache_root"):
        check_cache_root(root)


@pytest.mark.parametrize("given", ["", "relative/path"])
def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """As specified by freedesktop.org."""
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_root() == tmp_path / ".cache" / "lumensfm" / "frames"


def test_a_writable_folder_is_unchanged(tmp_path: Path) -> None:
    check_cache_root(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())


def test_an_unwritable_cache_is_refused_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file blocks the path, even for an administrator."""
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    config = configure(ReconstructConfig, tmp_path / "no_video.mp4", output=tmp_path / "out")
    with pytest.raises(LumenError, match="a part of the path is a file.*--cache_root"):
        reconstruct(config)
    assert not (tmp_path / "out").exists()


def test_a_cache_that_is_not_needed_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = configure(
        ReconstructConfig,
        tmp_path / "no_video.mp4",
        output=tmp_path / "out",
        cache_root=tmp_path / "file",
        correspondences="flow",
    )
    with pytest.raises(LumenError) as missing:
        reconstruct(config)
    assert "cache_root" not in str(missing.value)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="an administrator can write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LumenError, match=f"{tmp_path}.*permission denied.*--cache_root"):
        check_cache_root(tmp_path / "frames")
