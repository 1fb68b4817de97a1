"""Settings of `train.py --method gift`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pipeline.command.bounds import Count, NonNegative, NonNegativeInt, Positive, Settings, Share
from pipeline.errors import require

_Side = Annotated[int, msgspec.Meta(ge=64)]
# Both sizes of a pair need 64 px.
_LEAST_SIDE_OF_TWO_SIZES = 128


@dataclass(frozen=True)
class GiftTrainConfig(Settings):
    """Train GIFT (Liu et al., NeurIPS 2019) on any images: its extractor in stage 1, its embedder in stage 2.

    The defaults are the published settings of both stages.
    """

    training_data_root: Path
    """Folder of images or of sequences; searched recursively."""
    log_root: Path
    """Output folder: checkpoints, TensorBoard events, settings."""
    method: Literal["gift"] = "gift"
    """What to train."""
    stage: Literal[1, 2] = 1
    """1 trains the extractor; 2 trains the embedder on the fixed extractor of stage 1."""
    trained_model_path: Path | None = None
    """Checkpoint of stage 1 for stage 2, or a checkpoint of the same stage to start from."""

    rotations: Literal[5, 8] = 5
    """Rotations of the group: 5 from -90 to 90 degrees, or 8 over the full circle."""
    image_size: tuple[_Side, _Side] = (480, 640)
    """Height and width of the views."""
    batch_size: Count = 4
    """Pairs of views per step."""
    points_per_pair: Annotated[int, msgspec.Meta(ge=16)] = 512
    """Maximum number of points per pair."""
    two_sizes: Share = 0.0
    """Share of pairs that consist of an image and a smaller copy of it, or an enlarged part of it, up to four times and
    slightly rotated. They are faster to compute and teach scale and rotation soonest."""
    corner_sizes: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Number of sizes of the image, 1, 1/2, 1/4, ..., at which corners are detected as points. 1, as published, trains
    on small details only and recognises places inside large structures poorly."""
    augmentation: Share = 0.5
    """Strength of the augmentation of both views (light, sharpness, compression), 0..1."""
    frame_share: tuple[Share, Share] = (0.0, 1.0)
    """Part of each folder's images to train on; the rest, if any, is used for validation."""
    margin: Positive = 0.5
    """Margin of the triplet loss, on squared distances."""
    spread_weight: NonNegative = 0.0
    """Weight of the loss that keeps descriptors of different places apart, in stage 2. With 0, as published, hard
    negatives sometimes collapse all descriptors in a short training."""
    hem_interval: Count = 16
    """Spacing of the grid on which hard negatives are mined, px."""
    hem_threshold_px: tuple[Positive, Positive] = (32.0, 16.0)
    """Smallest distance between hard negatives and the true place: at the start, and after a fifth of the training. It
    decreases in steps of one pixel."""
    num_epoch: Count = 80
    """Number of epochs."""
    num_iter: Count = 250
    """Steps per epoch."""
    max_minutes: Positive | None = None
    """Train for this many minutes instead of --num_epoch."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam as published, or muon, which learns more in few steps."""
    lr_range: tuple[Positive, Positive] = (1.0e-4, 1.0e-3)
    """Learning rate at both ends, and at its maximum after an eighth of the training."""
    validation_interval: Count = 4
    """Epochs between validations."""
    display_interval: Count = 20
    """Steps between entries in TensorBoard."""
    num_workers: int = 4
    """Threads that prepare pairs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""
    seed: NonNegativeInt = 0
    """Seed of all random choices."""
    record_path: bool = False
    """Also write the given paths to checkpoints and train.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.image_size
        require(
            self.hem_interval <= min(height, width) // 2,
            f"--hem_interval {self.hem_interval}: choose at most half of --image_size",
        )
        least = _LEAST_SIDE_OF_TWO_SIZES
        require(
            self.two_sizes == 0 or min(height, width) >= least,
            f"--image_size {height} {width}: choose {least} or more each for --two_sizes",
        )
        first, end = self.frame_share
        require(first < end, f"--frame_share {first:g} {end:g}: give two shares of the images, such as 0 0.8")
        slow, fast = self.lr_range
        require(slow <= fast, f"--lr_range {slow:g} {fast:g}: give the lowest first")
        far, near = self.hem_threshold_px
        require(far >= near, f"--hem_threshold_px {far:g} {near:g}: give the larger distance first")
        require(self.spread_weight == 0 or self.stage == 2, "--spread_weight applies to --stage 2 only")
