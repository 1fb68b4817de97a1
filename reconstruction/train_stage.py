"""The descriptor of the video: trained on its first SfM, or taken from a file."""

from pathlib import Path
from typing import Any

from descriptor.base import Descriptor
from descriptor.device import choose_device
from descriptor.fcdensenet.descriptor import FCDenseNetDescriptor
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.gift.train import train as train_gift
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.registry import load_descriptor
from descriptor.training.paths import RunFolder
from pipeline.command.config import from_mapping
from pipeline.errors import LumenError, require
from pipeline.outputs.files import read_yaml
from reconstruction.config import CONFIGS, ReconstructConfig


def load_weights(config: ReconstructConfig) -> Descriptor:
    """The descriptor of `--weights`.

    Raises:
        LumenError: if there is none in the file, or one of another method than `config.descriptor`, or one that cannot
            be trained further and is to be.
    """
    assert config.weights is not None
    descriptor = load_descriptor(config.weights, choose_device(config.device), config.rotations)
    if config.descriptor not in (None, descriptor.name):
        raise LumenError(f"{config.weights} is of {descriptor.name}, not of --descriptor {config.descriptor}")
    require(
        not config.trains or isinstance(descriptor, FCDenseNetDescriptor),
        f"{config.weights} is of {descriptor.name}, which is not trained on from weights: give --train_minutes 0",
    )
    return descriptor


def train_descriptor(config: ReconstructConfig, sequence: Path, folder: Path) -> None:
    """Train DDL's network on a sequence.

    Args:
        config: of the reconstruction.
        sequence: its folder, with training data.
        folder: to write into; a killed training is resumed.
    """
    settings = read_yaml(config.train_config)
    if not isinstance(settings, dict):
        raise LumenError(f"{config.train_config} holds no settings: give one such as configs/train/cpu_quick.yaml")
    settings |= _common_settings(config, sequence, folder) | {
        "max_minutes": config.train_minutes,
        "cache_root": str(config.cache_root),
        "cache_limit_gb": config.cache_limit_gb,
    }
    if config.weights is not None:
        settings |= {"load_trained_model": True, "trained_model_path": str(config.weights)}
        settings |= _shape_of(load_weights(config))
    train(from_mapping(TrainConfig, settings, str(config.train_config)))


def train_gift_descriptor(config: ReconstructConfig, sequence: Path, folder: Path) -> None:
    """Train both stages of GIFT on a sequence; they share the time as their presets do. See `train_descriptor`."""
    presets = {stage: read_yaml(gift_preset(stage)) for stage in (1, 2)}
    minutes = {stage: preset.get("max_minutes") for stage, preset in presets.items()}
    for stage, own in minutes.items():
        require(
            isinstance(own, int | float) and own > 0,
            f"{gift_preset(stage)}: give max_minutes, by which both stages share the time",
        )
    for stage, preset in presets.items():
        settings = preset | _common_settings(config, sequence, gift_stage(folder, stage))
        settings["max_minutes"] = config.train_minutes * minutes[stage] / sum(minutes.values())
        settings["trained_model_path"] = str(RunFolder(gift_stage(folder, 1)).last) if stage == 2 else None
        train_gift(from_mapping(GiftTrainConfig, settings, str(gift_preset(stage))))


def trained_weights(config: ReconstructConfig, folder: Path) -> Path:
    """The checkpoint that a training in `folder` ends with."""
    return RunFolder(gift_stage(folder, 2) if config.trains_gift else folder).last


def gift_stage(folder: Path, stage: int) -> Path:
    """Where a stage of GIFT's training writes."""
    return folder / f"stage{stage}"


def gift_preset(stage: int) -> Path:
    """The settings of a stage of GIFT's training."""
    return CONFIGS / "gift" / f"cpu_quick{stage}.yaml"


def _common_settings(config: ReconstructConfig, sequence: Path, folder: Path) -> dict[str, Any]:
    return {
        "training_data_root": str(sequence),
        "log_root": str(folder),
        "device": config.device,
        "seed": config.seed,
        "record_path": config.record_path,
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
