"""Training of GIFT: random homographies of images, triplet loss with hard negatives."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from descriptor.fcdensenet.validation import THRESHOLDS_PX, Validation
from descriptor.gift.descriptor import METHOD, GiftNetwork
from descriptor.gift.image_pairs import ImagePair, PairSampler
from descriptor.gift.images import ImageSet
from descriptor.gift.loss import lattice_offset, moved_on_lattice, spread_loss, triplet_loss
from descriptor.gift.network import as_input, group_features
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.training.muon import Muon
from pipeline.arrays import Bytes, Float64s, Ints
from pipeline.conventions import colmap_from_index

_VALIDATION_PAIRS = 8
_CONSISTENT_PX = 5.0
# Shares of the training until the learning rate peaks, and until hard negatives reach their smallest distance.
_WARM_UP_SHARE, _APPROACH_SHARE = 0.125, 0.2
_SHOWN_MATCHES = 40
# Mean product of the descriptors of a view's grid above which they have collapsed.
_ALIKE = 0.99
_GREEN, _RED = (0, 255, 0), (255, 0, 0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Described:
    """Descriptors of a pair; in stage 1 the features of all group elements are concatenated.

    Attributes:
        points, counterparts: (P, D), of the points in the first and the second view.
        grid: (G, D), of the second view's grid.
        grid_px: (G, 2) px, positions of the grid.
        shared: (P,) number of unit vectors that both views of a point share.
        used: (P,) int64, indices of these points in the pair.
    """

    points: Tensor
    counterparts: Tensor
    grid: Tensor
    grid_px: Float64s
    shared: Tensor
    used: Ints


class GiftTraining:
    """A `descriptor.training.trainer.TrainingMethod`.

    Args:
        config: all settings.
        network: the network, on its device, with an embedder for stage 2.
        training: images to train on.
        validation: images to validate on.
    """

    name = METHOD
    thresholds_px = THRESHOLDS_PX

    def __init__(self, config: GiftTrainConfig, network: GiftNetwork, training: ImageSet, validation: ImageSet) -> None:
        self._config, self.network, self.parts = config, network, config.batch_size
        network.extractor.requires_grad_(config.stage == 1)
        self._device = next(network.parameters()).device
        self._sampler = _sampler(config, training, config.seed)
        # A different seed, because the training seed would reproduce the first training pairs.
        held_out = _sampler(config, validation, config.seed + 1)
        self._validation = [held_out.draw(0, number) for number in range(_VALIDATION_PAIRS)]

    def draw(self, step: int, number: int) -> ImagePair:
        """See `TrainingMethod.draw`."""
        return self._sampler.draw(step, number)

    def loss(self, part: ImagePair, step: int, share: float) -> Tensor:
        """See `TrainingMethod.loss`."""
        found = self._describe(part)
        far, near = self._config.hem_threshold_px
        threshold = max(near, far - math.floor((far - near) * share / _APPROACH_SHARE))
        true = part.points[1][found.used]
        apart = np.linalg.norm(true[:, None] - found.grid_px[None], axis=2)
        too_near = torch.from_numpy(apart <= threshold * self._unit_px(part)).to(self._device)
        margin, weight = self._config.margin, self._config.spread_weight
        loss = triplet_loss(found.points, found.counterparts, found.grid, too_near, found.shared, margin)
        return loss + weight * spread_loss(found.points, found.grid, too_near) if weight else loss

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """See `TrainingMethod.optimizers`: Muon updates kernels only."""
        trained = [each for each in self.network.parameters() if each.requires_grad]
        rate = self._config.lr_range[0]
        if self._config.optimizer == "adam":
            return {"adam": torch.optim.Adam(trained, lr=rate)}
        kernels = [each for each in trained if each.ndim > 1]
        biases = [each for each in trained if each.ndim == 1]
        made: dict[str, torch.optim.Optimizer] = {"muon": Muon(kernels, lr=rate)}
        if biases:  # The extractor has no biases.
            made["adam"] = torch.optim.Adam(biases, lr=rate)
        return made

    def rates(self, share: float, step: int) -> Mapping[str, float]:
        """See `TrainingMethod.rates`: linear warm-up and linear decay."""
        low, high = self._config.lr_range
        up = min(share / _WARM_UP_SHARE, (1 - share) / (1 - _WARM_UP_SHARE))
        rate = low + (high - low) * max(0.0, up)
        return {"adam": rate, "muon": rate}

    def settle(self) -> None:
        """See `TrainingMethod.settle`: GIFT needs no preparation."""

    @torch.no_grad()
    def validate(self) -> Validation:
        """See `TrainingMethod.validate`: each point is matched against all counterparts and the grid."""
        errors, returns, points, products = [], [], 0, []
        for pair in self._validation:
            found = self._describe(pair)
            candidates = torch.cat([found.counterparts, found.grid])
            places = np.concatenate([pair.points[1][found.used], found.grid_px])
            best = (found.points @ candidates.T).argmax(dim=1).cpu().numpy()
            errors.append(np.linalg.norm(places[best] - pair.points[1][found.used], axis=1))
            # The reverse match has only the points themselves as candidates.
            back = (found.points @ found.counterparts.T / found.shared[:, None]).argmax(dim=0).cpu().numpy()
            first = pair.points[0][found.used]
            returns.append(np.linalg.norm(first[back] - first, axis=1))
            points += len(best)
            grid = functional.normalize(found.grid, dim=1)
            products.append(float((grid @ grid.T).mean()))
        if np.mean(products) > _ALIKE:
            logger.warning(
                "the descriptors have collapsed (mean product %.3f), which hard negatives can cause: train again in "
                "another --log_root: stage 2 with --spread_weight 1, or with another --seed or --lr_range",
                np.mean(products),
            )
        error = np.concatenate(errors)
        return Validation(
            tuple(float((error <= threshold).mean()) for threshold in THRESHOLDS_PX),
            float(np.median(error)),
            float((np.concatenate(returns) <= _CONSISTENT_PX).mean()),
            points,
        )

    @torch.no_grad()
    def plots(self) -> dict[str, Bytes]:
        """See `TrainingMethod.plots`: matches among a pair's points; correct ones are green, others red."""
        pair = self._validation[0]
        found = self._describe(pair)
        best = (found.points @ found.counterparts.T).argmax(dim=1).cpu().numpy()
        true = pair.points[1][found.used]
        height, width = np.max([image.shape[:2] for image in pair.images], axis=0)
        canvas = np.zeros((height, 2 * width, 3), np.uint8)
        for image, left in zip(pair.images, (0, width), strict=True):
            canvas[: image.shape[0], left : left + image.shape[1]] = image
        # Evenly spaced indices, because points are ordered by corner size.
        for number in np.linspace(0, len(best) - 1, min(_SHOWN_MATCHES, len(best))).astype(int):
            is_right = np.linalg.norm(true[best[number]] - true[number]) <= _CONSISTENT_PX
            start, end = pair.points[0][found.used][number], true[best[number]] + [width, 0]
            ends = (tuple(int(each) for each in start), tuple(int(each) for each in end))
            cv2.line(canvas, *ends, _GREEN if is_right else _RED, 1, cv2.LINE_AA)
        return {"matches": canvas}

    def starting_from(self, weights: Path) -> str:
        """See `TrainingMethod.starting_from`."""
        return f"--trained_model_path {weights} and a lower --lr_range"

    def arrays(self, part: ImagePair) -> dict[str, np.ndarray]:
        """See `TrainingMethod.arrays`."""
        return {"first": part.images[0], "second": part.images[1], "points": part.points}

    def _describe(self, pair: ImagePair) -> Described:
        grid_px = self._grid(pair)
        count, group = len(pair.points[0]), self.network.group
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._config.stage == 1):
            features, others = self._group_features(pair, grid_px)
        if self.network.embedder is not None:
            described = self.network.embedder(torch.cat([features, others]))
            shared = torch.ones(count, device=self._device)
            points, counterparts, grid = described.split([count, count, len(grid_px)])
            return Described(points, counterparts, grid, grid_px, shared, np.arange(count))
        offset = lattice_offset(group, *(torch.from_numpy(each) for each in (pair.scale, pair.rotation_deg)))
        moved, shared = moved_on_lattice(group, features, offset.to(self._device))
        used = shared > 0
        return Described(
            moved.flatten(1)[used],
            others[:count].flatten(1)[used],
            others[count:].flatten(1),
            grid_px,
            shared[used],
            used.nonzero()[:, 0].cpu().numpy(),
        )

    def _group_features(self, pair: ImagePair, grid_px: Float64s) -> tuple[Tensor, Tensor]:
        """Features of the points in the first view, and of counterparts and grid in the second."""
        places = [pair.points[0], np.concatenate([pair.points[1], grid_px])]
        if pair.images[0].shape == pair.images[1].shape:
            # Both views in one batch, which is faster on a GPU; the first view's grid features are discarded.
            places[0] = np.concatenate([pair.points[0], grid_px])
            first, second = self._features_at(np.stack(pair.images), np.stack(places))
            return first[: len(pair.points[0])], second
        first, second = (
            self._features_at(image[None], own[None])[0] for image, own in zip(pair.images, places, strict=True)
        )
        return first, second

    def _features_at(self, images: Bytes, places: Float64s) -> Tensor:
        where = torch.from_numpy(places).to(self._device)
        return group_features(self.network.extractor, self.network.group, as_input(images, self._device), where)

    def _grid(self, pair: ImagePair) -> Float64s:
        """Centres of every N-th valid pixel of the second view, in both directions."""
        step = max(1, round(self._config.hem_interval * self._unit_px(pair)))
        shown = pair.shown[1][step // 2 :: step, step // 2 :: step]
        row, column = (step // 2 + step * index for index in np.nonzero(shown))
        return colmap_from_index(np.stack([column, row], axis=1))

    def _unit_px(self, pair: ImagePair) -> float:
        """Scale of distances in the second view; less than 1 if it is the smaller one."""
        return pair.images[1].shape[0] / self._config.image_size[0]


def _sampler(config: GiftTrainConfig, images: ImageSet, seed: int) -> PairSampler:
    shape = (config.image_size, config.points_per_pair, config.augmentation)
    return PairSampler(images, *shape, seed, config.two_sizes, config.corner_sizes)
