"""What a training run tells TensorBoard and leaves as files: losses, PCK, heatmaps, descriptors as colours."""

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import pyplot
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from descriptor.fcdensenet import FCDenseNet
from descriptor.groups import Group
from descriptor.response_loss import interpolate
from descriptor.training_config import TrainConfig
from descriptor.training_paths import RunFolder
from descriptor.validation import THRESHOLDS_PX, Validation
from pipeline.files import atomic_write, write_json

_HEATMAPS = 4


class TrainingLog:
    """Entries of one run. A context manager.

    Args:
        folder: of the run.
        config: its settings.
        step: that the run goes on from; what an interrupted run logged of later ones is dropped.
        active: whether this process writes anything.
    """

    def __init__(self, folder: RunFolder, config: TrainConfig, step: int, active: bool) -> None:
        self._folder, self._config, self._active = folder, config, active
        self._writer = SummaryWriter(str(folder.events), purge_step=step) if active else None
        self._losses: list[float] = []
        self._since: float | None = None
        self._step = step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, loss: float, rate: float, elapsed_s: float) -> None:
        """Note a step; the mean of the latest goes to TensorBoard every `display_interval` steps."""
        self._losses.append(loss)
        if self._since is None:
            # The first step that is seen has no length.
            self._since, self._step = elapsed_s, step
        if self._writer is None or step % self._config.display_interval:
            return
        self._writer.add_scalar("loss", np.mean(self._losses[-self._config.display_interval :]), step)
        self._writer.add_scalar("learning_rate", rate, step)
        if step > self._step:
            pairs = self._config.batch_size * (step - self._step)
            self._writer.add_scalar("pairs_per_s", pairs / max(elapsed_s - self._since, 1e-9), step)
        self._since, self._step = elapsed_s, step

    def validation(
        self,
        history: list[dict[str, Any]],
        found: Validation,
        network: FCDenseNet,
        group: Group,
    ) -> None:
        """Note a validation, with pictures of one group."""
        if self._writer is None:
            return
        step = history[-1]["step"]
        if self._losses:
            history[-1]["loss"] = float(np.mean(self._losses[-self._config.num_iter :]))
        for threshold, share in zip(THRESHOLDS_PX, found.pck, strict=True):
            self._writer.add_scalar(f"validation/pck_{threshold}px", share, step)
        self._writer.add_scalar("validation/median_error_px", found.median_px, step)
        self._writer.add_scalar("validation/consistent", found.consistent, step)
        described = _describe(network, group)
        self._writer.add_image("descriptors", descriptor_colors(described, group), step, dataformats="HWC")
        self._writer.add_image("heatmaps", self._heatmaps(described, group), step, dataformats="HWC")
        self._writer.flush()
        write_json(self._folder.history, history)
        plot_history(self._folder, history)

    def _heatmaps(self, described: Tensor, group: Group) -> npt.NDArray[np.uint8]:
        """Rows of: target, true heatmap, found heatmap, for some points of the group's widest pair."""
        (source, target), points = max(group.pairs.items(), key=lambda item: item[0][1] - item[0][0])
        chosen = np.linspace(0, len(points) - 1, min(_HEATMAPS, len(points))).astype(int)
        wanted = interpolate(described[source], torch.from_numpy(points.source[chosen]).to(described))
        logits = 0.5 * self._config.matching_scale * (described[target].flatten(0, 1) @ wanted.T)
        height, width = group.masks.shape[1:]
        rows, columns = np.mgrid[:height, :width] + 0.5
        panels = []
        for number, place in enumerate(points.target[chosen]):
            squared = (columns - place[0]) ** 2 + (rows - place[1]) ** 2
            truth = np.exp(-squared / (2 * self._config.heatmap_sigma**2))
            heat = torch.softmax(logits[:, number], 0).reshape(height, width).cpu().numpy()
            shown = [_grey(group.images[target].mean(axis=2) / 255), _grey(truth), _grey(np.sqrt(heat / heat.max()))]
            panels.append(np.concatenate(shown, axis=1))
        return np.concatenate(panels, axis=0)


def descriptor_colors(described: Tensor, group: Group) -> npt.NDArray[np.uint8]:
    """Frames above their descriptors, whose three main components are shown as red, green, blue.

    Args:
        described: (N, H, W, D).
        group: the frames.

    Returns:
        (2 H, N W, 3) uint8.
    """
    mask = torch.from_numpy(group.masks)
    flat = described.cpu()[mask]
    centred = flat - flat.mean(dim=0)
    # Of a part of the pixels, which has the same components as all of them.
    main = torch.linalg.svd(centred[:: max(1, len(centred) // 5000)], full_matrices=False).Vh[:3]
    # Descriptors of one or two channels have fewer components than colours.
    shade = torch.nn.functional.pad(centred @ main.T, (0, 3 - len(main)))
    spread = 2 * shade.std(dim=0) + 1e-9
    colors = torch.zeros((*described.shape[:3], 3))
    colors[mask] = (shade / spread * 0.5 + 0.5).clamp(0, 1)
    painted = (colors.numpy() * 255).astype(np.uint8)
    return np.concatenate([np.concatenate(list(rows), axis=1) for rows in (group.images, painted)], axis=0)


def plot_history(folder: RunFolder, history: list[dict[str, Any]]) -> None:
    """PCK and loss against the minutes of training, as a picture."""
    minutes = [entry["elapsed_s"] / 60 for entry in history]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number, threshold in enumerate(THRESHOLDS_PX):
        axes.plot(minutes, [entry["pck"][number] for entry in history], "o-", ms=3, label=f"within {threshold} px")
    axes.set(xlabel="minutes of training", ylabel="share of points (validation)", ylim=(0, 1))
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(minutes, [entry.get("loss", np.nan) for entry in history], color="grey", ls="--", label="loss")
    right.set(ylabel="training loss")
    axes.legend(loc="center right")
    with atomic_write(folder.plot) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


@torch.no_grad()
def _describe(network: FCDenseNet, group: Group) -> Tensor:
    network.eval()
    described = network.describe(group.images, group.masks)
    network.train()
    return described


def _grey(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    levels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)
