"""Training of DDL's network: groups of frames, the relative response loss, validation on shared points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from descriptor.clips.clip import Clip
from descriptor.clips.groups import Group, GroupSampler
from descriptor.fcdensenet.descriptor import METHOD
from descriptor.fcdensenet.group_loss import group_loss
from descriptor.fcdensenet.network import FCDenseNet
from descriptor.fcdensenet.plots import descriptor_colors, heatmaps
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.fcdensenet.validation import THRESHOLDS_PX, Validation, validate
from descriptor.training.augmentation import augment
from descriptor.training.muon import Muon
from pipeline.arrays import Bytes, Ints
from pipeline.errors import LumenError

# Independent of the training groups, so that runs can be compared.
_VALIDATION_GROUPS, _VALIDATION_FRAMES = 8, 8
# Muon's learning rate relative to AdamW's; doubling both gives no better accuracy.
_KERNEL_RATE = 3.0
# Share of the training during which the learning rate rises.
_WARM_UP = 0.15
# Frames for the normalisation statistics.
_STATISTICS_FRAMES, _FRAMES_AT_ONCE = 64, 8


@dataclass(frozen=True)
class Frames:
    """Clips, and the usable rows of each."""

    clips: Sequence[Clip]
    rows: Sequence[Ints]


class FCDenseNetTraining:
    """A `descriptor.training.trainer.TrainingMethod`.

    Args:
        config: all settings.
        network: the network, on its device.
        training: frames to train on.
        validation: frames to validate on.
    """

    name = METHOD
    thresholds_px = THRESHOLDS_PX

    def __init__(self, config: TrainConfig, network: FCDenseNet, training: Frames, validation: Frames) -> None:
        self._config, self.network, self._training = config, network, training
        frames = config.frames_per_group
        self.parts = 2 * config.batch_size // frames
        self._sampler = _sampler(config, training, frames, config.seed)
        _require_pairs(self._sampler.draw(0, 0), config)
        self._validation = _validation_groups(config, validation)

    def draw(self, step: int, number: int) -> Group | None:
        """See `TrainingMethod.draw`."""
        group = self._sampler.draw(step, number)
        random = np.random.default_rng([self._config.seed, step, number, 1])
        return None if group is None else augment(group, self._config.augmentation, random)

    def loss(self, part: Group, step: int, share: float) -> Tensor:
        """See `TrainingMethod.loss`."""
        config = self._config
        precision = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        offset = step % config.target_stride
        loss = group_loss(self.network, part, config.matching_scale, config.target_stride, offset, precision)
        return config.rr_weight * loss

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """See `TrainingMethod.optimizers`."""
        rate, every = self._config.lr_range[0], list(self.network.parameters())
        if self._config.optimizer == "sgd":
            return {"sgd": torch.optim.SGD(every, lr=rate, momentum=0.9)}
        kernels = self.network.hidden_kernels() if self._config.optimizer == "muon" else []
        others = [parameter for parameter in every if all(parameter is not kernel for kernel in kernels)]
        made: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)
        }
        if kernels:
            made["muon"] = Muon(kernels, lr=rate)
        return made

    def rates(self, share: float, step: int) -> Mapping[str, float]:
        """See `TrainingMethod.rates`."""
        config = self._config
        cycle = step % config.num_iter / config.num_iter
        rate = learning_rate(config.optimizer, *config.lr_range, share, cycle)
        return {"sgd": rate} if config.optimizer == "sgd" else {"adamw": rate, "muon": rate * _KERNEL_RATE}

    def settle(self) -> None:
        """See `TrainingMethod.settle`."""
        estimate_statistics(self.network, self._training.clips, self._training.rows, self._config.seed)

    def validate(self) -> Validation:
        """See `TrainingMethod.validate`."""
        return validate(self.network, self._validation, self._config.cross_check_distance)

    def plots(self) -> dict[str, Bytes]:
        """See `TrainingMethod.plots`."""
        group, config = self._validation[0], self._config
        with torch.no_grad():
            self.network.eval()
            described = self.network.describe(group.images, group.masks)
            self.network.train()
        return {
            "descriptors": descriptor_colors(described, group),
            "heatmaps": heatmaps(described, group, config.matching_scale, config.heatmap_sigma),
        }

    def starting_from(self, weights: Path) -> str:
        """See `TrainingMethod.starting_from`."""
        start = f"--load_trained_model --trained_model_path {weights}"
        return f"{start} and a lower --lr_range, or --precision float32"

    def arrays(self, part: Group) -> dict[str, np.ndarray]:
        """See `TrainingMethod.arrays`."""
        pairs = {
            f"points_{source}_{target}": np.stack([points.source, points.target])
            for (source, target), points in part.pairs.items()
        }
        return {"images": part.images, "masks": part.masks, **pairs}


def _sampler(config: TrainConfig, frames: Frames, group_frames: int, seed: int) -> GroupSampler:
    return GroupSampler(frames.clips, frames.rows, config.adjacent_range, group_frames, config.sampling_size, seed)


def _validation_groups(config: TrainConfig, frames: Frames) -> list[Group]:
    # A different seed, because the training seed would reproduce the first training groups.
    sampler = _sampler(config, frames, _VALIDATION_FRAMES, config.seed + 1)
    groups = [sampler.draw(0, number) for number in range(_VALIDATION_GROUPS)]
    found = [group for group in groups if group is not None]
    _require_pairs(found[0] if found else None, config)
    return found


def _require_pairs(group: Group | None, config: TrainConfig) -> None:
    if group is None:
        low, high = config.adjacent_range
        raise LumenError(
            f"no two frames {low} to {high} apart share a point inside the mask: widen --adjacent_range, or bootstrap "
            "again with more points"
        )


def learning_rate(kind: Literal["muon", "adamw", "sgd"], low: float, high: float, share: float, cycle: float) -> float:
    """The learning rate at a point of the training.

    Args:
        kind: "muon" and "adamw" warm up linearly from `low` to `high`, then decay to a tenth of `low` along a cosine
            (Smith's one-cycle policy, 2018); "sgd" cycles between the two (Smith, WACV 2017), as in DDL.
        low, high: lowest and highest rate.
        share: completed share of the training, 0..1.
        cycle: completed share of the current cycle, 0..1.
    """
    if kind == "sgd":
        return low + (high - low) * (1 - abs(2 * cycle - 1))
    if share < _WARM_UP:
        return low + (high - low) * share / _WARM_UP
    end = low / 10
    return end + (high - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - _WARM_UP) / (1 - _WARM_UP))))


@torch.no_grad()
def estimate_statistics(network: FCDenseNet, clips: Sequence[Clip], rows: Sequence[np.ndarray], seed: int) -> None:
    """Set the batch normalisation statistics of a network from frames of the clips; it stays in training mode.

    Running means lag behind the weights and differ between processes. The mean over some frames at fixed weights does
    neither (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3).

    Args:
        network: a network with batch normalisation.
        clips: clips that the network is trained on.
        rows: usable rows of each clip.
        seed: seed of the choice of frames.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        # None selects the cumulative mean.
        norm.momentum = None
    network.train()
    random = np.random.default_rng([seed, len(clips)])
    every = [(clip, row) for clip, own in enumerate(rows) for row in own]
    chosen = random.permutation(len(every))[: max(2, min(_STATISTICS_FRAMES, len(every)))]
    parts = np.array_split(chosen, -(-len(chosen) // _FRAMES_AT_ONCE))
    for part in parts:
        images = np.stack([clips[every[each][0]].images[every[each][1]] for each in part])
        masks = np.stack([clips[every[each][0]].mask for each in part])
        network.features(network.input(images, masks))
