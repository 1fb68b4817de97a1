"""Cache of decoded frames at the network's size, memory-mapped from files named by a hash of all inputs.

python -m descriptor.frame_cache [--clear]
"""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from descriptor.clips.cache_root import check_cache_root
from descriptor.clips.cache_root import default_cache_root as default_cache_root
from descriptor.network_frame import NetworkFrame
from pipeline.arrays import Bytes
from pipeline.command.run_command import run_command
from pipeline.data.sequence_images import read_image
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.outputs.files import atomic_write
from pipeline.outputs.locks import held
from pipeline.progress import progress

FORMAT_VERSION = 1
DEFAULT_LIMIT_GB = 20.0

_GB = 1e9
# Each sequence holds a lock; thousands of them would exhaust the file descriptors of the process. Frames beyond the
# limit are safe without a lock: on Linux, a mapped file stays readable after its removal.
_HIGHEST_DESCRIPTOR = 400
# Includes the partial files of a killed process.
_OUR_NAME = re.compile(r"(\.partial\.)?[0-9a-f]{32}\.npy")

logger = logging.getLogger(__name__)


def small_frames(
    paths: Sequence[Path],
    frame: NetworkFrame,
    root: Path,
    workers: int,
    *,
    reuse: bool = True,
    limit_gb: float | None = DEFAULT_LIMIT_GB,
) -> Bytes:
    """Frames of a sequence at the network's size, decoded or from the cache.

    Args:
        paths: paths of the recorded images.
        frame: geometry of the network's frame.
        root: folder of all caches.
        workers: threads that decode.
        reuse: use the cache of an earlier call with the same files and settings.
        limit_gb: size limit of all caches together, 1e9 bytes; the least recently used are removed first, except those
            in use by a process. None for no limit.

    Returns:
        (V, H, W, 3) uint8 RGB, memory-mapped and read-only.

    Raises:
        LumenError: if a frame is missing, damaged or of another size, or the cache cannot be written.
    """
    path = root / f"{_key(paths, frame)}.npy"
    shape = (len(paths), *frame.size, 3)
    frames = _open(path, shape) if reuse else None
    if frames is None:
        check_cache_root(root)
        _prepare(root)
        # Waits if another process is decoding.
        with held(root):
            frames = _open(path, shape) if reuse else None
            if frames is None:
                _make_room(root, limit_gb, int(np.prod(shape)))
                _decode(paths, frame, path, shape, workers)
                frames = _open(path, shape)
    if frames is None:
        raise LumenError(f"cannot read {path}, which was just written: check the disk")
    return frames


def check_limit(limit_gb: float | None) -> None:
    """Check the size limit of the cache.

    Raises:
        LumenError: if it is negative or NaN.
    """
    require(limit_gb is None or limit_gb >= 0, f"--cache_limit_gb {limit_gb}: choose 0 or more, or None")


def clear(root: Path) -> None:
    """Remove all cached frames; other files in the folder are kept.

    Raises:
        LumenError: if another process is writing, or a file cannot be removed.
    """
    if not root.exists():
        return
    with held(root, busy=f"another process is writing to {root}: wait for it"), explain_os_errors("clear", root):
        for path in _files(root):
            path.unlink(missing_ok=True)


def _prepare(root: Path) -> None:
    """Create the folder with access for its owner only, because it holds frames of patients.

    The mode of an existing folder is changed only if the folder contains nothing else and is not writable by others: a
    writable folder is shared on purpose.
    """
    with explain_os_errors("write", root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = root.stat()
        is_shared = bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if state.st_uid == os.getuid() and not is_shared and set(root.iterdir()) == set(_files(root)):
            root.chmod(0o700)


def _files(root: Path) -> list[Path]:
    """The cache files in the folder."""
    with explain_os_errors("read", root):
        return [path for path in root.iterdir() if _OUR_NAME.fullmatch(path.name) and _size(path) is not None]


def _size(path: Path) -> int | None:
    """Size of a regular file in bytes; None if it is not a regular file or does not exist."""
    with suppress(FileNotFoundError):
        state = path.lstat()
        return state.st_size if stat.S_ISREG(state.st_mode) else None
    return None


def _make_room(root: Path, limit_gb: float | None, needed_bytes: int) -> None:
    """Remove the least recently used caches until the needed bytes fit within the limit."""
    if limit_gb is None:
        return
    sizes = {path: _size(path) or 0 for path in _files(root)}
    excess = sum(sizes.values()) + needed_bytes - limit_gb * _GB
    for path in sorted(sizes, key=_last_use):
        if excess > 0 and not _is_in_use(path):
            with explain_os_errors("write", path):
                path.unlink(missing_ok=True)
            excess -= sizes[path]
    if excess > 0:
        logger.info("the frame cache exceeds its limit by %.1f GB: all of its files are in use", excess / _GB)


def _last_use(path: Path) -> float:
    with suppress(FileNotFoundError):
        state = path.stat()
        return max(state.st_atime, state.st_mtime)
    return 0.0


def _is_in_use(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # On a file system without locks the use is unknown, so the file is kept.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _mark_in_use(path: Path, frames: Bytes) -> None:
    """Record the time of use, and hold a shared lock on the file while its frames are referenced."""
    # A read-only cache is still usable.
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        if descriptor > _HIGHEST_DESCRIPTOR:
            os.close(descriptor)
            return
        weakref.finalize(frames, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _decode(paths: Sequence[Path], frame: NetworkFrame, path: Path, shape: tuple[int, ...], workers: int) -> None:
    with atomic_write(path) as partial:
        frames = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            read = pool.map(lambda each: _read(each, frame), paths)
            for row, small in enumerate(progress(read, "reading frames", total=len(paths))):
                frames[row] = small
        frames.flush()
        del frames


def _open(path: Path, shape: tuple[int, ...]) -> Bytes | None:
    try:
        frames: Bytes = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if frames.shape != shape or frames.dtype != np.uint8:
        return None
    _mark_in_use(path, frames)
    return frames


def _key(paths: Sequence[Path], frame: NetworkFrame) -> str:
    """Hash of everything the frames depend on: the current files and the geometry."""
    files = []
    for path in paths:
        with explain_os_errors("read", path):
            state = path.stat()
        files.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    facts = {"version": FORMAT_VERSION, "opencv": cv2.__version__, "frame": asdict(frame), "files": files}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _read(path: Path, frame: NetworkFrame) -> Bytes:
    image = read_image(path)
    if image is None:
        raise LumenError(f"{path} is missing or damaged: extract the sequence again")
    try:
        return frame.cut(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
    except LumenError as error:
        raise LumenError(f"{path}: {error}") from error


@dataclass(frozen=True)
class FrameCacheConfig:
    """Show the size of the cache of decoded frames, or clear it."""

    cache_root: Path = field(default_factory=default_cache_root)
    """Folder for decoded frames."""
    clear: bool = False
    """Remove all cached frames; other files in the folder are kept."""


def run(config: FrameCacheConfig) -> str:
    """Clear the cache if requested; return one line with its size."""
    root = config.cache_root
    require(not root.exists() or root.is_dir(), f"--cache_root {root} is not a folder")
    if config.clear:
        clear(root)
    sizes = [_size(path) or 0 for path in _files(root)] if root.exists() else []
    return f"{root}: {len(sizes)} files, {sum(sizes) / _GB:.2f} GB"


if __name__ == "__main__":
    sys.exit(run_command(FrameCacheConfig, run))
