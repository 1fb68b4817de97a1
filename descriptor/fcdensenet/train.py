"""Training of DDL's dense descriptor: loads the data and the starting weights for `train.py`."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.clips.clip import Clip
from descriptor.clips.data_root import find_sequences, load_clips
from descriptor.fcdensenet.descriptor import load_network
from descriptor.fcdensenet.learner import FCDenseNetTraining, Frames
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from descriptor.fcdensenet.train_config import CONTRAST_RADIUS, TrainConfig
from descriptor.training.distributed import Processes
from descriptor.training.inputs import TrainingInputs, fingerprint_sequences, fingerprint_weights
from descriptor.training.paths import RunFolder
from descriptor.training.run import InitialState, check_same_run, run_training
from pipeline.errors import LumenError, require
from pipeline.report import StageReport

# Settings that may change when a run is resumed, in addition to those of `descriptor.training.run`.
_FREE_TO_CHANGE = {
    *("num_pre_workers", "display_architecture", "cache_limit_gb"),
    *("load_trained_model", "load_intermediate_data"),
}

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> list[Path]:
    """Train DDL's network; see `descriptor.training.run.run_training`."""

    def begin(device: torch.device, processes: Processes, folder: RunFolder, report: StageReport) -> InitialState:
        _check_processes(config, processes)
        with report.timed("data"):
            inputs = TrainingInputs(fingerprint_sequences(*_sequences(config)))
            training, validation = _load_frames(config, processes)
        used, network, checkpoint, inputs = _network(config, folder, device, inputs)
        if config.display_architecture and processes.is_first:
            logger.info("%s", network)
        method = FCDenseNetTraining(used, network, training, validation)
        return InitialState(used, method, checkpoint, inputs, {"clips": len(training.clips)})

    return run_training(config, begin)


def _check_processes(config: TrainConfig, processes: Processes) -> None:
    size = config.frames_per_group
    groups = 2 * config.batch_size // size
    require(
        groups % processes.count == 0,
        f"{groups} groups of frames per step cannot be divided among {processes.count} processes: lower --group_frames,"
        f" or keep {size} and choose a multiple of {-(-processes.count * size // 2)} as --batch_size",
    )


def _sequences(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """Sequences to train on, and sequences of the validation patients, if any are named."""
    root, everyone = config.training_data_root, config.id_range
    held_out = config.validation_patient_id is not None
    others = find_sequences(root, config.validation_patient_id) if held_out else []
    sequences = find_sequences(root, config.training_patient_id or everyone)
    if config.training_patient_id is None:
        tested = find_sequences(root, config.testing_patient_id) if config.testing_patient_id else []
        sequences = [each for each in sequences if each not in others + tested]
        require(bool(sequences), "all patients are used for validation or testing: give --training_patient_id")
    elif config.testing_patient_id:
        find_sequences(root, config.testing_patient_id)
    return sequences, others


def _load_frames(config: TrainConfig, processes: Processes) -> tuple[Frames, Frames]:
    """Frames to train on, and frames to validate on."""
    sequences, others = _sequences(config)
    # Loaded together, because all clips have one common size.
    together = sequences + [each for each in others if each not in sequences]
    # The first process decodes; the others use its cache.
    if not processes.is_first:
        processes.wait()
    data = config.data if processes.is_first else replace(config.data, reuse_cache=True)
    clips = dict(zip(together, load_clips(together, data), strict=True))
    if processes.is_first:
        processes.wait()
    training = _part([clips[each] for each in sequences], config.frame_share, inside=True)
    if set(others) & set(sequences) or not others:
        held = [clips[each] for each in others or sequences]
        is_whole = config.frame_share == (0.0, 1.0)
        return training, training if is_whole and not others else _part(held, config.frame_share, inside=is_whole)
    return training, _part([clips[each] for each in others], (0.0, 1.0), inside=True)


def _part(clips: list[Clip], share: tuple[float, float], *, inside: bool) -> Frames:
    """The rows inside a share of each clip's frames, or the rows outside of it."""
    rows = []
    for clip in clips:
        count = len(clip.frame_index)
        is_inside = np.zeros(count, bool)
        is_inside[round(share[0] * count) : round(share[1] * count)] = True
        chosen = np.flatnonzero(is_inside == inside)
        require(len(chosen) > 1, f"{clip.name}: --frame_share leaves {len(chosen)} of {count} frames: a pair needs two")
        rows.append(chosen)
    return Frames(clips, rows)


def _network(
    config: TrainConfig, folder: RunFolder, device: torch.device, inputs: TrainingInputs
) -> tuple[TrainConfig, FCDenseNet, Checkpoint | None, TrainingInputs]:
    """The settings with the contrast radius filled in, the initial network, the checkpoint to resume from if there is
    one, and the inputs with the fingerprint of the starting weights."""
    path = config.trained_model_path if config.load_trained_model else None
    start = None if path is None else Checkpoint.load(path)
    if start is not None:
        inputs = replace(inputs, weights=fingerprint_weights(start))
    if folder.last.exists():
        checkpoint = Checkpoint.load(folder.last)
        if config.contrast_radius is None:
            config = replace(config, contrast_radius=(checkpoint.config or {}).get("contrast_radius"))
        check_same_run(config, checkpoint, folder, _FREE_TO_CHANGE)
        inputs = inputs.resumed(checkpoint, folder, config.training_data_root)
        return config, load_network(checkpoint, folder.last).to(device), checkpoint, inputs
    if path is None or start is None:
        radius = CONTRAST_RADIUS if config.contrast_radius is None else config.contrast_radius
        network = FCDenseNet(NetworkShape(config.feature_length, config.filter_growth_rate), radius).to(device)
    else:
        network = _trained_network(config, start, path).to(device)
        logger.info("starting from the weights in %s", path)
    return replace(config, contrast_radius=network.contrast_radius), network, None, inputs


def _trained_network(config: TrainConfig, start: Checkpoint, path: Path) -> FCDenseNet:
    network = load_network(start, path)
    wanted = NetworkShape(config.feature_length, config.filter_growth_rate)
    if network.shape != wanted:
        raise LumenError(f"{path} has {network.shape}, the settings specify {wanted}: give the values of the file")
    require(
        config.contrast_radius in (None, network.contrast_radius),
        f"{path} was trained with --contrast_radius {network.contrast_radius:g}, the settings specify "
        f"{config.contrast_radius}: give the value of the file, or omit the flag",
    )
    return network
