"""The cache of decoded frames: private, limited in size; clearing removes only its own files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from descriptor import frame_cache
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.frame_cache import FrameCacheConfig, _is_in_use, clear, run, small_frames
from descriptor.network_frame import NetworkFrame
from pipeline.data.images import write_image
from pipeline.errors import LumenError
from pipeline.outputs.locks import held
from textured_images import textured_image

SIZE = (32, 64)
CACHE_BYTES = 3 * SIZE[0] * SIZE[1] * 2 + 128


def sequence(folder: Path, seed: int) -> list[Path]:
    """Two images."""
    paths = [folder / f"{seed}" / f"{index:08d}.jpg" for index in range(2)]
    for index, path in enumerate(paths):
        write_image(path, textured_image(*SIZE, seed=10 * seed + index))
    return paths


def load(folder: Path, seed: int, limit_gb: float | None = None) -> np.ndarray:
    frame = NetworkFrame.of_mask(np.full(SIZE, 255, np.uint8), 1.0, SIZE)
    return small_frames(sequence_of(folder, seed), frame, folder / "cache", 1, limit_gb=limit_gb)


def sequence_of(folder: Path, seed: int) -> list[Path]:
    existing = sorted((folder / f"{seed}").glob("*.jpg"))
    return existing or sequence(folder, seed)


def age(cache: Path) -> None:
    """Move the time of use of all files back by an hour."""
    for path in cache.iterdir():
        state = path.stat()
        os.utime(path, (state.st_atime - 3600, state.st_mtime - 3600))


def cached(folder: Path) -> set[Path]:
    return set((folder / "cache").iterdir())


def test_the_least_recently_used_is_removed_first(tmp_path: Path) -> None:
    added = []
    for seed in range(3):
        before = cached(tmp_path) if seed else set()
        load(tmp_path, seed)
        added += cached(tmp_path) - before
        age(tmp_path / "cache")
    load(tmp_path, 0)
    load(tmp_path, 3, limit_gb=3.5 * CACHE_BYTES / 1e9)
    assert added[1] not in cached(tmp_path) and {added[0], added[2]} < cached(tmp_path)
    assert len(cached(tmp_path)) == 3


def test_frames_in_use_are_kept_at_any_limit(tmp_path: Path) -> None:
    frames = load(tmp_path, 0)
    (path,) = cached(tmp_path)
    expected = np.array(frames)
    load(tmp_path, 1, limit_gb=0)
    assert path in cached(tmp_path)
    np.testing.assert_array_equal(frames, expected)
    del frames
    load(tmp_path, 2, limit_gb=0)
    assert path not in cached(tmp_path) and len(cached(tmp_path)) == 1


def test_frames_used_by_another_process_are_kept(tmp_path: Path) -> None:
    load(tmp_path, 0)
    (path,) = cached(tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\nfrom descriptor.frame_cache import _open\n"
        f"frames = _open(Path(sys.argv[1]), (2, *{SIZE}, 3))\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == "ready\n"
        load(tmp_path, 1, limit_gb=0)
        assert path in cached(tmp_path)
        child.stdin.close()
    load(tmp_path, 2, limit_gb=0)
    assert path not in cached(tmp_path)


def test_no_limit_removes_nothing(tmp_path: Path) -> None:
    for seed in range(4):
        load(tmp_path, seed, limit_gb=None)
    assert len(cached(tmp_path)) == 4


def test_thousands_of_sequences_do_not_exhaust_file_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_cache, "_HIGHEST_DESCRIPTOR", 0)
    frames = load(tmp_path, 0)
    (path,) = cached(tmp_path)
    assert not _is_in_use(path) and frames.shape == (2, *SIZE, 3)


def test_only_cache_files_are_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(tmp_path, 0)
    ours = cached(tmp_path) | {cache / f".partial.{'0' * 32}.npy"}
    names = [f"{'0' * 31}.npy", f"{'A' * 32}.npy", f"{'0' * 32}.npz", f"x{'0' * 32}.npy", "embeddings.npy", "notes.txt"]
    foreign = [cache / name for name in names]
    for path in (*ours - cached(tmp_path), *foreign):
        path.write_text("mine")
    (cache / f"{'1' * 32}.npy").mkdir()
    (cache / f"{'2' * 32}.npy").symlink_to(cache / "notes.txt")
    load(tmp_path, 1, limit_gb=0)
    clear(cache)
    assert not ours & cached(tmp_path)
    assert {path.read_text() for path in foreign} == {"mine"}
    assert cached(tmp_path) == {*foreign, cache / f"{'1' * 32}.npy", cache / f"{'2' * 32}.npy"}


def test_the_folder_is_private_to_its_owner(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(tmp_path, 0)
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o755)
    load(tmp_path, 1)
    assert cache.stat().st_mode & 0o777 == 0o700, "a folder of an earlier version is made private"


@pytest.mark.parametrize("mode, foreign", [(0o775, None), (0o777, None), (0o755, "notes.txt")])
def test_shared_and_non_empty_folders_keep_their_mode(tmp_path: Path, mode: int, foreign: str | None) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    if foreign:
        (cache / foreign).write_text("mine")
    load(tmp_path, 0)
    assert cache.stat().st_mode & 0o777 == mode


def test_the_command_prints_the_size_and_clears_on_request(tmp_path: Path) -> None:
    load(tmp_path, 0)
    command = [sys.executable, "-m", "descriptor.frame_cache", "--cache_root", str(tmp_path / "cache")]
    for flags, expected in (([], "1 files, 0.00 GB"), (["--clear"], "0 files, 0.00 GB"), ([], "0 files, 0.00 GB")):
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'cache'}: {expected}\n"), done.stderr


def test_a_missing_folder_is_an_empty_cache(tmp_path: Path) -> None:
    assert run(FrameCacheConfig(tmp_path / "none", clear=True)).endswith("0 files, 0.00 GB")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    with pytest.raises(LumenError, match="is not a folder"):
        run(FrameCacheConfig(tmp_path / "file"))


def test_clearing_fails_while_another_process_writes(tmp_path: Path) -> None:
    load(tmp_path, 0)
    with held(tmp_path / "cache"), pytest.raises(LumenError, match="another process is writing"):
        clear(tmp_path / "cache")
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("limit_gb", [-1.0, float("nan")])
def test_an_invalid_limit_is_refused(tmp_path: Path, limit_gb: float) -> None:
    with pytest.raises(LumenError, match="--cache_limit_gb"):
        TrainConfig(tmp_path, tmp_path / "log", cache_limit_gb=limit_gb)
    assert TrainConfig(tmp_path, tmp_path / "log", cache_limit_gb=None).data.cache_limit_gb is None
