"""Loads training data, `<root>/<patient>/<sequence>/`, as clips of one common size."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from descriptor.clips.clip import Clip
from descriptor.clips.depth_correspondence import DepthCorrespondence
from descriptor.clips.sparse_correspondence import SparseCorrespondence
from descriptor.frame_cache import DEFAULT_LIMIT_GB, default_cache_root, small_frames
from descriptor.network_frame import NetworkFrame, common_size, fitting_downsampling
from pipeline.arrays import Bytes
from pipeline.data.training_data import PoseDirection, TrainingData
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError, require
from pipeline.outputs.files import is_leftover
from pipeline.paths import AnyPath, TrainingPaths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSettings:
    """Settings of the conversion from training data to clips; the names are those of DDL's flags.

    Attributes:
        image_downsampling: factor by which frames are downsampled.
        network_downsampling: height and width of the network's frame are multiples of this.
        input_size: height and width of the network's frame; None for the smallest that holds every content area.
        network_pixels: maximum number of pixels of the network's frame; if given, it determines the downsampling of
            each sequence instead of `image_downsampling`.
        inlier_percentage: share of an SfM model's points to keep, those of the most constant colour, 0..1.
        visibility_overlap: a point also counts as visible in this many frames before and after each observation.
        workers: threads that decode frames.
        reuse_cache: use frames that were decoded before.
        cache_root: folder for decoded frames.
        cache_limit_gb: size limit of all decoded frames, 1e9 bytes; None for no limit.
        pose_direction: direction of the poses in `motion.yaml`.
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
    """Find the sequences of some patients, or of all, ordered by name.

    Args:
        root: folder of <patient>/<sequence>/, or the folder of one sequence.
        patients: names of patient folders; a number also matches a name with leading zeros.

    Raises:
        LumenError: if there are no sequences, or a patient does not exist.
    """
    root = Path(root)
    if TrainingPaths.find(root) is not None:
        require(not patients, f"{root} is one sequence: to select patients, give the folder that contains them")
        return [root]
    require(root.is_dir(), f"{root} does not exist or is not a folder")
    found: dict[str, list[Path]] = {}
    for patient in sorted(child for child in root.iterdir() if child.is_dir() and not is_leftover(Path(child.name))):
        sequences = [child for child in sorted(patient.iterdir()) if _holds_training_data(child)]
        if sequences:
            found[patient.name] = sequences
    if not found:
        raise LumenError(
            f"{root} contains no training data: expected <patient>/<sequence>/ with motion.yaml or "
            "colmap/0/motion.yaml, as written by data_prep/bootstrap.py"
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
            f"{sequence} has {len(model.frame_index)} registered frame: a pair needs two; remove this sequence",
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
            f"--input_size {height} {width}: choose multiples of --network_downsampling {multiple}; "
            f"{needed[0]} {needed[1]} holds every content area"
        )
    if height < needed[0] or width < needed[1]:
        logger.warning(
            "--input_size %d %d crops the content area; %d %d holds all of it", height, width, needed[0], needed[1]
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
    raise LumenError(f"{root} has no patient {patient}: choose from {', '.join(found)}")
