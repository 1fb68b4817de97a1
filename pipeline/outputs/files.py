"""Atomic writes: a file with its final name is complete, even if the process was killed."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.arrays import Float64s
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.outputs.locks import LOCK_PREFIX
from pipeline.outputs.owned_files import RECORD_NAME, own, share_output

_ROWS_AT_ONCE = 1000
_PARTIAL, _REPLACED = ".partial.", ".replaced."


def partial_path(path: Path) -> Path:
    """The temporary path beside `path`. It keeps the suffix, which selects the format in some writers."""
    return path.with_name(f"{_PARTIAL}{path.name}")


def is_leftover(path: Path) -> bool:
    """Whether `path`, or a folder in it, has a temporary name: a killed process may leave such files behind."""
    return any(part.startswith((_PARTIAL, _REPLACED, LOCK_PREFIX)) or part == RECORD_NAME for part in path.parts)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    The temporary name is always the same, so a killed write leaves at most one file, which the next write replaces.
    Two processes therefore must not write the same path at the same time.

    Inside an output folder that this process holds, the file is listed in its record (`pipeline.outputs.owned_files`).

    Raises:
        LumenError: if the file cannot be written (disk full, no permission, ...) or `path` is a file of the user;
            nothing is left behind.
    """
    partial = partial_path(path)
    with explain_os_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own(path)
        try:
            yield partial
            _flush_to_disk(partial)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a file, or copy it if the file system has no hard links.

    Both names share their storage, so use this only inside one output folder. Copy files from elsewhere (`copy_file`):
    whoever edits an output must not change files outside it.

    Raises:
        LumenError: if the source cannot be read, or the target cannot be written or already exists. An existing target
            may be a hard link to another file, and is never overwritten.
    """
    with explain_os_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise LumenError(f"{target} already exists: move it away")
        own(target)
        with suppress(OSError):
            # Resolved, because a relative symbolic link has another target in another folder.
            os.link(source.resolve(), target)
            return
    copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes, atomically; the copy shares no storage with the original.

    Raises:
        LumenError: if the source cannot be read, or the target cannot be written.
    """
    with explain_os_errors("read", source):
        data = source.read_bytes()
    write_bytes(target, data)


def copy_or_link(source: Path, target: Path) -> None:
    """Copy a file, or hard-link it if source and target are in one output folder that this process holds.

    Raises:
        LumenError: see `link_or_copy`.
    """
    if share_output(source, target):
        link_or_copy(source, target)
        return
    copy_file(source, target)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically. Bytes that are not valid text become `\\udce9`, as in JSON."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, data: Any) -> None:
    """Write builtin types (dict, list, str, numbers) to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: Path, data: Any, comment: str | None = None) -> None:
    """Write builtin types to `path` as YAML, atomically. Keys keep their order; innermost mappings take one line.

    `comment` is one line that precedes the keys.

    A long list directly under a top-level key is written in parts, because PyYAML needs kilobytes of memory per row.
    """
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as stream:
        if comment is not None:
            stream.write(f"# {comment}\n")
        for part in _parts(data):
            if isinstance(part, str):
                stream.write(part)
            else:
                yaml.dump(part, stream, _Dumper, sort_keys=False, allow_unicode=True, width=160)


def _parts(data: Any) -> Iterator[Any]:
    """Documents and lines of text that together form the YAML of `data`."""
    if not isinstance(data, dict) or not data:
        yield data
        return
    for key, value in data.items():
        if isinstance(key, str) and key.isidentifier() and isinstance(value, list) and len(value) > _ROWS_AT_ONCE:
            yield f"{key}:\n"
            yield from (value[first : first + _ROWS_AT_ONCE] for first in range(0, len(value), _ROWS_AT_ONCE))
        else:
            yield {key: value}


def read_numbers(path: Path, shape: tuple[int, int], what: str) -> Float64s:
    """Read a matrix from a text file with one line per row.

    Args:
        path: the file.
        shape: the expected numbers of rows and columns.
        what: the expected content, for errors.

    Raises:
        LumenError: if the file cannot be read or has other content.
    """
    try:
        with explain_os_errors("read", path):
            text = path.read_text()
        values = np.array([[float(number) for number in line.split()] for line in text.strip().splitlines()])
    # Also raised for binary files.
    except ValueError:
        values = np.zeros((0, 0))
    require(values.shape == shape, f"{path}: expected {what}, {shape[0]} rows of {shape[1]} numbers")
    return values


def read_yaml(path: Path) -> Any:
    """Read a YAML (or JSON) file into builtin types. `1e-4` is a number.

    Raises:
        LumenError: if the file cannot be read, is not YAML or has a duplicate key; the message gives the line.
    """
    with explain_os_errors("read", path):
        text = path.read_bytes()
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        # At the end of a file, libyaml reports a line that does not exist.
        last_line = text.count(b"\n")
        where = f" (line {min(mark.line, last_line) + 1})" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise LumenError(f"{path}{where} is not valid YAML: {problem}") from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader with the numbers of YAML 1.2. Duplicate keys are errors; PyYAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                problem = f"duplicate key {key.value!r}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_binary(self, node: yaml.ScalarNode) -> str:
        return os.fsdecode(self.construct_yaml_binary(node))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A safe dumper that quotes strings that `_Loader` would read as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def serialize(self, node: yaml.Node) -> None:
        """Write the top level of the document in block style, one key per line."""
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = False
        super().serialize(node)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """Write a mapping of scalars and lists of scalars on one line, so that a list of them looks like a table."""
        node: yaml.MappingNode = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = all(_is_plain(value) for _, value in node.value)
        return node

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Write a file name that is not valid text as binary data, because YAML is Unicode. `_Loader` decodes it."""
        try:
            text.encode()
        except UnicodeEncodeError:
            return self.represent_binary(os.fsencode(text))
        return self.represent_str(text)


def _is_plain(node: yaml.Node) -> bool:
    if isinstance(node, yaml.SequenceNode):
        return all(isinstance(item, yaml.ScalarNode) for item in node.value)
    return isinstance(node, yaml.ScalarNode)


_FLOAT_WITHOUT_DOT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)[eE][0-9]+")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT_WITHOUT_DOT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:binary", _Loader.construct_binary)
_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT_WITHOUT_DOT, list("-+.0123456789"))


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
