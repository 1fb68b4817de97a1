"""Atomic writes: what has its final name is whole, whenever the process was killed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import LumenError, explain_os_errors


def partial_path(path: Path) -> Path:
    """The temporary name beside `path`. It keeps the suffix, because some writers choose the format by it."""
    return path.with_name(f".partial.{path.name}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block ends without an error.

    The name is the same at every run, so a killed write leaves at most one file, which the next one replaces.

    Raises:
        LumenError: if the file cannot be written (disk full, no permission, ...); nothing is left behind.
    """
    partial = partial_path(path)
    with explain_os_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _flush_to_disk(partial)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write builtin types (dict, list, str, numbers) to `path` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def write_yaml(path: Path, data: Any) -> None:
    """Write builtin types to `path` as YAML, atomically: keys in their order, innermost collections on one line."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as stream:
        yaml.dump(data, stream, dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=160)


def read_yaml(path: Path) -> Any:
    """Read a YAML (or JSON) file into builtin types.

    Raises:
        LumenError: if it cannot be read or is not YAML, with the line.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with explain_os_errors("read", path):
        text = path.read_bytes()
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise LumenError(f"{path}{where} is not valid YAML: {problem}") from error


def publish_directory(partial: Path, final: Path) -> None:
    """Move a finished folder to its final name, replacing what is there; undo-able at any point of a kill.

    An existing `final` is first moved aside; `recover_directory` puts it back if the process dies in between.
    """
    aside = _aside_path(final)
    with explain_os_errors("write", final):
        if final.exists():
            os.rename(final, aside)
        os.rename(partial, final)
        if aside.exists():
            shutil.rmtree(aside)


def recover_directory(final: Path) -> None:
    """Finish or undo a `publish_directory` that was killed half-way. Call it before looking at `final`."""
    aside = _aside_path(final)
    with explain_os_errors("write", final):
        if aside.exists() and final.exists():
            shutil.rmtree(aside)
        elif aside.exists():
            os.rename(aside, final)


def _aside_path(final: Path) -> Path:
    return final.with_name(f".replaced.{final.name}")


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
