"""Settings of `train.py`: DDL's flags under their names, and ours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from descriptor.clips.data_root import DataSettings
from descriptor.fcdensenet.network import DOWNSAMPLING
from descriptor.fcdensenet.response_loss import MAX_MATCHING_SCALE
from descriptor.frame_cache import DEFAULT_LIMIT_GB, default_cache_root
from pipeline.command.bounds import Count, NonNegative, NonNegativeInt, Positive, PositiveShare, Settings, Share
from pipeline.errors import require

CONTRAST_RADIUS = 16.0
_MOST_GROUP_FRAMES = 4
_DOWNSAMPLING = 4.0


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Train a dense descriptor on SfM training data, without any annotation.

    Flags of Dense Descriptor Learning (DDL; Liu et al., CVPR 2020) have the same meaning as there.
    """

    # Not recorded, in addition to paths: patient folders may be named after the patients.
    PRIVATE = ("id_range", "training_patient_id", "validation_patient_id", "testing_patient_id")

    training_data_root: Path
    """Folder of <patient>/<sequence>/ with training data, as written by data_prep/bootstrap.py."""
    log_root: Path
    """Output folder: checkpoints, TensorBoard events, settings."""

    method: Literal["fcdensenet"] = "fcdensenet"
    """What to train: DDL's network. See --method gift --help for the settings of GIFT."""
    adjacent_range: tuple[Count, Count] = (1, 50)
    """Smallest and largest distance between the frames of a pair, in frames of the video."""
    image_downsampling: Annotated[float, msgspec.Meta(ge=1)] | None = None
    """Factor by which frames are downsampled before the network. None for 4, or chosen from --network_pixels."""
    network_downsampling: Count = 64
    """Height and width of the network's frame are multiples of this."""
    input_size: tuple[int, int] | None = None
    """Height and width of the network's frame. None for the smallest size that holds every content area."""
    network_pixels: int | None = None
    """Largest number of pixels of the network's frame. Chooses the downsampling of each video from its size."""
    id_range: list[str] | None = None
    """Patients to read. None for all."""
    training_patient_id: list[str] | None = None
    """Patients to train on. None for those of --id_range that are not used for validation or testing."""
    validation_patient_id: list[str] | None = None
    """Patients to validate on. None for the training patients."""
    testing_patient_id: list[str] | None = None
    """Patients reserved for test.py."""
    batch_size: Count = 4
    """New pairs of frames per step; twice as many frames are described."""
    group_frames: Annotated[int, msgspec.Meta(ge=2)] | None = None
    """Frames of one stretch of video that are trained on together, every pair of them in both directions. None for the
    largest divisor of the frames of a step that is at most 4."""
    sampling_size: Count = 256
    """Maximum number of points per pair."""
    target_stride: Count = 4
    """Compare the response with every N-th pixel of a target; the offset changes from step to step."""
    num_workers: int = 4
    """Threads that prepare frames."""
    num_pre_workers: int = 4
    """Threads that decode frames for the cache."""
    num_epoch: Count = 100
    """Number of epochs."""
    num_iter: Count = 3000
    """Steps per epoch."""
    max_minutes: Positive | None = None
    """Train for this many minutes instead of --num_epoch; the learning rate then follows the elapsed time."""
    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    """muon and adamw warm up to the highest learning rate, then decay once; sgd cycles up and down in each epoch, as in
    DDL."""
    lr_range: tuple[Positive, Positive] = (1.0e-4, 2.0e-3)
    """Lowest and highest learning rate."""
    rr_weight: float = 1.0
    """Weight of the relative response loss."""
    matching_scale: Annotated[float, msgspec.Meta(gt=0, le=MAX_MATCHING_SCALE)] = 20.0
    """Sharpness of the softmax of the heatmaps."""
    matching_threshold: float = 0.9
    """Accepted for DDL's command lines: DDL subtracts it from the responses, but it cancels in the softmax."""
    inlier_percentage: PositiveShare = 0.99
    """Share of the points to keep, 0..1: those whose colour changes least."""
    visibility_overlap: int = 20
    """A point also counts as visible in this many frames before and after each observation."""
    frame_share: tuple[Share, Share] = (0.0, 1.0)
    """Part of each sequence to train on; the rest, if any, is used for validation."""
    contrast_radius: NonNegative | None = None
    """Local contrast is normalised within about this many pixels of the network's frame; 0 for none, as in DDL.
    None for 16, or the value of the checkpoint that training starts from."""
    augmentation: Share = 0.0
    """Strength of the augmentation (light, colour, highlights, blur, rotation, compression), 0..1."""
    feature_length: Count = 256
    """Channels of a descriptor."""
    filter_growth_rate: Count = 10
    """Channels that each layer of the network adds."""
    validation_interval: Count = 1
    """Epochs between validations."""
    display_interval: Count = 20
    """Steps between entries in TensorBoard."""
    heatmap_sigma: float = 5.0
    """Width of the ground-truth heatmaps shown in TensorBoard, px."""
    cross_check_distance: float = 5.0
    """A match counts as consistent if its reverse match ends within this distance of the start, px."""
    display_architecture: bool = False
    """Print the network's layers."""
    load_intermediate_data: bool = True
    """Use frames that an earlier run decoded with the same settings."""
    cache_root: Path = field(default_factory=default_cache_root)
    """Folder for decoded frames."""
    cache_limit_gb: NonNegative | None = DEFAULT_LIMIT_GB
    """Size limit of all decoded frames together, GB. The least recently used are removed first; frames in use are
    kept. None for no limit."""
    load_trained_model: bool = False
    """Start from the weights in --trained_model_path. A run in --log_root must have started from them as well."""
    trained_model_path: Path | None = None
    """Checkpoint, ours or DDL's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's arithmetic; bfloat16 is faster on GPUs."""
    seed: NonNegativeInt = 0
    """Seed of all random choices."""
    record_path: bool = False
    """Also write the given paths and patient names to checkpoints and train.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.adjacent_range
        require(low <= high, f"--adjacent_range {low} {high}: give the lowest first")
        frames = 2 * self.batch_size
        require(
            self.group_frames is None or frames % self.group_frames == 0,
            f"--group_frames {self.group_frames}: choose a divisor of the {frames} frames of --batch_size "
            f"{self.batch_size}",
        )
        require(
            self.network_downsampling % DOWNSAMPLING == 0,
            f"--network_downsampling {self.network_downsampling}: choose a multiple of {DOWNSAMPLING}",
        )
        self._check_frame_size()
        slow, fast = self.lr_range
        require(slow <= fast, f"--lr_range {slow:g} {fast:g}: give the lowest first")
        require(
            self.cache_root.absolute() != self.log_root.absolute(),
            f"--log_root and --cache_root are both {self.log_root}: choose a folder for each",
        )
        first, end = self.frame_share
        require(first < end, f"--frame_share {first:g} {end:g}: give two shares of the frames, such as 0 0.8")
        require(
            not self.load_trained_model or self.trained_model_path is not None,
            "--load_trained_model needs --trained_model_path FILE",
        )

    def _check_frame_size(self) -> None:
        pixels = self.network_pixels
        require(
            pixels is None or self.image_downsampling is None,
            f"--image_downsampling and --network_pixels {pixels} exclude each other: give one "
            "(None removes that of a preset)",
        )
        smallest = self.network_downsampling**2
        require(pixels is None or pixels >= smallest, f"--network_pixels {pixels}: choose {smallest} or more")
        require(
            pixels is None or self.input_size is None,
            f"--input_size and --network_pixels {pixels} exclude each other: give one",
        )

    @property
    def frames_per_group(self) -> int:
        """Frames of a `descriptor.clips.groups.Group`."""
        fitting = (size for size in range(2, _MOST_GROUP_FRAMES + 1) if 2 * self.batch_size % size == 0)
        return self.group_frames or max(fitting)

    @property
    def data(self) -> DataSettings:
        return DataSettings(
            image_downsampling=self.image_downsampling or _DOWNSAMPLING,
            network_downsampling=self.network_downsampling,
            input_size=self.input_size,
            network_pixels=self.network_pixels,
            inlier_percentage=self.inlier_percentage,
            visibility_overlap=self.visibility_overlap,
            workers=self.num_pre_workers,
            reuse_cache=self.load_intermediate_data,
            cache_root=self.cache_root,
            cache_limit_gb=self.cache_limit_gb,
        )
