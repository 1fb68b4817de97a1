"""What made each output of a run, and so whether it is still current.

A stage's fingerprint covers its inputs' contents, its resolved config, the version of the format it writes, the
versions of this tool and of its libraries, and the fingerprints of the stages before it. A re-run skips what is
current, redoes what changed and everything downstream of it, and says which and why.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pipeline.command.config import to_mapping
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import is_leftover, write_json
from pipeline.versions import versions

FORMAT_VERSION = 3
_REDONE = "redone"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One step of a run, with everything that its outputs depend on.

    Attributes:
        name: unique within the run.
        config: the resolved config dataclass, or builtin types.
        inputs: a name for each input → its fingerprint (`fingerprint_path`).
        after: the names of the stages whose outputs it reads.
        format_version: raised when the code writes something else for the same inputs.
    """

    name: str
    config: Any = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    after: Sequence[str] = ()
    format_version: int = 1


@dataclass
class StageRecord:
    """What the manifest keeps of a finished stage. `outputs` are relative to the run's folder."""

    fingerprint: str
    format_version: int
    versions: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, str]
    after: dict[str, str]
    outputs: list[str]


class Manifest:
    """The finished stages of one run, kept in a JSON file that is only ever replaced as a whole."""

    def __init__(self, path: Path, stages: dict[str, StageRecord], earlier_version: int | None = None) -> None:
        self._path = path
        self._stages = stages
        # The format of the file, if it is one of before: its stages are unknown then, and are run again.
        self.earlier_version = earlier_version

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read the manifest at `path`; a missing file is an empty run.

        Raises:
            LumenError: if the file is damaged or of a later format version.
        """
        with explain_os_errors("read", path):
            if not path.exists():
                return cls(path, {})
            data = path.read_bytes()
        advice = "move the folder away, or choose another output"
        try:
            content = json.loads(data)
            version = content["format_version"]
            if not isinstance(version, int) or version > FORMAT_VERSION:
                raise LumenError(f"{path} has format {version}; this version reads up to {FORMAT_VERSION}: {advice}")
            if version < FORMAT_VERSION:
                return cls(path, {}, version)
            return cls(path, msgspec.convert(content["stages"], dict[str, StageRecord]))
        except (ValueError, KeyError, TypeError) as error:
            raise LumenError(f"{path} is not a manifest ({error}): {advice}") from error

    def reason_to_run(self, stage: Stage) -> str | None:
        """Why `stage` must be run, or None if its outputs are current and all there.

        Raises:
            LumenError: if a stage that it comes after has not been run.
        """
        record = self._stages.get(stage.name)
        wanted = self._describe(stage)
        if record is None:
            return "not run yet" if self.earlier_version is None else "made by an earlier version of LumenSfM"
        if record.format_version != wanted.format_version:
            return f"format version {record.format_version} → {wanted.format_version}"
        for name, old, new in _differences(record.versions, wanted.versions):
            return f"version of {name}: {old} → {new}"
        for name, old, new in _differences(record.after, wanted.after):
            return f"{name} was redone" if old and new else f"{'no longer ' if old else ''}comes after {name}"
        for name, old, new in _differences(record.inputs, wanted.inputs):
            return f"input {name} {'changed' if old and new else 'added' if new else 'removed'}"
        for name, old, new in _differences(record.config, wanted.config):
            return f"{name} {old} → {new}"
        missing = [output for output in record.outputs if not (self._path.parent / output).exists()]
        return f"{missing[0]} is missing" if missing else None

    def fingerprint(self, stage: Stage) -> str:
        """Of everything that the stage depends on; the stages before it have to be done."""
        return self._describe(stage).fingerprint

    def complete(self, stage: Stage, outputs: Sequence[Path]) -> None:
        """Record that `stage` has written `outputs`, all inside the run's folder."""
        record = self._describe(stage)
        record.outputs = [str(path.relative_to(self._path.parent)) for path in outputs]
        self._stages[stage.name] = record
        self._save()

    def run(self, stage: Stage, function: Callable[[], Sequence[Path]]) -> list[Path]:
        """Call `function`, which returns what it wrote, unless the stage is current. Return its outputs."""
        reason = self.reason_to_run(stage)
        if reason is None:
            logger.info("%s: current, skipped", stage.name)
        else:
            logger.info("%s: %s", stage.name, reason)
            self._forget(stage.name)
            self.complete(stage, function())
        return [self._path.parent / output for output in self._stages[stage.name].outputs]

    def _forget(self, name: str) -> None:
        """Drop a stage that is about to be redone, so that what reads its outputs is redone even after a kill."""
        if self._stages.pop(name, None):
            for record in self._stages.values():
                if name in record.after:
                    record.after[name] = _REDONE
            self._save()

    def _save(self) -> None:
        stages = {name: msgspec.to_builtins(record) for name, record in self._stages.items()}
        write_json(self._path, {"format_version": FORMAT_VERSION, "stages": stages})

    def _describe(self, stage: Stage) -> StageRecord:
        missing = [name for name in stage.after if name not in self._stages]
        if missing:
            raise LumenError(f"{stage.name} needs {missing[0]} first: run that stage")
        parts: dict[str, Any] = {
            "format_version": stage.format_version,
            "versions": versions(),
            "config": json.loads(json.dumps(to_mapping(stage.config))),
            "inputs": dict(stage.inputs),
            "after": {name: self._stages[name].fingerprint for name in stage.after},
        }
        fingerprint = hashlib.sha256(_canonical([stage.name, parts]).encode()).hexdigest()
        return StageRecord(fingerprint=fingerprint, outputs=[], **parts)


def fingerprint_path(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of all files under a folder, as hex.

    What a killed write left behind (`pipeline.outputs.files.is_leftover`) does not count.

    Raises:
        LumenError: if it cannot be read.
    """
    with explain_os_errors("read", path):
        if path.is_dir():
            children = [child for child in path.rglob("*") if not is_leftover(child.relative_to(path))]
            files = [child for child in children if child.is_file()]
            return fingerprint_files(sorted(files), path)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_files(paths: Sequence[Path], root: Path) -> str:
    """SHA-256 over the names relative to `root` and the contents of `paths`, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(f"{path.relative_to(root)}\0{fingerprint_path(path)}\n"))
    return digest.hexdigest()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    pairs = [(name, old.get(name), new.get(name)) for name in sorted(set(old) | set(new))]
    return [(name, was, now) for name, was, now in pairs if _canonical(was) != _canonical(now)]


def _canonical(data: Any) -> str:
    """JSON with sorted keys: equal for equal data, a NaN in it included."""
    return json.dumps(data, sort_keys=True)
