"""The descriptor of a reconstruction: trained on the sequence itself, or read from a file."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from descriptor.base import Descriptor
from descriptor.device import choose_device
from descriptor.fcdensenet.descriptor import FCDenseNetDescriptor
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.gift.train import train as train_gift
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.matching.engines.choice import EngineName, choose_engine
from descriptor.matching.engines.search import SearchEngine
from descriptor.registry import load_descriptor
from descriptor.training.paths import RunFolder
from pipeline.command.bounds import NonNegative, Settings
from pipeline.command.config import from_mapping
from pipeline.errors import LumenError, require
from pipeline.outputs.files import read_yaml
from pipeline.paths import CONFIGS
from pipeline.report import StageReport

TRAIN_CONFIG = CONFIGS / "train" / "cpu_quick.yaml"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DescriptorConfig(Settings):
    """Where correspondences come from: optical flow, a descriptor, or both."""

    correspondences: Literal["descriptor", "flow", "both"] = "both"
    """Where correspondences come from: a dense descriptor, optical flow, or flow where it reaches and the descriptor
    beyond."""
    descriptor: Literal["fcdensenet", "gift"] | None = None
    """Method to train, or that --weights has to be of; by default fcdensenet, or what the file holds."""
    weights: Path | None = None
    """Descriptor to start from: a checkpoint of LumenSfM or DDL, or of GIFT without further training."""
    rotations: Literal[5, 8] | None = None
    """Rotations of GIFT's group, for --weights that do not say; 5 by default."""
    train_minutes: NonNegative = 15.0
    """Train the descriptor on this video for this long; 0 takes --weights as they are."""
    train_config: Path = TRAIN_CONFIG
    """YAML file with the other settings of the training; gift has its own, configs/gift/cpu_quick1.yaml and
    cpu_quick2.yaml."""
    matcher: EngineName = "auto"
    """Engine that searches descriptors: exhaustive with torch or, on a GPU, CuPy; auto takes the faster one that is
    installed. Or approximate, from coarse to fine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the descriptor is computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.uses_descriptor or self.weights is not None or self.train_minutes > 0,
            "there is no descriptor: give --weights, or --train_minutes above 0, or use --correspondences flow",
        )
        require(
            not self.trains_gift or self.weights is None,
            "GIFT is trained from scratch: leave out --weights, or give --train_minutes 0",
        )
        require(
            not self.trains_gift or self.train_config == TRAIN_CONFIG,
            "--train_config is for fcdensenet: gift is trained with configs/gift/cpu_quick1.yaml and cpu_quick2.yaml",
        )

    @property
    def uses_descriptor(self) -> bool:
        return self.correspondences != "flow"

    @property
    def uses_flow(self) -> bool:
        return self.correspondences != "descriptor"

    @property
    def trains(self) -> bool:
        return self.uses_descriptor and self.train_minutes > 0

    @property
    def trains_on_model(self) -> bool:
        """Whether the training needs a first SfM: GIFT is trained on images alone."""
        return self.trains and not self.trains_gift

    @property
    def trained_method(self) -> str:
        return self.descriptor or "fcdensenet"

    @property
    def trains_gift(self) -> bool:
        return self.trains and self.trained_method == "gift"

    @property
    def used_weights(self) -> Path | None:
        return self.weights if self.uses_descriptor else None

    def training_settings(self) -> dict[str, Any]:
        """Everything that a training depends on, besides files and the seed."""
        device = self.torch_device.type
        return {"train_minutes": self.train_minutes, "method": self.trained_method, "device": device}

    def training_inputs(self, model: Path) -> dict[str, Path | None]:
        """The files that a training reads besides the frames: settings, and the training data of a first SfM."""
        files = [_gift_preset(stage) for stage in (1, 2)] if self.trains_gift else [self.train_config]
        presets: dict[str, Path | None] = {f"train_config_{number}": file for number, file in enumerate(files)}
        return presets | {"model": model if self.trains_on_model else None}

    def matching_settings(self) -> dict[str, Any]:
        """Everything of the descriptor that matching depends on, besides its weights."""
        return {"correspondences": self.correspondences, "rotations": self.rotations} | self.computing()

    def computing(self) -> dict[str, str]:
        """What `auto` chose to compute with; nothing without a descriptor."""
        if not self.uses_descriptor:
            return {}
        return {"device": self.torch_device.type, "engine": type(self.engine).__name__}

    @cached_property
    def torch_device(self) -> torch.device:
        """The device that is used.

        Raises:
            LumenError: if it is not available.
        """
        return choose_device(self.device)

    @cached_property
    def engine(self) -> SearchEngine:
        """The engine that is used; see `torch_device`."""
        return choose_engine(self.matcher, self.torch_device)


@dataclass(frozen=True)
class TrainingContext:
    """Settings of a training besides those of `DescriptorConfig`.

    Attributes:
        sequence: its folder, with training data.
        folder: to write into; a killed training is resumed.
        seed: of the random choices.
        record_path: see `TrainConfig`.
        cache_root, cache_limit_gb: see `TrainConfig`.
    """

    sequence: Path
    folder: Path
    seed: int
    record_path: bool
    cache_root: Path
    cache_limit_gb: float | None


def train_stage(
    config: DescriptorConfig, context: TrainingContext, log_estimate: Callable[[], None], report: StageReport
) -> list[Path]:
    """Train the descriptor on a sequence.

    Args:
        config: the settings.
        context: what to train on, and where.
        log_estimate: logs what the stages after the training need.
        report: to fill in.

    Returns:
        The checkpoint.

    Raises:
        LumenError: if it cannot be trained.
    """
    log_estimate()
    logger.info("training takes %g min, in addition to this", config.train_minutes)
    with report.timed("train"):
        (_train_gift if config.trains_gift else _train_fcdensenet)(config, context)
    return [trained_weights(config, context.folder)]


def read_descriptor(config: DescriptorConfig, folder: Path) -> Descriptor:
    """The descriptor that was trained in `folder`, or that of `--weights` if none is trained."""
    if config.trains:
        return load_descriptor(trained_weights(config, folder), config.torch_device)
    return load_weights(config)


def load_weights(config: DescriptorConfig) -> Descriptor:
    """The descriptor of `--weights`.

    Raises:
        LumenError: if there is none in the file, or one of another method than `config.descriptor`, or one that cannot
            be trained further and is to be.
    """
    assert config.weights is not None
    descriptor = load_descriptor(config.weights, config.torch_device, config.rotations)
    if config.descriptor not in (None, descriptor.name):
        raise LumenError(f"{config.weights} holds {descriptor.name}, not --descriptor {config.descriptor}")
    require(
        not config.trains or isinstance(descriptor, FCDenseNetDescriptor),
        f"{config.weights} holds {descriptor.name}, which cannot be trained further: give --train_minutes 0",
    )
    return descriptor


def _train_fcdensenet(config: DescriptorConfig, context: TrainingContext) -> None:
    settings = read_yaml(config.train_config)
    if not isinstance(settings, dict):
        raise LumenError(f"{config.train_config} holds no settings: give one such as configs/train/cpu_quick.yaml")
    settings |= _common_settings(config, context, context.folder) | {
        "max_minutes": config.train_minutes,
        "cache_root": str(context.cache_root),
        "cache_limit_gb": context.cache_limit_gb,
    }
    if config.weights is not None:
        settings |= {"load_trained_model": True, "trained_model_path": str(config.weights)}
        settings |= _shape_of(load_weights(config))
    train(from_mapping(TrainConfig, settings, str(config.train_config)))


def _train_gift(config: DescriptorConfig, context: TrainingContext) -> None:
    """Train both stages of GIFT; they share the time in the ratio of their presets."""
    presets = {stage: read_yaml(_gift_preset(stage)) for stage in (1, 2)}
    minutes = {stage: preset.get("max_minutes") for stage, preset in presets.items()}
    for stage, own in minutes.items():
        require(
            isinstance(own, int | float) and own > 0,
            f"{_gift_preset(stage)}: give max_minutes: both stages share the time in this ratio",
        )
    for stage, preset in presets.items():
        settings = preset | _common_settings(config, context, _gift_stage(context.folder, stage))
        settings["max_minutes"] = config.train_minutes * minutes[stage] / sum(minutes.values())
        settings["trained_model_path"] = str(RunFolder(_gift_stage(context.folder, 1)).last) if stage == 2 else None
        train_gift(from_mapping(GiftTrainConfig, settings, str(_gift_preset(stage))))


def trained_weights(config: DescriptorConfig, folder: Path) -> Path:
    """The checkpoint that a training in `folder` ends with."""
    return RunFolder(_gift_stage(folder, 2) if config.trains_gift else folder).last


def _gift_stage(folder: Path, stage: int) -> Path:
    """Where a stage of GIFT's training writes."""
    return folder / f"stage{stage}"


def _gift_preset(stage: int) -> Path:
    """The settings of a stage of GIFT's training."""
    return CONFIGS / "gift" / f"cpu_quick{stage}.yaml"


def _common_settings(config: DescriptorConfig, context: TrainingContext, folder: Path) -> dict[str, Any]:
    return {
        "training_data_root": str(context.sequence),
        "log_root": str(folder),
        "device": config.device,
        "seed": context.seed,
        "record_path": context.record_path,
    }


def _shape_of(descriptor: Descriptor) -> dict[str, Any]:
    """The settings of a training that starts from weights, where these determine them."""
    assert isinstance(descriptor, FCDenseNetDescriptor)
    network = descriptor.network
    return {
        "feature_length": network.shape.feature_length,
        "filter_growth_rate": network.shape.growth,
        "contrast_radius": network.contrast_radius,
    }
