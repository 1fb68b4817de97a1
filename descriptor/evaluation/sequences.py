"""Evaluating a dense descriptor beside baselines: what `test.py` runs."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
from descriptor.frame_cache import DEFAULT_LIMIT_GB, check_limit, default_cache_root
from descriptor.registry import UNTRAINED, load_descriptor
from descriptor.training.log_folder import log_folder
from descriptor.training.recorded_settings import numbered, save_recorded
from pipeline.errors import require
from pipeline.outputs.files import write_json, write_text
from pipeline.report import StageReport

# Of the frames that points are taken from and pictures are drawn on.
_FRAME_MULTIPLE = 32
_FLOOR_EXPLAINED = (
    "\ntracked: those points that can be followed through every frame in between; how far the reference can be trusted"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestConfig:
    """Measure how often a dense descriptor finds points again, by the distance of frames, beside baselines.

    The flags of Dense Descriptor Learning (DDL; Liu et al., CVPR 2020) mean what they mean there.
    """

    # Its name begins with Test, but it is none for pytest.
    __test__ = False
    # What a record leaves out besides paths: the folders of patients may have their names.
    PRIVATE = ("testing_patient_id",)

    testing_data_root: Path
    """Folder of <patient>/<sequence>/ with training data."""
    log_root: Path
    """Folder to write into."""
    task: Literal["sequences"] = "sequences"
    """What to measure on: pairs of frames; hpatches and relative_pose, of photographs, have settings of their own,
    which --task hpatches --help shows."""
    trained_model_path: Path | None = None
    """Checkpoint, ours or DDL's; without one, baselines alone are measured."""
    compared_model_paths: list[Path] = field(default_factory=list)
    """More checkpoints, of any method, to measure in the same table."""
    baselines: tuple[Literal["dis", "dense_sift", "random"], ...] = ("dis", "dense_sift", "random")
    """Methods to measure besides."""
    reference_floor: bool = True
    """Also follow the points through every frame in between: where that differs, the reference itself is in doubt."""
    testing_patient_id: list[str] | None = None
    """Patients to test on; by default all."""
    adjacent_range: tuple[int, int] = (1, 60)
    """Lowest and highest distance of a pair's frames in the video."""
    frame_share: tuple[float, float] = (0.0, 1.0)
    """Which part of each sequence to test on."""
    visibility_overlap: int = 20
    """How many frames before and after an observation a point also counts as visible; 0 for listed ones alone."""
    inlier_percentage: float = 0.99
    """Share of the points that is kept, 0..1: those whose colour changes least."""
    pairs_per_distance: int = 20
    """Pairs of frames at each distance."""
    points_per_pair: int = 500
    """Most points of a pair."""
    pixel_downsampling: float = 4.0
    """Errors are in pixels of a frame this many times smaller than recorded, whatever the network's size."""
    image_downsampling: float | None = None
    """Frames are made smaller by this before the network; by default as in training."""
    network_downsampling: int | None = None
    """Height and width of the network's frame are multiples of this; by default as in training."""
    feature_length: int | None = None
    """By default the checkpoint's; another one is an error."""
    filter_growth_rate: int | None = None
    """By default the checkpoint's; another one is an error."""
    input_size: tuple[int, int] | None = None
    """Height and width of the frames that points are taken from; by default the smallest that holds every content
    area."""
    keypoints_per_iter: int = 3000
    """Accepted for DDL's command lines: products are tiled by memory here."""
    num_workers: int = 4
    """Accepted for DDL's command lines."""
    num_pre_workers: int = 4
    """Threads that decode frames for the cache."""
    load_intermediate_data: bool = True
    """Take frames that an earlier run decoded with the same settings."""
    cache_root: Path = field(default_factory=default_cache_root)
    """Where decoded frames are kept."""
    cache_limit_gb: float | None = DEFAULT_LIMIT_GB
    """Most that all decoded frames may take, GB; those whose last use is longest ago are removed first, those in use
    never. None for no limit."""
    display_architecture: bool = False
    """Print the network's layers."""
    rotations: Literal[5, 8] | None = None
    """Of GIFT's group, for checkpoints that do not tell; 5 by default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    gpu_id: int = 0
    """Which GPU, where there are several."""
    seed: int = 0
    """Of the choice of pairs and points."""
    record_path: bool = False
    """Call --compared_model_paths by their paths in the outputs, instead of by method and number, and write all paths
    and names of patients that are given here to test.yaml."""

    def __post_init__(self) -> None:
        low, high = self.adjacent_range
        require(1 <= low <= high, f"--adjacent_range {low} {high}: give the lowest, at least 1, and the highest")
        first, end = self.frame_share
        require(0 <= first < end <= 1, f"--frame_share {first} {end}: give two shares of the frames, such as 0.8 1")
        for name in ("pairs_per_distance", "points_per_pair"):
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: choose 1 or more")
        for name in ("seed", "gpu_id"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: choose 0 or more")
        smaller, multiple = self.image_downsampling, self.network_downsampling
        require(smaller is None or smaller >= 1, f"--image_downsampling {smaller}: choose 1 or more")
        require(
            multiple is None or (multiple > 0 and multiple % DOWNSAMPLING == 0),
            f"--network_downsampling {multiple}: choose a multiple of {DOWNSAMPLING}",
        )
        check_limit(self.cache_limit_gb)
        require(self.pixel_downsampling > 0, f"--pixel_downsampling {self.pixel_downsampling}: choose more than 0")
        require(
            self.trained_model_path is not None or bool(self.compared_model_paths) or bool(self.baselines),
            "there is nothing to measure: give --trained_model_path or --baselines",
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.pairs_per_distance, self.points_per_pair, self.frame_share, self.adjacent_range, self.seed)


def measure(config: TestConfig) -> list[Path]:
    """Evaluate, print the table, and write it with its numbers and plots.

    Returns:
        What was written: table, numbers, plots.

    Raises:
        LumenError: if data or checkpoint do not fit, or the output holds something else.
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
    """How far followed points are from the reference, of those that could be followed."""
    tracker = TrackMatcher()
    return {tracker.name: evaluate([tracker], pairs, config.pixel_downsampling)[tracker.name].of_found()}


def _load(config: TestConfig, device: torch.device) -> Descriptor | None:
    if config.trained_model_path is None:
        return None
    descriptor = load_descriptor(config.trained_model_path, device, config.rotations)
    if not isinstance(descriptor, FCDenseNetDescriptor):
        names = ("image_downsampling", "network_downsampling", "filter_growth_rate", "feature_length")
        for name in names:
            require(getattr(config, name) is None, f"--{name} is not for {descriptor.name}: leave it out")
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
    """The descriptors to compare the first with, by names that differ; each once, even if it was given twice."""
    loaded = {path: load_descriptor(path, device, config.rotations) for path in config.compared_model_paths}
    if config.record_path:
        return {str(path): descriptor for path, descriptor in loaded.items()}
    taken = [] if first is None else [first.name]
    names = numbered([*taken, *(descriptor.name for descriptor in loaded.values())])[len(taken) :]
    for name, path in zip(names, loaded, strict=True):
        logger.info("%s is %s", name, path)
    return dict(zip(names, loaded.values(), strict=True))


def _data(config: TestConfig) -> DataSettings:
    """Points are taken from frames of the size that errors are told in, whatever the network's."""
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
