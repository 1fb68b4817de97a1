"""Training a dense descriptor, from folders to checkpoints: what `train.py` runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from descriptor.training_config import CONTRAST_RADIUS, TrainConfig
from descriptor.training_paths import RunFolder
from pipeline.config import save_config, to_mapping
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.locks import held
from pipeline.report import StageReport

# What may differ between a run and the one that goes on with it.
_FREE_TO_CHANGE = {
    *("device", "num_workers", "num_pre_workers", "display_interval", "display_architecture", "cache_root", "log_root"),
    *("load_trained_model", "trained_model_path", "load_intermediate_data", "validation_interval"),
}

logger = logging.getLogger(__name__)


def train(config: TrainConfig, *, to_the_end: bool = False) -> list[Path]:
    """Train until done or stopped; a run in the same folder with the same settings goes on where it was.

    Args:
        config: the settings.
        to_the_end: a training that was stopped by a signal is of no use.

    Returns:
        The checkpoints: best, last.

    Raises:
        KeyboardInterrupt: if it was stopped, and was to go to the end.
        LumenError: if data, settings or checkpoint do not fit, or the loss is no number.
    """
    report = StageReport("train")
    keep_freed_memory()
    device = choose_local_device(choose_device(config.device))
    folder = RunFolder(config.log_root)
    with join_processes(device) as processes, _held_by_first(folder, processes):
        _check_processes(config, processes)
        torch.manual_seed(config.seed)
        with report.timed("data"):
            training, validation = _load_frames(config, processes)
        config, network, checkpoint = _network(config, folder, device)
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
        if trainer.was_stopped and to_the_end:
            raise KeyboardInterrupt
    return [folder.best, folder.last]


@contextmanager
def _held_by_first(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """The run's folder is one run's at a time."""
    if not processes.is_first:
        yield
        return
    with explain_os_errors("write", folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    with held(folder.root, busy=f"another process is training in {folder.root}: wait for it, or choose another"):
        yield


def _check_processes(config: TrainConfig, processes: Processes) -> None:
    size = config.frames_per_group
    groups = 2 * config.batch_size // size
    require(
        groups % processes.count == 0,
        f"{groups} groups of frames a step cannot be shared evenly by {processes.count} processes: choose smaller "
        f"--group_frames, or {size} and --batch_size as a multiple of {-(-processes.count * size // 2)}",
    )


def _load_frames(config: TrainConfig, processes: Processes) -> tuple[Frames, Frames]:
    """The frames to train on, and those to validate on."""
    root, everyone = config.training_data_root, config.id_range
    held_out = config.validation_patient_id is not None
    others = find_sequences(root, config.validation_patient_id) if held_out else []
    sequences = find_sequences(root, config.training_patient_id or everyone)
    if config.training_patient_id is None:
        tested = find_sequences(root, config.testing_patient_id) if config.testing_patient_id else []
        sequences = [each for each in sequences if each not in others + tested]
        require(bool(sequences), "all patients are validated or tested on: give --training_patient_id")
    elif config.testing_patient_id:
        find_sequences(root, config.testing_patient_id)
    # All at once, because all are of one size.
    together = sequences + [each for each in others if each not in sequences]
    # The first process decodes, the others find it done.
    if not processes.is_first:
        processes.wait()
    data = config.data if processes.is_first else replace(config.data, reuse_cache=True)
    clips = dict(zip(together, load_clips(together, data), strict=True))
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


def _network(
    config: TrainConfig, folder: RunFolder, device: torch.device
) -> tuple[TrainConfig, FCDenseNet, Checkpoint | None]:
    """The settings with the contrast radius that is used, the network to begin with, and the checkpoint to go on from
    if this run was begun before."""
    if folder.last.exists():
        checkpoint = Checkpoint.load(folder.last)
        if config.contrast_radius is None:
            config = replace(config, contrast_radius=(checkpoint.config or {}).get("contrast_radius"))
        _check_same_run(config, checkpoint, folder)
        return config, load_network(checkpoint, folder.last).to(device), checkpoint
    path = config.trained_model_path if config.load_trained_model else None
    if path is None:
        radius = CONTRAST_RADIUS if config.contrast_radius is None else config.contrast_radius
        network = FCDenseNet(NetworkShape(config.feature_length, config.filter_growth_rate), radius).to(device)
    else:
        network = _trained_network(config, path).to(device)
        logger.info("starting from the weights in %s", path)
    return replace(config, contrast_radius=network.contrast_radius), network, None


def _trained_network(config: TrainConfig, path: Path) -> FCDenseNet:
    network = load_network(Checkpoint.load(path), path)
    wanted = NetworkShape(config.feature_length, config.filter_growth_rate)
    if network.shape != wanted:
        raise LumenError(f"{path} is of {network.shape}, the settings ask for {wanted}: give the file's numbers")
    require(
        config.contrast_radius in (None, network.contrast_radius),
        f"{path} was trained with --contrast_radius {network.contrast_radius:g}, the settings ask for "
        f"{config.contrast_radius}: give the file's, or leave the flag out",
    )
    return network


def _check_same_run(config: TrainConfig, checkpoint: Checkpoint, folder: RunFolder) -> None:
    before, now = checkpoint.config or {}, to_mapping(config)
    for name, value in now.items():
        if name not in _FREE_TO_CHANGE and before.get(name) != value and not _is_same_path(before.get(name), value):
            raise LumenError(
                f"{folder.root} holds a run with --{name} {before.get(name)}, this one has {value}: choose another "
                "--log_root, or give the same settings to go on with it"
            )


def _is_same_path(before: Any, now: Any) -> bool:
    """Whether both are texts that name the same place."""
    return isinstance(before, str) and isinstance(now, str) and Path(before).resolve() == Path(now).resolve()
