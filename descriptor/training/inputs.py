"""Fingerprints of the inputs of a training, by content: independent of folder and working directory."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from descriptor.checkpoint import Checkpoint
from descriptor.training.paths import RunFolder
from pipeline.errors import LumenError, explain_os_errors
from pipeline.manifest import fingerprint_path
from pipeline.paths import TrainingPaths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingInputs:
    """Fingerprints of the inputs, SHA-256 as hex.

    Attributes:
        data: of the training and validation data.
        weights: of the starting weights; None if training starts from random weights.
    """

    data: str
    weights: str | None = None

    def resumed(self, checkpoint: Checkpoint, folder: RunFolder, data_root: Path) -> "TrainingInputs":
        """Check that the inputs equal those of the checkpoint to resume from, and return the inputs of the run.

        Starting weights are compared only if given; they are not needed to resume.

        Args:
            checkpoint: last checkpoint of the run.
            folder: folder of the run.
            data_root: folder of the data, for errors.

        Raises:
            LumenError: if the data or the starting weights differ.
        """
        before = checkpoint.training.get("inputs")
        if not isinstance(before, dict):
            logger.info("%s does not record its training data: assuming those in %s", folder.last, data_root)
            return self
        if before.get("data") != self.data:
            raise LumenError(
                f"{folder.root} contains a run whose training data differ from those now in {data_root}: choose "
                "another --log_root, or restore the data to resume"
            )
        if self.weights is not None and before.get("weights") != self.weights:
            raise LumenError(
                f"{folder.root} contains a run that started from other weights than those given now: choose another "
                "--log_root, or give the same weights to resume"
            )
        return TrainingInputs(self.data, before.get("weights"))

    def to_mapping(self) -> dict[str, Any]:
        """Builtin types, as stored in a checkpoint."""
        return asdict(self)


def fingerprint_sequences(training: Sequence[Path], validation: Sequence[Path]) -> str:
    """Fingerprint of sequences: content of models and masks, names and sizes of images and depth maps.

    Raises:
        LumenError: if a file is missing or cannot be read.
    """
    facts = {sequence: _sequence_facts(sequence) for sequence in dict.fromkeys([*training, *validation])}
    return hash_of([[facts[sequence] for sequence in sequences] for sequences in (training, validation)])


def fingerprint_weights(checkpoint: Checkpoint) -> str:
    """Fingerprint of a checkpoint's weights, independent of its format."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.model.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()


def _sequence_facts(sequence: Path) -> Mapping[str, Any]:
    paths = TrainingPaths.find(sequence)
    if paths is None:
        raise LumenError(f"{sequence} contains no training data")
    files = {
        each.name: each
        for each in (paths.motion, paths.structure, paths.intrinsics, paths.visible, paths.selected)
        + (paths.views_per_point, paths.mask)
    }
    folders = {"images": (paths.image(0).parent, "*.jpg")}
    if TrainingPaths.with_depth(sequence) is not None:
        files["depth_scale"] = paths.depth_scale
        folders["depths"] = (paths.depths, "*.png")
    # The list of all frames is optional.
    contents = {name: fingerprint_path(file) for name, file in files.items() if file != paths.selected or file.exists()}
    listed = {
        name: [name_and_size(path, folder) for path in sorted(folder.glob(pattern))]
        for name, (folder, pattern) in folders.items()
    }
    return contents | listed


def name_and_size(path: Path, root: Path) -> tuple[str, int]:
    """Path of a file relative to `root`, and its size in bytes.

    Raises:
        LumenError: if it is missing.
    """
    with explain_os_errors("read", path):
        return path.relative_to(root).as_posix(), path.stat().st_size


def hash_of(facts: Any) -> str:
    """SHA-256 of builtin types as hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
