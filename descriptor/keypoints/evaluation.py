"""Accuracy of detected, described and matched keypoints, as measured by `test.py --task hpatches` and others."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from torch import Tensor

from descriptor.device import choose_device
from descriptor.gift.homography import apply
from descriptor.keypoints.describers import Describer, choose_describer
from descriptor.keypoints.detectors import Detector, choose_detector
from descriptor.keypoints.hpatches import Form, HomographyPair, HPatches
from descriptor.keypoints.relative_pose import PosePair, read_pairs, rotation_error
from descriptor.training.log_folder import log_folder
from descriptor.training.recorded_settings import numbered, save_recorded
from pipeline.arrays import Bools, Bytes, Float64s, Ints
from pipeline.command.bounds import NonNegativeInt, PositiveShare, Settings
from pipeline.errors import require
from pipeline.outputs.files import write_json, write_text
from pipeline.progress import progress

MatcherName = Literal["nearest", "mutual", "ratio"]

logger = logging.getLogger(__name__)

_PCK_PX = (5, 2, 1)
_CORRECT_DEG = (5, 10, 20)
# Products per block of rows: 64 MiB in single precision.
_NUMBERS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class KeypointConfig(Settings):
    """Measure keypoint descriptors on photographs: detect, describe and match keypoints of image pairs."""

    # Not recorded, in addition to paths: these may be weight files.
    PRIVATE = ("detector", "descriptor")

    data_root: Path
    """Folder of images: HPatches as published, or pairs NAME_left.jpg, NAME_right.jpg, NAME.txt."""
    log_root: Path
    """Output folder."""
    task: Literal["hpatches", "relative_pose"] = "hpatches"
    """Ground truth that matches are compared with: homographies, or camera rotations."""
    detector: str = "sift"
    """sift, harris, grid, or a file of SuperPoint weights."""
    descriptor: tuple[str, ...] = ("sift",)
    """Descriptors to measure in one table: sift, aliked and xfeat (pip install -e '.[peers]'), or checkpoints of any
    backend."""
    rotations: Literal[5, 8] | None = None
    """Rotations of GIFT's group, for checkpoints that do not record them. None for 5."""
    matcher: MatcherName = "mutual"
    """nearest matches each keypoint with its nearest neighbour; mutual keeps mutual nearest neighbours; ratio applies
    Lowe's ratio test."""
    ratio: PositiveShare = 0.8
    """For --matcher ratio: maximum ratio of the distances to the nearest and the second nearest neighbour."""
    keypoints: Annotated[int, msgspec.Meta(ge=8)] = 1024
    """Maximum number of keypoints per image."""
    form: Form = "plain"
    """plain: HPatches as published; es: second images scaled by 2^1.5 to 4; er: rotated by up to 90 degrees."""
    image_px: Annotated[int, msgspec.Meta(ge=64)] = 480
    """HPatches: images are downsampled until the longer side is at most this."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on."""
    seed: NonNegativeInt = 0
    """Seed of scales and rotations."""
    record_path: bool = False
    """Write the names of --data_root, its pairs and the --descriptor files to the outputs, and all given paths to
    test.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.descriptor), "there is nothing to measure: give --descriptor")


@dataclass(frozen=True)
class HomographyFigures:
    """Accuracy of the matches of one image pair related by a homography.

    Attributes:
        name: sequence and image.
        pck: shares of all keypoints whose match is within 5, 2 and 1 px of the truth, 0..1, mean of both directions.
    """

    name: str
    pck: tuple[float, ...]


@dataclass(frozen=True)
class PoseFigures:
    """A relative pose: its angle to the true rotation, and its number of inliers."""

    name: str
    angle_deg: float
    inliers: int


def measure_keypoints(config: KeypointConfig) -> list[Path]:
    """Evaluate, print one line per descriptor, and write the lines and the numbers.

    Raises:
        LumenError: if data, weights or names do not fit, or the output folder holds other files.
    """
    with log_folder(config.log_root, (config.data_root,)):
        return _measure_all(config)


def _measure_all(config: KeypointConfig) -> list[Path]:
    device = choose_device(config.device)
    detector = choose_detector(config.detector)
    given = tuple(dict.fromkeys(config.descriptor))
    describers = [choose_describer(name, device, config.rotations) for name in given]
    outputs = [config.log_root / f"{config.task}.txt", config.log_root / f"{config.task}.json"]
    save_recorded(config, config.log_root / "test.yaml")
    lines: list[str] = []
    numbers: dict[str, Any] = {}
    for name, describer, called in zip(given, describers, _names(config, given, describers), strict=True):
        matcher = KeypointMatcher(detector, describer, called, config.matcher, config.ratio, config.keypoints)
        line, found = _measure(config, matcher)
        print(line)
        lines.append(line)
        numbers[name if config.record_path else called] = [asdict(each) for each in found]
        # Written after each descriptor, because the next may fail.
        write_text(outputs[0], "\n".join(lines) + "\n")
        write_json(outputs[1], numbers)
    return outputs


def _names(config: KeypointConfig, given: Sequence[str], describers: Sequence[Describer]) -> list[str]:
    """Names of the descriptors in the lines."""
    names = [each.name for each in describers]
    if config.record_path:
        folders = [Path(name).resolve().parent.name for name in given]
        return [
            name if names.count(name) == 1 else f"{name}_{folder}" for name, folder in zip(names, folders, strict=True)
        ]
    for called, name in zip(numbered(names), given, strict=True):
        if called != name:
            logger.info("%s is %s", called, name)
    return numbered(names)


def _measure(
    config: KeypointConfig, matcher: "KeypointMatcher"
) -> tuple[str, Sequence[HomographyFigures] | Sequence[PoseFigures]]:
    """The line and the numbers of one descriptor."""
    if config.task == "relative_pose":
        pairs = progress(list(read_pairs(config.data_root)), matcher.name)
        poses = [pose_figures(pair, matcher) for pair in pairs]
        if not config.record_path:
            poses = [replace(each, name=str(number)) for number, each in enumerate(poses)]
        return pose_line(config, matcher.name, poses), poses
    started = time.perf_counter()
    data = HPatches(config.data_root, config.form, config.image_px, config.seed)
    found = []
    for folder in progress(data.sequences(), matcher.name, unit="sequence"):
        first = None
        for pair in data.pairs(folder):
            # All pairs of a sequence share the first image.
            first = first or matcher.prepare(pair.first)
            found.append(homography_figures(pair, first, matcher))
    return hpatches_line(config, matcher.name, found, time.perf_counter() - started), found


class KeypointMatcher:
    """Detects, describes and matches keypoints.

    Args:
        detector: detects keypoints.
        describer: describes keypoints.
        called: name of the describer in tables.
        how: matching method; see `match_descriptors`.
        ratio: of the ratio test.
        count: maximum number of keypoints.
    """

    def __init__(
        self, detector: Detector, describer: Describer, called: str, how: MatcherName, ratio: float, count: int
    ) -> None:
        self._detector, self._describer, self._called = detector, describer, called
        self._how, self._ratio, self._count = how, ratio, count

    @property
    def name(self) -> str:
        """Name in the format of GIFT's tables."""
        return f"{self._detector.name}_det {self._called}_desc match_{self._how}"

    def prepare(self, image: Bytes) -> tuple[Float64s, Tensor]:
        """Keypoints (N, 2) px of an image (H, W, 3) and their descriptors (N, C)."""
        keypoints = self._detector.detect(image, self._count)
        return keypoints.pixels, self._describer.describe(image, keypoints)

    def match(self, first: Tensor, second: Tensor) -> Ints:
        """Rows (K, 2) of matched descriptors."""
        return match_descriptors(first, second, self._how, self._ratio)


def homography_figures(
    pair: HomographyPair, first: tuple[Float64s, Tensor], matcher: KeypointMatcher
) -> HomographyFigures:
    """Shares of keypoints whose match agrees with the homography, in both directions.

    Args:
        pair: the images.
        first: keypoints and descriptors of the first image, from `matcher.prepare`.
        matcher: prepares the second image and matches.
    """
    second = matcher.prepare(pair.second)
    homography = pair.second_from_first
    shares = []
    for (pixels, described), (other_pixels, other_described), motion in (
        (first, second, homography),
        (second, first, np.asarray(np.linalg.inv(homography), np.float64)),
    ):
        matches = matcher.match(described, other_described)
        true = apply(motion, pixels[matches[:, 0]])
        error = np.linalg.norm(true - other_pixels[matches[:, 1]], axis=1)
        shares.append([float((error <= px).sum()) / max(1, len(pixels)) for px in _PCK_PX])
    return HomographyFigures(pair.name, tuple(float(share) for share in np.mean(shares, axis=0)))


def pose_figures(pair: PosePair, matcher: KeypointMatcher) -> PoseFigures:
    """Error of the relative pose estimated from the matches of a pair."""
    (first, described), (second, other_described) = matcher.prepare(pair.first), matcher.prepare(pair.second)
    matches = matcher.match(described, other_described)
    return PoseFigures(pair.name, *rotation_error(pair, first[matches[:, 0]], second[matches[:, 1]]))


def hpatches_line(config: KeypointConfig, name: str, found: Sequence[HomographyFigures], cost_s: float) -> str:
    """The line as GIFT prints it.

    Example: `es superpoint_det gift_desc match_mutual pck-5 0.290 -2 0.132 -1 0.057 cost 267.826 s`.
    """
    shares = np.mean([each.pck for each in found], axis=0)
    text = " ".join(f"-{px} {share:.3f}" for px, share in zip(_PCK_PX, shares, strict=True))
    return f"{'hpatches' if config.form == 'plain' else config.form} {name} pck{text} cost {cost_s:.3f} s"


def pose_line(config: KeypointConfig, name: str, found: Sequence[PoseFigures]) -> str:
    """The line as GIFT prints it.

    Example: `NAME superpoint_det gift_desc match_mutual ang diff 24.1 inlier 62.24 correct-5 0.17 ...`.
    """
    angles = np.array([each.angle_deg for each in found])
    correct = " ".join(f"-{limit} {(angles <= limit).mean():.3f}" for limit in _CORRECT_DEG)
    inliers = float(np.mean([each.inliers for each in found]))
    data = config.data_root.resolve().name if config.record_path else config.task
    return f"{data} {name} ang diff {angles.mean():.3f} inlier {inliers:.3f} correct{correct}"


def match_descriptors(first: Tensor, second: Tensor, how: MatcherName, ratio: float = 0.8) -> Ints:
    """Match descriptors of length 1.

    Args:
        first, second: (N, C) and (M, C).
        how: `nearest` matches each of the first with its nearest neighbour in the second; `mutual` keeps mutual nearest
            neighbours; `ratio` applies the ratio test (Lowe, IJCV 2004).
        ratio: maximum ratio of the distances to the nearest and the second nearest neighbour.

    Returns:
        (K, 2) int64, rows of first and second.
    """
    if not len(first) or not len(second):
        return np.zeros((0, 2), np.int64)
    best, is_clear = _nearest(first, second, ratio)
    matches = np.stack([np.arange(len(first)), best], axis=1)
    if how == "mutual":
        return matches[_nearest(second, first, ratio)[0][best] == matches[:, 0]]
    return matches[is_clear] if how == "ratio" else matches


def _nearest(first: Tensor, second: Tensor, ratio: float) -> tuple[Ints, Bools]:
    """The nearest neighbour in the second of each of the first, and whether it passes the ratio test."""
    found, clear = [], []
    for part in first.split(max(1, _NUMBERS_AT_ONCE // len(second))):
        products, place = (part @ second.T).topk(min(2, len(second)), dim=1)
        distance = (2 - 2 * products).clamp(min=0).sqrt()
        found.append(place[:, 0].cpu().numpy())
        alone = distance.shape[1] == 1
        is_clear = distance[:, 0] <= ratio * distance[:, 1] if not alone else distance[:, 0] >= 0
        clear.append(is_clear.cpu().numpy())
    return np.concatenate(found).astype(np.int64), np.concatenate(clear)
