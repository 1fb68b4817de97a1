"""Evaluation of dense descriptors beside baselines, as run by `test.py`."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch

from descriptor.base import Descriptor
from descriptor.clips.data_root import DataSettings, find_sequences, load_clips
from descriptor.device import choose_device
from descriptor.evaluation.flow_matching import FlowMatcher, TrackMatcher
from descriptor.evaluation.match_plots import draw_matches
from descriptor.evaluation.pair_matching import DescriptorMatcher, PairMatcher, RandomMatcher
from descriptor.evaluation.pck import Distances, Errors, PairSample, Sampling, evaluate, sample_pairs
from descriptor.evaluation.report import as_mapping, plot_errors, plot_pck, table
from descriptor.fcdensenet.descriptor import FCDenseNetDescriptor
from descriptor.fcdensenet.network import DOWNSAMPLING
from descriptor.frame_cache import DEFAULT_LIMIT_GB, default_cache_root
from descriptor.registry import UNTRAINED, load_descriptor
from descriptor.training.log_folder import log_folder
from descriptor.training.recorded_settings import numbered, save_recorded
from pipeline.command.bounds import Count, NonNegative, NonNegativeInt, Positive, Settings, Share
from pipeline.errors import require
from pipeline.outputs.files import write_json, write_text
from pipeline.report import StageReport

# Frames that points are sampled from and plots are drawn on have sides that are multiples of this.
_FRAME_MULTIPLE = 32
_FLOOR_EXPLAINED = (
    "\ntracked: points that can be tracked through every frame in between; checks the reference, not a method"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestConfig(Settings):
    """Measure the accuracy of dense descriptors at several distances between frames, beside baselines.

    Flags of Dense Descriptor Learning (DDL; Liu et al., CVPR 2020) have the same meaning as there.
    """

    # Keeps pytest from collecting the class.
    __test__ = False
    # Not recorded, in addition to paths: patient folders may be named after the patients.
    PRIVATE = ("testing_patient_id",)

    testing_data_root: Path
    """Folder of <patient>/<sequence>/ with training data."""
    log_root: Path
    """Output folder."""
    task: Literal["sequences"] = "sequences"
    """Data to measure on: pairs of frames. See --task hpatches --help for hpatches and relative_pose on photographs."""
    trained_model_path: Path | None = None
    """Checkpoint, ours or DDL's. Without one, only baselines are measured."""
    compared_model_paths: list[Path] = field(default_factory=list)
    """Further checkpoints, of any method, to measure in the same table."""
    baselines: tuple[Literal["dis", "dense_sift", "random"], ...] = ("dis", "dense_sift", "random")
    """Baselines to measure."""
    reference_floor: bool = True
    """Also track the points through every frame in between: a difference there indicates an error of the reference."""
    testing_patient_id: list[str] | None = None
    """Patients to test on. None for all."""
    adjacent_range: tuple[Count, Count] = (1, 60)
    """Smallest and largest distance between the frames of a pair, in frames of the video."""
    frame_share: tuple[Share, Share] = (0.0, 1.0)
    """Part of each sequence to test on."""
    visibility_overlap: int = 20
    """A point also counts as visible in this many frames before and after each observation; 0 for observations only."""
    inlier_percentage: float = 0.99
    """Share of the points to keep, 0..1: those whose colour changes least."""
    pairs_per_distance: Count = 20
    """Pairs of frames at each distance."""
    points_per_pair: Count = 500
    """Maximum number of points per pair."""
    pixel_downsampling: Positive = 4.0
    """Errors are in pixels of a frame this many times smaller than recorded, independent of the network's size."""
    image_downsampling: Annotated[float, msgspec.Meta(ge=1)] | None = None
    """Factor by which frames are downsampled before the network. None for the value of the training."""
    network_downsampling: Count | None = None
    """Height and width of the network's frame are multiples of this. None for the value of the training."""
    feature_length: int | None = None
    """Channels of a descriptor. None for the checkpoint's; any other value is an error."""
    filter_growth_rate: int | None = None
    """Channels that each layer adds. None for the checkpoint's; any other value is an error."""
    input_size: tuple[int, int] | None = None
    """Height and width of the frames that points are sampled from. None for the smallest size that holds every content
    area."""
    keypoints_per_iter: int = 3000
    """Accepted for DDL's command lines: products are tiled by memory here."""
    num_workers: int = 4
    """Accepted for DDL's command lines."""
    num_pre_workers: int = 4
    """Threads that decode frames for the cache."""
    load_intermediate_data: bool = True
    """Use frames that an earlier run decoded with the same settings."""
    cache_root: Path = field(default_factory=default_cache_root)
    """Folder for decoded frames."""
    cache_limit_gb: NonNegative | None = DEFAULT_LIMIT_GB
    """Size limit of all decoded frames together, GB. The least recently used are removed first; frames in use are
    kept. None for no limit."""
    display_architecture: bool = False
    """Print the network's layers."""
    rotations: Literal[5, 8] | None = None
    """Rotations of GIFT's group, for checkpoints that do not record them. None for 5."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on."""
    gpu_id: NonNegativeInt = 0
    """Number of the GPU to use."""
    seed: NonNegativeInt = 0
    """Seed of the choice of pairs and points."""
    record_path: bool = False
    """Name --compared_model_paths by path in the outputs instead of by method and number, and write all given paths and
    patient names to test.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.adjacent_range
        require(low <= high, f"--adjacent_range {low} {high}: give the lowest first")
        first, end = self.frame_share
        require(first < end, f"--frame_share {first:g} {end:g}: give two shares of the frames, such as 0.8 1")
        multiple = self.network_downsampling
        require(
            multiple is None or multiple % DOWNSAMPLING == 0,
            f"--network_downsampling {multiple}: choose a multiple of {DOWNSAMPLING}",
        )
        require(
            self.trained_model_path is not None or bool(self.compared_model_paths) or bool(self.baselines),
            "there is nothing to measure: give --trained_model_path or --baselines",
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.pairs_per_distance, self.points_per_pair, self.frame_share, self.adjacent_range, self.seed)


def measure(config: TestConfig) -> list[Path]:
    """Evaluate, print the table, and write the table, its numbers and plots.

    Returns:
        Paths of the table, the numbers and the plots.

    Raises:
        LumenError: if data or checkpoint do not fit, or the output folder holds other files.
    """
    with log_folder(config.log_root, (config.testing_data_root,)):
        return _measure(config)


def _measure(config: TestConfig) -> list[Path]:
    report = StageReport("test")
    device = choose_device(config.device, config.gpu_id)
    descriptor = _load(config, device)
    compared = _load_compared(config, descriptor, device)
    with report.timed("data"):
        clips = load_clips(find_sequences(config.testing_data_root, config.testing_patient_id), _data(config))
        pairs = sample_pairs(clips, config.sampling)
    with report.timed("match"):
        results = evaluate(_matchers(config, descriptor, compared), pairs, config.pixel_downsampling)
    with report.timed("reference floor"):
        floor = _reference_floor(pairs, config) if config.reference_floor else {}
    text = table(results | floor) + (_FLOOR_EXPLAINED if floor else "")
    print(text)
    root = config.log_root
    outputs = [root / name for name in ("pck.txt", "pck.json", "pck.png", "errors.png", "matches.png")]
    write_text(outputs[0], text + "\n")
    write_json(outputs[1], as_mapping(results | floor))
    plot_pck(results | floor, outputs[2])
    plot_errors(results | floor, outputs[3])
    draw_matches(pairs, results, config.pixel_downsampling, outputs[4])
    save_recorded(config, root / "test.yaml")
    report.save(root / "reports" / "test.json")
    return outputs


def _reference_floor(pairs: dict[Distances, list[PairSample]], config: TestConfig) -> dict[str, Errors]:
    """Distances of tracked points from the reference; points that were lost are left out."""
    tracker = TrackMatcher()
    return {tracker.name: evaluate([tracker], pairs, config.pixel_downsampling)[tracker.name].of_found()}


def _load(config: TestConfig, device: torch.device) -> Descriptor | None:
    if config.trained_model_path is None:
        return None
    descriptor = load_descriptor(config.trained_model_path, device, config.rotations)
    if not isinstance(descriptor, FCDenseNetDescriptor):
        names = ("image_downsampling", "network_downsampling", "filter_growth_rate", "feature_length")
        for name in names:
            require(getattr(config, name) is None, f"--{name} does not apply to {descriptor.name}: leave it out")
    if isinstance(descriptor, FCDenseNetDescriptor):
        shape = descriptor.network.shape
        held = {"feature_length": shape.feature_length, "filter_growth_rate": shape.growth}
        if config.image_downsampling is not None:
            descriptor.image_downsampling, descriptor.network_pixels = config.image_downsampling, None
        descriptor.network_downsampling = config.network_downsampling or descriptor.network_downsampling
        for name, value in held.items():
            wanted = getattr(config, name)
            require(
                wanted is None or wanted == value,
                f"--{name} {wanted}: {config.trained_model_path} was trained with {value}; leave the flag out",
            )
        if config.display_architecture:
            logger.info("%s", descriptor.network)
    return descriptor


def _load_compared(config: TestConfig, first: Descriptor | None, device: torch.device) -> dict[str, Descriptor]:
    """The descriptors to compare the first with, by unique name; duplicates are loaded once."""
    loaded = {path: load_descriptor(path, device, config.rotations) for path in config.compared_model_paths}
    if config.record_path:
        return {str(path): descriptor for path, descriptor in loaded.items()}
    taken = [] if first is None else [first.name]
    names = numbered([*taken, *(descriptor.name for descriptor in loaded.values())])[len(taken) :]
    for name, path in zip(names, loaded, strict=True):
        logger.info("%s is %s", name, path)
    return dict(zip(names, loaded.values(), strict=True))


def _data(config: TestConfig) -> DataSettings:
    """Points are sampled from frames of the size that errors are reported in, independent of the network's size."""
    return DataSettings(
        image_downsampling=config.pixel_downsampling,
        network_downsampling=_FRAME_MULTIPLE,
        input_size=config.input_size,
        inlier_percentage=config.inlier_percentage,
        visibility_overlap=config.visibility_overlap,
        workers=config.num_pre_workers,
        reuse_cache=config.load_intermediate_data,
        cache_root=config.cache_root,
        cache_limit_gb=config.cache_limit_gb,
    )


def _matchers(config: TestConfig, descriptor: Descriptor | None, compared: dict[str, Descriptor]) -> list[PairMatcher]:
    matchers: list[PairMatcher] = [] if descriptor is None else [DescriptorMatcher(descriptor)]
    matchers += [DescriptorMatcher(each, name) for name, each in compared.items()]
    for name in dict.fromkeys(config.baselines):
        if name == "dis":
            matchers.append(FlowMatcher())
        elif name == "random":
            matchers.append(RandomMatcher(config.seed))
        else:
            matchers.append(DescriptorMatcher(UNTRAINED[name]()))
    return matchers
