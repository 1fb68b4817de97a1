"""Keypoints detected, described and matched, and how often they are right: what `test.py --task ...` runs."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from descriptor.device import choose_device
from descriptor.gift.homography import apply
from descriptor.keypoints.describers import Describer, choose_describer
from descriptor.keypoints.detectors import Detector, choose_detector
from descriptor.keypoints.hpatches import Form, HomographyPair, HPatches
from descriptor.keypoints.relative_pose import PosePair, read_pairs, rotation_error
from descriptor.training.log_folder import log_folder
from descriptor.training.recorded_settings import numbered, save_recorded
from pipeline.errors import require
from pipeline.outputs.files import write_json, write_text
from pipeline.progress import progress

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
MatcherName = Literal["nearest", "mutual", "ratio"]

logger = logging.getLogger(__name__)

_PCK_PX = (5, 2, 1)
_CORRECT_DEG = (5, 10, 20)
# Products per block of rows: 64 MiB in single precision.
_NUMBERS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class KeypointConfig:
    """Measure descriptors of keypoints on photographs.

    Keypoints of two images are detected, described and matched.
    """

    # What a record leaves out besides paths: these may be files of weights.
    PRIVATE = ("detector", "descriptor")

    data_root: Path
    """Folder with the images: HPatches as published, or pairs NAME_left.jpg, NAME_right.jpg, NAME.txt."""
    log_root: Path
    """Folder to write into."""
    task: Literal["hpatches", "relative_pose"] = "hpatches"
    """What matches are compared with: homographies, or rotations of the camera."""
    detector: str = "sift"
    """sift, harris, grid, or a file of SuperPoint's weights."""
    descriptor: tuple[str, ...] = ("sift",)
    """What to measure, in one table: sift, aliked and xfeat (pip install -e '.[peers]'), or checkpoints of any
    backend."""
    rotations: Literal[5, 8] | None = None
    """Of GIFT's group, for checkpoints that do not tell; 5 by default."""
    matcher: MatcherName = "mutual"
    """Match each keypoint with the nearest; keep those that are each other's nearest; or those clearly nearer than the
    second nearest."""
    ratio: float = 0.8
    """For --matcher ratio: distance to the nearest by that to the second nearest, at most."""
    keypoints: int = 1024
    """Most of an image."""
    form: Form = "plain"
    """HPatches as they are, es: with second images scaled by 2^1.5 to 4, or er: rotated by up to 90 degrees."""
    image_px: int = 480
    """HPatches: images are made smaller until the longer side is at most this."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where descriptors compute."""
    seed: int = 0
    """Of scales and rotations."""
    record_path: bool = False
    """Write the names of --data_root, of its pairs and of the --descriptor files to the outputs, and all paths that are
    given here to test.yaml."""

    def __post_init__(self) -> None:
        require(self.keypoints >= 8, f"--keypoints {self.keypoints}: choose 8 or more")
        require(0 < self.ratio <= 1, f"--ratio {self.ratio:g}: above 0, at most 1")
        require(self.image_px >= 64, f"--image_px {self.image_px}: choose 64 or more")
        require(bool(self.descriptor), "there is nothing to measure: give --descriptor")
        require(self.seed >= 0, f"--seed {self.seed}: choose 0 or more")


@dataclass(frozen=True)
class HomographyFigures:
    """How often keypoints of images of planes are found.

    Attributes:
        name: of sequence and image.
        pck: for 5, 2 and 1 px, the share of all keypoints that are matched that near to the truth, the mean of both
            directions, 0..1.
    """

    name: str
    pck: tuple[float, ...]


@dataclass(frozen=True)
class PoseFigures:
    """A relative pose: angle to the true rotation, and the number of matches that agree with it."""

    name: str
    angle_deg: float
    inliers: int


def measure_keypoints(config: KeypointConfig) -> list[Path]:
    """Evaluate, print a line for each descriptor, and write the lines and the numbers.

    Raises:
        LumenError: if data, weights or names do not fit, or the output holds something else.
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
        # After each, because the next may fail.
        write_text(outputs[0], "\n".join(lines) + "\n")
        write_json(outputs[1], numbers)
    return outputs


def _names(config: KeypointConfig, given: Sequence[str], describers: Sequence[Describer]) -> list[str]:
    """What to call the descriptors in the lines."""
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
    """The line and the figures of one descriptor."""
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
            # The same for all pairs of a sequence.
            first = first or matcher.prepare(pair.first)
            found.append(homography_figures(pair, first, matcher))
    return hpatches_line(config, matcher.name, found, time.perf_counter() - started), found


class KeypointMatcher:
    """Detects, describes and matches, as settings say.

    Args:
        detector: finds keypoints.
        describer: describes them.
        called: what the describer is called in tables.
        how: descriptors are matched.
        ratio: for `how` "ratio".
        count: of keypoints, at most.
    """

    def __init__(
        self, detector: Detector, describer: Describer, called: str, how: MatcherName, ratio: float, count: int
    ) -> None:
        self._detector, self._describer, self._called = detector, describer, called
        self._how, self._ratio, self._count = how, ratio, count

    @property
    def name(self) -> str:
        """As GIFT's tables have it."""
        return f"{self._detector.name}_det {self._called}_desc match_{self._how}"

    def prepare(self, image: npt.NDArray[np.uint8]) -> tuple[Floats, Tensor]:
        """Keypoints (N, 2) px of an image (H, W, 3) and their descriptors (N, C)."""
        keypoints = self._detector.detect(image, self._count)
        return keypoints.pixels, self._describer.describe(image, keypoints)

    def match(self, first: Tensor, second: Tensor) -> npt.NDArray[np.int64]:
        """Rows (K, 2) of descriptors that belong together."""
        return match_descriptors(first, second, self._how, self._ratio)


def homography_figures(
    pair: HomographyPair, first: tuple[Floats, Tensor], matcher: KeypointMatcher
) -> HomographyFigures:
    """The share of all keypoints that are matched near to where the homography has them, in both directions.

    Args:
        pair: the images.
        first: what `matcher` prepared of the first.
        matcher: prepares the second, and matches.
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
    """The relative pose of a pair's matches against the truth."""
    (first, described), (second, other_described) = matcher.prepare(pair.first), matcher.prepare(pair.second)
    matches = matcher.match(described, other_described)
    return PoseFigures(pair.name, *rotation_error(pair, first[matches[:, 0]], second[matches[:, 1]]))


def hpatches_line(config: KeypointConfig, name: str, found: Sequence[HomographyFigures], cost_s: float) -> str:
    """As GIFT prints it: `es superpoint_det gift_desc match_mutual pck-5 0.290 -2 0.132 -1 0.057 cost 267.826 s`."""
    shares = np.mean([each.pck for each in found], axis=0)
    text = " ".join(f"-{px} {share:.3f}" for px, share in zip(_PCK_PX, shares, strict=True))
    return f"{'hpatches' if config.form == 'plain' else config.form} {name} pck{text} cost {cost_s:.3f} s"


def pose_line(config: KeypointConfig, name: str, found: Sequence[PoseFigures]) -> str:
    """As GIFT prints it: `NAME superpoint_det gift_desc match_mutual ang diff 24.1 inlier 62.24 correct-5 0.17 ...`."""
    angles = np.array([each.angle_deg for each in found])
    correct = " ".join(f"-{limit} {(angles <= limit).mean():.3f}" for limit in _CORRECT_DEG)
    inliers = float(np.mean([each.inliers for each in found]))
    data = config.data_root.resolve().name if config.record_path else config.task
    return f"{data} {name} ang diff {angles.mean():.3f} inlier {inliers:.3f} correct{correct}"


def match_descriptors(first: Tensor, second: Tensor, how: MatcherName, ratio: float = 0.8) -> Integers:
    """Match descriptors of length 1.

    Args:
        first, second: (N, C) and (M, C).
        how: `nearest` matches each of the first with the nearest of the second; `mutual` keeps those of which each is
            the other's nearest; `ratio` those that are nearer than the second nearest by a factor (Lowe, IJCV 2004).
        ratio: the nearest distance by the second nearest, at most, for `ratio`.

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


def _nearest(first: Tensor, second: Tensor, ratio: float) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """The nearest of the second to each of the first, and whether it is clearly so."""
    found, clear = [], []
    for part in first.split(max(1, _NUMBERS_AT_ONCE // len(second))):
        products, place = (part @ second.T).topk(min(2, len(second)), dim=1)
        distance = (2 - 2 * products).clamp(min=0).sqrt()
        found.append(place[:, 0].cpu().numpy())
        alone = distance.shape[1] == 1
        is_clear = distance[:, 0] <= ratio * distance[:, 1] if not alone else distance[:, 0] >= 0
        clear.append(is_clear.cpu().numpy())
    return np.concatenate(found).astype(np.int64), np.concatenate(clear)
