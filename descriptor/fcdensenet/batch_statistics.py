"""The normalisation that a trained network is used with, estimated afresh instead of carried along while training.

Batch normalisation trains with the statistics of each group of frames and is used with those of all. A running mean
lags behind the weights, and differs between processes; a mean over some frames, with the weights as they are, does
neither (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from descriptor.clips.clip import Clip
from descriptor.fcdensenet.network import FCDenseNet

_FRAMES = 64
_FRAMES_AT_ONCE = 8


@torch.no_grad()
def estimate_statistics(network: FCDenseNet, clips: Sequence[Clip], rows: Sequence[np.ndarray], seed: int) -> None:
    """Set the running statistics of a network to those of frames spread over the clips; it stays in training mode.

    Args:
        network: with batch normalisation.
        clips: the frames that it is trained on.
        rows: of each clip, those to use.
        seed: of the choice of frames.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        # None takes the mean over all that comes.
        norm.momentum = None
    network.train()
    random = np.random.default_rng([seed, len(clips)])
    every = [(clip, row) for clip, own in enumerate(rows) for row in own]
    chosen = random.permutation(len(every))[: max(2, min(_FRAMES, len(every)))]
    parts = np.array_split(chosen, -(-len(chosen) // _FRAMES_AT_ONCE))
    for part in parts:
        images = np.stack([clips[every[each][0]].images[every[each][1]] for each in part])
        masks = np.stack([clips[every[each][0]].mask for each in part])
        network.features(network.input(images, masks))
