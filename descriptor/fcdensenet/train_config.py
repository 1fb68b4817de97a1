"""What `train.py` takes: DDL's flags by their names, and ours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from descriptor.clips.data_root import DataSettings
from descriptor.fcdensenet.network import DOWNSAMPLING
from descriptor.fcdensenet.response_loss import MAX_MATCHING_SCALE
from descriptor.frame_cache import DEFAULT_LIMIT_GB, check_limit, default_cache_root
from pipeline.errors import require

CONTRAST_RADIUS = 16.0
_MOST_GROUP_FRAMES = 4
_DOWNSAMPLING = 4.0


@dataclass(frozen=True)
class TrainConfig:
    """Train a dense descriptor on SfM training data, from nothing but the videos themselves.

    The flags of Dense Descriptor Learning (DDL; Liu et al., CVPR 2020) mean what they mean there.
    """

    # What a record leaves out besides paths: the folders of patients may have their names.
    PRIVATE = ("id_range", "training_patient_id", "validation_patient_id", "testing_patient_id")

    training_data_root: Path
    """Folder of <patient>/<sequence>/ with training data, as data_prep/bootstrap.py writes it."""
    log_root: Path
    """Folder to write into: checkpoints, TensorBoard's events, settings."""

    method: Literal["fcdensenet"] = "fcdensenet"
    """What is trained: DDL's network; gift has settings of its own, which --method gift --help shows."""
    adjacent_range: tuple[int, int] = (1, 50)
    """Lowest and highest distance of a pair's frames in the video."""
    image_downsampling: float | None = None
    """Frames are made smaller by this before the network; by default 4, or as --network_pixels wants it."""
    network_downsampling: int = 64
    """Height and width of the network's frame are multiples of this."""
    input_size: tuple[int, int] | None = None
    """Height and width of the network's frame; by default the smallest that holds every content area."""
    network_pixels: int | None = None
    """Most pixels of a video's frame before the network: how much smaller frames are made then follows, whatever the
    videos' size."""
    id_range: list[str] | None = None
    """Patients to read; by default all."""
    training_patient_id: list[str] | None = None
    """Patients to train on; by default those of --id_range that are not validated or tested on."""
    validation_patient_id: list[str] | None = None
    """Patients to validate on; by default those trained on."""
    testing_patient_id: list[str] | None = None
    """Patients for test.py."""
    batch_size: int = 4
    """Pairs of new frames a step: twice as many frames are described."""
    group_frames: int | None = None
    """Frames of one stretch of video that are trained on together, every pair of them in both directions; by default
    as many as divide the frames of a step, at most 4."""
    sampling_size: int = 256
    """Most points a pair."""
    target_stride: int = 4
    """Every how many-th pixel of a target the response is compared with, a different one in each step."""
    num_workers: int = 4
    """Threads that prepare frames."""
    num_pre_workers: int = 4
    """Threads that decode frames for the cache."""
    num_epoch: int = 100
    """Epochs."""
    num_iter: int = 3000
    """Steps of an epoch."""
    max_minutes: float | None = None
    """Train this long by the clock instead of --num_epoch: the learning rate then goes by the time."""
    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    """muon and adamw warm up to the highest learning rate and come down once; sgd goes up and down in each epoch
    (DDL's)."""
    lr_range: tuple[float, float] = (1.0e-4, 2.0e-3)
    """Lowest and highest learning rate."""
    rr_weight: float = 1.0
    """Weight of the relative response loss."""
    matching_scale: float = 20.0
    """Sharpness of the heatmaps' softmax."""
    matching_threshold: float = 0.9
    """Subtracted from responses by DDL; it cancels in the softmax."""
    inlier_percentage: float = 0.99
    """Share of the points that is kept, 0..1: those whose colour changes least."""
    visibility_overlap: int = 20
    """How many frames before and after an observation a point also counts as visible."""
    frame_share: tuple[float, float] = (0.0, 1.0)
    """Which part of each sequence to train on; the rest is validated on, if there is one."""
    contrast_radius: float | None = None
    """Local contrast is made equal within about this many pixels of the network's frame; 0 for none, as DDL has it; by
    default 16, or as the checkpoint has it that training starts from."""
    augmentation: float = 0.0
    """How much frames are changed while training (light, colour, glints, blur, turns, compression), 0..1."""
    feature_length: int = 256
    """Channels of a descriptor."""
    filter_growth_rate: int = 10
    """Channels that each layer of the network adds."""
    validation_interval: int = 1
    """Epochs between validations."""
    display_interval: int = 20
    """Steps between entries in TensorBoard."""
    heatmap_sigma: float = 5.0
    """Width of the true heatmaps that TensorBoard shows, px."""
    cross_check_distance: float = 5.0
    """How near to its start a match has to come back to count as consistent, px."""
    display_architecture: bool = False
    """Print the network's layers."""
    load_intermediate_data: bool = True
    """Take frames that an earlier run decoded with the same settings."""
    cache_root: Path = field(default_factory=default_cache_root)
    """Where decoded frames are kept."""
    cache_limit_gb: float | None = DEFAULT_LIMIT_GB
    """Most that all decoded frames may take, GB; those whose last use is longest ago are removed first, those in use
    never. None for no limit."""
    load_trained_model: bool = False
    """Start from the weights in --trained_model_path. A run in --log_root has to have started from them, too."""
    trained_model_path: Path | None = None
    """Checkpoint, ours or DDL's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic; bfloat16 is faster on GPUs."""
    seed: int = 0
    """Of all random choices."""
    record_path: bool = False
    """Write the paths and names of patients that are given here to checkpoints and train.yaml, too."""

    def __post_init__(self) -> None:
        low, high = self.adjacent_range
        require(1 <= low <= high, f"--adjacent_range {low} {high}: give the lowest, at least 1, and the highest")
        require(self.batch_size > 0, f"--batch_size {self.batch_size}: choose 1 or more")
        frames = 2 * self.batch_size
        require(
            self.group_frames is None or (self.group_frames > 1 and frames % self.group_frames == 0),
            f"--group_frames {self.group_frames}: choose 2 or more that divide the {frames} frames of "
            f"--batch_size {self.batch_size}",
        )
        require(0 < self.inlier_percentage <= 1, f"--inlier_percentage {self.inlier_percentage}: choose 0..1")
        require(
            0 < self.matching_scale <= MAX_MATCHING_SCALE,
            f"--matching_scale {self.matching_scale}: choose up to {MAX_MATCHING_SCALE}",
        )
        require(
            self.network_downsampling > 0 and self.network_downsampling % DOWNSAMPLING == 0,
            f"--network_downsampling {self.network_downsampling}: choose a multiple of {DOWNSAMPLING}",
        )
        require(
            self.image_downsampling is None or (self.image_downsampling >= 1 and self.network_pixels is None),
            f"--image_downsampling {self.image_downsampling}: choose 1 or more, and not --network_pixels with it "
            "(None takes that of a preset away)",
        )
        smallest = self.network_downsampling**2
        require(
            self.network_pixels is None or (self.network_pixels >= smallest and self.input_size is None),
            f"--network_pixels {self.network_pixels}: choose {smallest} or more, and no --input_size with it",
        )
        require((self.contrast_radius or 0) >= 0, f"--contrast_radius {self.contrast_radius}: choose 0 or more")
        require(0 <= self.augmentation <= 1, f"--augmentation {self.augmentation}: choose 0..1")
        names = ("sampling_size", "target_stride", "num_epoch", "num_iter", "feature_length", "filter_growth_rate")
        for name in (*names, "validation_interval", "display_interval"):
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: choose 1 or more")
        require(self.seed >= 0, f"--seed {self.seed}: choose 0 or more")
        require(
            self.max_minutes is None or self.max_minutes > 0, f"--max_minutes {self.max_minutes}: choose more than 0"
        )
        slow, fast = self.lr_range
        require(0 < slow <= fast, f"--lr_range {slow} {fast}: give the lowest, above 0, and the highest")
        require(
            self.cache_root.absolute() != self.log_root.absolute(),
            f"--log_root and --cache_root are both {self.log_root}: choose a folder for each",
        )
        check_limit(self.cache_limit_gb)
        first, end = self.frame_share
        require(0 <= first < end <= 1, f"--frame_share {first} {end}: give two shares of the frames, such as 0 0.8")
        require(
            not self.load_trained_model or self.trained_model_path is not None,
            "--load_trained_model needs --trained_model_path FILE",
        )

    @property
    def frames_per_group(self) -> int:
        """N, of `descriptor.clips.groups.Group`."""
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
