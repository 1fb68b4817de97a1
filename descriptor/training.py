"""Training a dense descriptor, from folders to checkpoints: what `train.py` runs."""

import logging
from pathlib import Path

import numpy as np
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.clip import Clip
from descriptor.data_root import find_sequences, load_clips
from descriptor.device import choose_device, keep_freed_memory
from descriptor.distributed import Processes, choose_local_device, join_processes
from descriptor.fcdensenet import FCDenseNet, NetworkShape
from descriptor.fcdensenet_descriptor import load_network
from descriptor.trainer import Frames, Trainer
from descriptor.training_config import TrainConfig
from descriptor.training_paths import RunFolder
from pipeline.config import save_config, to_mapping
from pipeline.errors import LumenError, require
from pipeline.report import StageReport

# What may differ between a run and the one that goes on with it.
_FREE_TO_CHANGE = {
    *("device", "num_workers", "num_pre_workers", "display_interval", "display_architecture", "cache_root", "log_root"),
    *("load_trained_model", "trained_model_path", "load_intermediate_data", "validation_interval"),
}

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> list[Path]:
    """Train until done or stopped; a run in the same folder with the same settings goes on where it was.

    Returns:
        The checkpoints: best, last.

    Raises:
        LumenError: if data, settings or checkpoint do not fit, or the loss is no number.
    """
    report = StageReport("train")
    keep_freed_memory()
    device = choose_local_device(choose_device(config.device))
    folder = RunFolder(config.log_root)
    with join_processes(device) as processes:
        _check_processes(config, processes)
        torch.manual_seed(config.seed)
        with report.timed("data"):
            training, validation = _load_frames(config, processes)
        network, checkpoint = _network(config, folder, device)
        if config.display_architecture and processes.is_first:
            logger.info("%s", network)
        trainer = Trainer(config, network, training, validation, device, processes, folder)
        if checkpoint is not None:
            trainer.resume(checkpoint)
            logger.info("going on from step %d of %s", trainer.state.step, folder.last)
        if processes.is_first:
            save_config(config, folder.config)
        with report.timed("train"):
            trainer.run()
        if trainer.was_stopped:
            logger.info("stopped at step %d; the same command goes on from there", trainer.state.step)
        if processes.is_first:
            report.counts |= {"steps": trainer.state.step, "clips": len(training.clips), **trainer.state.history[-1]}
            report.save(folder.report)
    return [folder.best, folder.last]


def _check_processes(config: TrainConfig, processes: Processes) -> None:
    size = config.frames_per_group(processes.count)
    groups = 2 * config.batch_size // size
    require(
        groups > 0 and groups % processes.count == 0,
        f"{groups} groups of frames a step cannot be shared evenly by {processes.count} processes: choose --batch_size "
        f"as a multiple of {processes.count * size // 2 or 1}, or smaller --group_frames",
    )


def _load_frames(config: TrainConfig, processes: Processes) -> tuple[Frames, Frames]:
    """The frames to train on, and those to validate on."""
    root, everyone = config.training_data_root, config.id_range
    find_sequences(root, config.testing_patient_id or everyone)
    sequences = find_sequences(root, config.training_patient_id or everyone)
    held_out = config.validation_patient_id is not None
    others = find_sequences(root, config.validation_patient_id) if held_out else []
    # All at once, because all are of one size.
    together = sequences + [each for each in others if each not in sequences]
    # The first process decodes, the others find it done.
    if not processes.is_first:
        processes.wait()
    clips = dict(zip(together, load_clips(together, config.data), strict=True))
    if processes.is_first:
        processes.wait()
    training = _part([clips[each] for each in sequences], config.frame_share, inside=True)
    if set(others) & set(sequences) or not held_out:
        held = [clips[each] for each in others or sequences]
        is_whole = config.frame_share == (0.0, 1.0)
        return training, training if is_whole and not held_out else _part(held, config.frame_share, inside=is_whole)
    return training, _part([clips[each] for each in others], (0.0, 1.0), inside=True)


def _part(clips: list[Clip], share: tuple[float, float], *, inside: bool) -> Frames:
    """The rows inside a share of each clip's frames, or those outside of it."""
    rows = []
    for clip in clips:
        count = len(clip.frame_index)
        is_inside = np.zeros(count, bool)
        is_inside[round(share[0] * count) : round(share[1] * count)] = True
        chosen = np.flatnonzero(is_inside == inside)
        require(len(chosen) > 1, f"{clip.name}: --frame_share leaves {len(chosen)} of {count} frames; a pair needs two")
        rows.append(chosen)
    return Frames(clips, rows)


def _network(config: TrainConfig, folder: RunFolder, device: torch.device) -> tuple[FCDenseNet, Checkpoint | None]:
    """The network to begin with, and the checkpoint to go on from if this run was begun before."""
    path = config.trained_model_path if config.load_trained_model else None
    if folder.last.exists():
        checkpoint = Checkpoint.load(folder.last)
        _check_same_run(config, checkpoint, folder)
        return load_network(checkpoint, folder.last).to(device), checkpoint
    if path is None:
        shape = NetworkShape(config.feature_length, config.filter_growth_rate)
        return FCDenseNet(shape, config.contrast_radius).to(device), None
    network = load_network(Checkpoint.load(path), path).to(device)
    wanted = NetworkShape(config.feature_length, config.filter_growth_rate)
    if network.shape != wanted:
        raise LumenError(f"{path} is of {network.shape}, the settings ask for {wanted}: give the file's numbers")
    require(
        network.contrast_radius == config.contrast_radius,
        f"{path} was trained with --contrast_radius {network.contrast_radius:g}, the settings ask for "
        f"{config.contrast_radius:g}: give the file's",
    )
    logger.info("starting from the weights in %s", path)
    return network, None


def _check_same_run(config: TrainConfig, checkpoint: Checkpoint, folder: RunFolder) -> None:
    before, now = checkpoint.config or {}, to_mapping(config)
    for name, value in now.items():
        if name not in _FREE_TO_CHANGE and before.get(name) != value:
            raise LumenError(
                f"{folder.root} holds a run with --{name} {before.get(name)}, this one has {value}: choose another "
                "--log_root, or give the same settings to go on with it"
            )
