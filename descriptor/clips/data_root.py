"""A root of training data, `<root>/<patient>/<sequence>/`, as clips of one common size."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from descriptor.clips.clip import Clip
from descriptor.clips.depth_correspondence import DepthCorrespondence
from descriptor.clips.sparse_correspondence import SparseCorrespondence
from descriptor.frame_cache import DEFAULT_LIMIT_GB, default_cache_root, small_frames
from descriptor.network_frame import Bytes, NetworkFrame, common_size, fitting_downsampling
from pipeline.data.training_data import PoseDirection, TrainingData
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError, require
from pipeline.outputs.files import is_leftover
from pipeline.paths import AnyPath, TrainingPaths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSettings:
    """How training data become clips; the names are those of DDL's flags.

    Attributes:
        image_downsampling: frames are made smaller by this.
        network_downsampling: the network frame's sides are multiples of this.
        input_size: height and width of the network's frame; None takes the smallest that holds every content area.
        network_pixels: most of a sequence's; chooses its downsampling instead of `image_downsampling` if it is given.
        inlier_percentage: the share of an SfM model's points that is kept, those of the most constant colour.
        visibility_overlap: how many frames before and after an observation a point also counts as visible.
        workers: threads that decode frames.
        reuse_cache: take frames that were decoded before.
        cache_root: where decoded frames are kept.
        cache_limit_gb: most that all of them may take, 1e9 bytes; None for no limit.
        pose_direction: how poses stand in `motion.yaml`.
    """

    image_downsampling: float = 4.0
    network_downsampling: int = 64
    input_size: tuple[int, int] | None = None
    network_pixels: int | None = None
    inlier_percentage: float = 0.99
    visibility_overlap: int = 20
    workers: int = 4
    reuse_cache: bool = True
    cache_root: Path = field(default_factory=default_cache_root)
    cache_limit_gb: float | None = DEFAULT_LIMIT_GB
    pose_direction: Literal["auto"] | PoseDirection = "auto"


def find_sequences(root: AnyPath, patients: Sequence[int | str] | None = None) -> list[Path]:
    """The sequences of some patients, or of all, by name.

    Args:
        root: its folders are patients, theirs are sequences; a sequence's own folder is taken for itself.
        patients: the names of their folders; a number also stands for a name with leading zeros.

    Raises:
        LumenError: if there are none, or a patient is not there.
    """
    root = Path(root)
    if TrainingPaths.find(root) is not None:
        require(not patients, f"{root} is one sequence, so that no patients can be chosen in it: give the folder above")
        return [root]
    require(root.is_dir(), f"{root} does not exist, or is no folder")
    found: dict[str, list[Path]] = {}
    for patient in sorted(child for child in root.iterdir() if child.is_dir() and not is_leftover(Path(child.name))):
        sequences = [child for child in sorted(patient.iterdir()) if _holds_training_data(child)]
        if sequences:
            found[patient.name] = sequences
    if not found:
        raise LumenError(
            f"{root} holds no training data: expected <patient>/<sequence>/ with motion.yaml or colmap/0/motion.yaml, "
            "as data_prep/bootstrap.py writes it"
        )
    if patients is None:
        return [sequence for sequences in found.values() for sequence in sequences]
    return [sequence for patient in patients for sequence in found[_patient_folder(patient, found, root)]]


def load_clips(sequences: Sequence[AnyPath], settings: DataSettings) -> list[Clip]:
    """Read sequences at one common size.

    Raises:
        LumenError: if one is missing or damaged, has fewer than two registered frames, or the input size does not fit.
    """
    roots = [Path(sequence) for sequence in sequences]
    models = [read_training_data(sequence, settings.pose_direction) for sequence in roots]
    for sequence, model in zip(roots, models, strict=True):
        require(
            len(model.frame_index) > 1,
            f"{sequence} has {len(model.frame_index)} registered frame: a pair needs two; leave this sequence out",
        )
    downsamplings = [_downsampling(model.mask, settings) for model in models]
    size = _size(models, downsamplings, settings)
    return [
        _load(sequence, model, NetworkFrame.of_mask(model.mask, downsampling, size), settings)
        for sequence, model, downsampling in zip(roots, models, downsamplings, strict=True)
    ]


def _downsampling(mask: Bytes, settings: DataSettings) -> float:
    if settings.network_pixels is None:
        return settings.image_downsampling
    return fitting_downsampling(mask, settings.network_downsampling, settings.network_pixels)


def _size(models: Sequence[TrainingData], downsamplings: Sequence[float], settings: DataSettings) -> tuple[int, int]:
    multiple = settings.network_downsampling
    sizes = [common_size([each.mask], by, multiple) for each, by in zip(models, downsamplings, strict=True)]
    needed = max(height for height, _ in sizes), max(width for _, width in sizes)
    if settings.input_size is None:
        return needed
    size = settings.input_size
    height, width = size
    if height % multiple or width % multiple or min(size) < multiple:
        raise LumenError(
            f"--input_size {height} {width}: both have to be multiples of --network_downsampling {multiple}; "
            f"{needed[0]} {needed[1]} holds every content area"
        )
    if height < needed[0] or width < needed[1]:
        logger.warning(
            "an input size of %d %d cuts content off; %d %d holds all of it", height, width, needed[0], needed[1]
        )
    return size


def _load(sequence: Path, model: TrainingData, frame: NetworkFrame, settings: DataSettings) -> Clip:
    mask = frame.cut_mask(model.mask)
    images = small_frames(
        *(model.image_paths, frame, settings.cache_root, settings.workers),
        reuse=settings.reuse_cache,
        limit_gb=settings.cache_limit_gb,
    )
    correspondence: SparseCorrespondence | DepthCorrespondence
    if DepthCorrespondence.is_known_for(sequence):
        correspondence = DepthCorrespondence(model, sequence, frame, mask)
    else:
        correspondence = SparseCorrespondence.pruned(
            model, images, frame, mask, settings.visibility_overlap, settings.inlier_percentage
        )
    name = f"{sequence.absolute().parent.name}/{sequence.absolute().name}"
    return Clip(name, model.frame_index, images, mask, frame, correspondence, model.image_paths, model.mask)


def _holds_training_data(folder: Path) -> bool:
    return folder.is_dir() and not is_leftover(Path(folder.name)) and TrainingPaths.find(folder) is not None


def _patient_folder(patient: int | str, found: dict[str, list[Path]], root: Path) -> str:
    for name in sorted(found, key=lambda name: name != str(patient)):
        if name == str(patient) or (name.isdigit() and str(patient).isdigit() and int(name) == int(patient)):
            return name
    raise LumenError(f"{root} has no patient {patient}; there are {', '.join(found)}")
