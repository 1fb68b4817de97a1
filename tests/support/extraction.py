"""Run the extraction, in this process or in a child process, and read its outputs."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_prep.extract import ExtractConfig, run
from pipeline.command.config import configure
from pipeline.data.sequence import Sequence
from pipeline.paths import RunPaths, SequencePaths
from repository import ROOT

EXTRACT = ROOT / "data_prep" / "extract.py"


def extract(video: Path, output: Path, **settings: Any) -> RunPaths:
    run(configure(ExtractConfig, video=video, output=output, **settings))
    return RunPaths(output)


def run_command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXTRACT), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of an extraction, except for reports, which contain times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "reports"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def only_sequence(run_paths: RunPaths) -> tuple[SequencePaths, Sequence]:
    (paths,) = run_paths.sequences()
    return paths, Sequence.load(paths.sequence)
