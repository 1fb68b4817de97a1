"""What `train.py --method gift` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import require


@dataclass(frozen=True)
class GiftTrainConfig:
    """Train GIFT (Liu et al., NeurIPS 2019) on pictures of anything: stage 1 its extractor, stage 2 its embedder.

    With the defaults, both stages are as published.
    """

    training_data_root: Path
    """Folder of images, or of sequences whose frames are taken; searched with all that is in it."""
    log_root: Path
    """Folder to write into: checkpoints, TensorBoard's events, settings."""
    method: Literal["gift"] = "gift"
    """What is trained."""
    stage: Literal[1, 2] = 1
    """1 trains the extractor alone; 2 the embedder, with the extractor of stage 1 as it is."""
    trained_model_path: Path | None = None
    """Checkpoint of stage 1 for stage 2, or of the same stage to start from."""

    rotations: Literal[5, 8] = 5
    """Of the group: 5 from -90 to 90 degrees, or 8 all the way around."""
    image_size: tuple[int, int] = (480, 640)
    """Height and width of the views."""
    batch_size: int = 4
    """Pairs of views a step."""
    points_per_pair: int = 512
    """Most points of a pair."""
    two_sizes: float = 0.0
    """Share of pairs of a picture and all of it made smaller, or a part of it made larger, up to four times, and turned
    a little: they take less time than others, and teach scale and rotation soonest."""
    corner_sizes: int = 1
    """Points are corners of the picture at so many sizes, 1, 1/2, 1/4, ...: with 1, as published, only small details
    are trained on, and places in the midst of large ones are hardly known again."""
    augmentation: float = 0.5
    """How much the light, the sharpness and the like of both views are changed, 0..1."""
    frame_share: tuple[float, float] = (0.0, 1.0)
    """Which part of each folder's images to train on; the rest is validated on, if there is one."""
    margin: float = 0.5
    """Of the triplet loss, on squared distances."""
    spread_weight: float = 0.0
    """Of what keeps the descriptors of different places apart, in stage 2. With 0, as published, hard examples
    sometimes draw all of them together in a short training."""
    hem_interval: int = 16
    """Hard examples are looked for on a grid of so many pixels."""
    hem_threshold_px: tuple[float, float] = (32.0, 16.0)
    """How far hard examples are from the true place at first, and, a pixel less at a time, after a fifth of the
    training."""
    num_epoch: int = 80
    """Epochs."""
    num_iter: int = 250
    """Steps of an epoch."""
    max_minutes: float | None = None
    """Train this long by the clock instead of --num_epoch."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam as published, or muon, which learns more in few steps."""
    lr_range: tuple[float, float] = (1.0e-4, 1.0e-3)
    """Learning rate at the start and the end, and at its highest, an eighth into the training."""
    validation_interval: int = 4
    """Epochs between validations."""
    display_interval: int = 20
    """Steps between entries in TensorBoard."""
    num_workers: int = 4
    """Threads that prepare pairs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    seed: int = 0
    """Of all random choices."""
    record_path: bool = False
    """Write the paths that are given here to checkpoints and train.yaml, too."""

    def __post_init__(self) -> None:
        names = ("batch_size", "points_per_pair", "hem_interval", "num_epoch", "num_iter", "validation_interval")
        for name in (*names, "display_interval"):
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: choose 1 or more")
        require(self.points_per_pair >= 16, f"--points_per_pair {self.points_per_pair}: choose 16 or more")
        require(1 <= self.corner_sizes <= 5, f"--corner_sizes {self.corner_sizes}: choose 1..5")
        require(
            self.hem_interval <= min(self.image_size) // 2,
            f"--hem_interval {self.hem_interval}: choose at most half of --image_size",
        )
        require(min(self.image_size) >= 64, f"--image_size {self.image_size[0]} {self.image_size[1]}: 64 or more each")
        require(0 <= self.two_sizes <= 1, f"--two_sizes {self.two_sizes}: choose 0..1")
        require(
            self.two_sizes == 0 or min(self.image_size) >= 128,
            f"--image_size {self.image_size[0]} {self.image_size[1]}: 128 or more each for --two_sizes",
        )
        require(0 <= self.augmentation <= 1, f"--augmentation {self.augmentation}: choose 0..1")
        first, end = self.frame_share
        require(0 <= first < end <= 1, f"--frame_share {first} {end}: give two shares of the images, such as 0 0.8")
        slow, fast = self.lr_range
        require(0 < slow <= fast, f"--lr_range {slow} {fast}: give the lowest, above 0, and the highest")
        far, near = self.hem_threshold_px
        require(far >= near > 0, f"--hem_threshold_px {far} {near}: give the farther first, both above 0")
        require(self.spread_weight >= 0, f"--spread_weight {self.spread_weight}: choose 0 or more")
        require(self.spread_weight == 0 or self.stage == 2, "--spread_weight is of --stage 2")
        require(self.margin > 0, f"--margin {self.margin}: choose more than 0")
        require(self.max_minutes is None or self.max_minutes > 0, f"--max_minutes {self.max_minutes}: more than 0")
        require(self.seed >= 0, f"--seed {self.seed}: choose 0 or more")
