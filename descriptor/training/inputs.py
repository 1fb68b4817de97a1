"""What a training depends on besides its settings, known by content: neither folder nor working directory matter."""

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
    """Fingerprints, SHA-256 as hex.

    Attributes:
        data: of the training and validation data.
        weights: of those that the training starts from; None if it starts from random ones.
    """

    data: str
    weights: str | None = None

    def resumed(self, checkpoint: Checkpoint, folder: RunFolder, data_root: Path) -> "TrainingInputs":
        """See that a run has the inputs of the checkpoint it resumes from, and return the run's.

        Starting weights are compared if they are given; to resume they are not needed.

        Args:
            checkpoint: the run's last.
            folder: of the run.
            data_root: where the data are, for errors.

        Raises:
            LumenError: if the data or the starting weights are other ones.
        """
        before = checkpoint.training.get("inputs")
        if not isinstance(before, dict):
            logger.info("%s does not record its data: they are taken to be those in %s", folder.last, data_root)
            return self
        advice = "choose another --log_root, or give the same to resume"
        if before.get("data") != self.data:
            raise LumenError(
                f"{folder.root} holds a run whose training data were not those in {data_root} as they are now: {advice}"
            )
        if self.weights is not None and before.get("weights") != self.weights:
            raise LumenError(f"{folder.root} holds a run that did not start from the weights given now: {advice}")
        return TrainingInputs(self.data, before.get("weights"))

    def to_mapping(self) -> dict[str, Any]:
        """As a checkpoint keeps them."""
        return asdict(self)


def fingerprint_sequences(training: Sequence[Path], validation: Sequence[Path]) -> str:
    """Of sequences: what their models, masks and depth maps say, and the names and sizes of their images.

    Raises:
        LumenError: if a file is missing or cannot be read.
    """
    facts = {sequence: _sequence_facts(sequence) for sequence in dict.fromkeys([*training, *validation])}
    return hash_of([[facts[sequence] for sequence in sequences] for sequences in (training, validation)])


def fingerprint_weights(checkpoint: Checkpoint) -> str:
    """Of a checkpoint's weights alone, whatever its format."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.model.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()


def _sequence_facts(sequence: Path) -> Mapping[str, Any]:
    paths = TrainingPaths.find(sequence)
    if paths is None:
        raise LumenError(f"{sequence} holds no training data")
    files = {
        each.name: each
        for each in (paths.motion, paths.structure, paths.intrinsics, paths.visible, paths.selected)
        + (paths.views_per_point, paths.mask)
    }
    folders = {"images": (paths.image(0).parent, "*.jpg")}
    if TrainingPaths.with_depth(sequence) is not None:
        files["depth_scale"] = paths.depth_scale
        folders["depths"] = (paths.depths, "*.png")
    # The list of all frames may be missing.
    contents = {name: fingerprint_path(file) for name, file in files.items() if file != paths.selected or file.exists()}
    listed = {
        name: [name_and_size(path, folder) for path in sorted(folder.glob(pattern))]
        for name, (folder, pattern) in folders.items()
    }
    return contents | listed


def name_and_size(path: Path, root: Path) -> tuple[str, int]:
    """Of a file: its path below `root`, and its size in bytes.

    Raises:
        LumenError: if it is missing.
    """
    with explain_os_errors("read", path):
        return path.relative_to(root).as_posix(), path.stat().st_size


def hash_of(facts: Any) -> str:
    """SHA-256 of builtin types, as hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
