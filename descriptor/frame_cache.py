"""Frames at the network's size, decoded once and mapped from disk, under a name that holds all they depend on."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from descriptor.cache_root import check_cache_root
from descriptor.cache_root import default_cache_root as default_cache_root
from descriptor.network_frame import NetworkFrame
from pipeline.errors import LumenError, explain_os_errors
from pipeline.files import atomic_write
from pipeline.locks import held
from pipeline.progress import progress
from pipeline.sequence_images import read_image

FORMAT_VERSION = 1


def small_frames(
    paths: Sequence[Path], frame: NetworkFrame, root: Path, workers: int, *, reuse: bool = True
) -> npt.NDArray[np.uint8]:
    """The frames of a sequence as the network sees them.

    Args:
        paths: of the recorded images.
        frame: how they become the network's.
        root: the folder of all caches.
        workers: threads that decode.
        reuse: take what an earlier call with the same files and settings left.

    Returns:
        (V, H, W, 3) uint8 RGB, mapped from disk and read-only.

    Raises:
        LumenError: if a frame is missing, damaged or of another size, or the cache cannot be written.
    """
    path = root / f"{_key(paths, frame)}.npy"
    shape = (len(paths), *frame.size, 3)
    cached = _open(path, shape) if reuse else None
    if cached is not None:
        return cached
    check_cache_root(root)
    # What another process is making is waited for.
    with held(root):
        cached = _open(path, shape) if reuse else None
        if cached is not None:
            return cached
        _decode(paths, frame, path, shape, workers)
    cached = _open(path, shape)
    if cached is None:
        raise LumenError(f"cannot read {path}, which was just written: is the disk in order?")
    return cached


def _decode(paths: Sequence[Path], frame: NetworkFrame, path: Path, shape: tuple[int, ...], workers: int) -> None:
    with atomic_write(path) as partial:
        frames = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            read = pool.map(lambda each: _read(each, frame), paths)
            for row, small in enumerate(progress(read, "reading frames", total=len(paths))):
                frames[row] = small
        frames.flush()
        del frames


def _open(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    try:
        frames: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return frames if frames.shape == shape and frames.dtype == np.uint8 else None


def _key(paths: Sequence[Path], frame: NetworkFrame) -> str:
    """A name for what the frames depend on: the files as they are now, and the geometry."""
    files = []
    for path in paths:
        with explain_os_errors("read", path):
            state = path.stat()
        files.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    facts = {"version": FORMAT_VERSION, "opencv": cv2.__version__, "frame": asdict(frame), "files": files}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _read(path: Path, frame: NetworkFrame) -> npt.NDArray[np.uint8]:
    image = read_image(path)
    if image is None:
        raise LumenError(f"{path} is missing or damaged: extract the sequence again")
    try:
        return frame.cut(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
    except LumenError as error:
        raise LumenError(f"{path}: {error}") from error
