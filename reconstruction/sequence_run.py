"""One sequence through the stages, each skipped where an earlier run has done it."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.bootstrap_input import InputVideo
from descriptor.base import Descriptor
from descriptor.described_frames import DescribedFrames
from descriptor.device import choose_device
from descriptor.fcdensenet_descriptor import FCDenseNetDescriptor
from descriptor.gift.training import train as train_gift
from descriptor.gift.training_config import GiftTrainConfig
from descriptor.guided_finder import GuidedFinder
from descriptor.keypoint_matching import KeypointRules
from descriptor.matching.engines import choose_engine
from descriptor.pair_policy import DdlPolicy
from descriptor.registry import load_descriptor
from descriptor.training import train
from descriptor.training_config import TrainConfig
from descriptor.training_paths import RunFolder
from pipeline.config import from_mapping, save_config, to_mapping
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.files import read_yaml, remove_directory, write_json
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.paths import BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from pipeline.working_frames import WorkingFrames
from reconstruction.config import CONFIGS, STAGES, ReconstructConfig
from reconstruction.correspond_stage import correspond
from reconstruction.estimate import Estimate, estimate
from reconstruction.export_stage import export
from reconstruction.flesh_stage import cell_side, grow_flesh, pairs_per_reference
from reconstruction.report_stage import report_on
from reconstruction.skeleton_stage import map_skeleton

FORMAT_VERSION = 2

_DDL_OPTIONS = tuple(each.name for part in (DdlPolicy, KeypointRules) for each in fields(part))
_POINT_RULES = ("max_error_px", "min_angle_deg", "min_views", "max_depth_uncertainty", "inlier_percentage")
# The settings that each stage depends on, besides what the stages before it depend on.
_SETTINGS = {
    "train": ("train_minutes", "trained_method", "seed"),
    "correspond": (
        "correspondences",
        "points",
        "matcher",
        "pairs",
        "similar_frames",
        "rotations",
        "seed",
        *_DDL_OPTIONS,
    ),
    "skeleton": (*_POINT_RULES, "seed"),
    "flesh": ("references", "coverage", "reach", "cell_px"),
    "export": (),
    "report": (),
}
# Where things are may name a patient.
_PLACES = ("input", "output", "calibration", "weights", "train_config", "cache_root", "overwrite", "until")

logger = logging.getLogger(__name__)


def load_weights(config: ReconstructConfig) -> Descriptor:
    """The descriptor to begin with.

    Raises:
        LumenError: if there is none in the file, or one of another method than `config.descriptor`, or one that cannot
            be trained further and is to be.
    """
    assert config.weights is not None
    descriptor = load_descriptor(config.weights, choose_device(config.device), config.rotations)
    if config.descriptor not in (None, descriptor.name):
        raise LumenError(f"{config.weights} is of {descriptor.name}, not of --descriptor {config.descriptor}")
    require(
        not config.trains or isinstance(descriptor, FCDenseNetDescriptor),
        f"{config.weights} is of {descriptor.name}, which is not trained on from weights: give --train_minutes 0",
    )
    return descriptor


@dataclass(frozen=True)
class SequenceRun:
    """One sequence on its way.

    Attributes:
        config: the settings.
        sequence: where its frames are.
        paths: where everything goes.
        manifest: what is done already.
    """

    config: ReconstructConfig
    sequence: SequencePaths
    paths: ReconstructionPaths
    manifest: Manifest

    @classmethod
    def of(cls, config: ReconstructConfig, sequence: SequencePaths, root: Path) -> "SequenceRun":
        """Begin, or go on with, a run in a folder."""
        paths = ReconstructionPaths(root)
        with explain_os_errors("write", root):
            root.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.load(paths.manifest)
        save_config({key: value for key, value in to_mapping(config).items() if key not in _PLACES}, paths.config)
        return cls(config, sequence, paths, manifest)

    def run(self) -> list[Path]:
        """All stages up to the last that is wanted; returns what to look at."""
        if not self._wants("bootstrap"):
            return [self.sequence.root]
        self._bootstrap()
        outputs = [self.sequence.root]
        stages: list[tuple[str, Callable[[StageReport], Sequence[Path]]]] = [
            ("train", self._train),
            ("correspond", self._correspond),
            ("skeleton", self._skeleton),
            ("flesh", self._flesh),
            ("export", self._export),
            ("report", self._report),
        ]
        before: list[str] = []
        for name, function in stages:
            if not self._wants(name) or (name == "train" and not self.config.trains):
                continue
            outputs = self._stage(name, before, function)
            before.append(name)
        return outputs

    def next_round(self) -> ReconstructConfig:
        """The settings that train on this run's dense model, from its descriptor, and reconstruct once more."""
        return replace(
            self.config,
            input=self.paths.root,
            output=self.paths.next_round,
            rounds=self.config.rounds - 1,
            weights=self._trained,
            calibration=None,
            stride=1,
            split_at_cuts=True,
            keep_all=False,
            min_segment_frames=5,
            image_fps=30.0,
            record_path=True,
        )

    def _wants(self, stage: str) -> bool:
        return STAGES.index(stage) <= STAGES.index(self.config.until)

    def _stage(self, name: str, before: Sequence[str], function: Callable[[StageReport], Sequence[Path]]) -> list[Path]:
        """Run a stage unless it is current."""
        settings = {key: getattr(self.config, key) for key in _SETTINGS[name]}
        stage = Stage(name, settings, self._inputs(name), before[-1:], FORMAT_VERSION)

        def call() -> Sequence[Path]:
            report = StageReport(name)
            self._remove_outdated(name)
            work = self.paths.work(name)
            if work is not None:
                _keep_or_clear(work, self.manifest.fingerprint(stage))
            outputs = function(report)
            if work is not None and work != self.paths.training:
                shutil.rmtree(work, ignore_errors=True)
            report.save(self.paths.stage_report(name))
            return outputs

        return self.manifest.run(stage, call)

    def _inputs(self, name: str) -> dict[str, str]:
        """Fingerprints of what a stage reads that no stage before it makes."""
        sequence, config = self.sequence, self.config
        model = TrainingPaths(sequence.root)
        read: dict[str, Path | None] = {"sequence": sequence.sequence}
        if name in ("train", "correspond"):
            read |= {"images": sequence.images, "mask": sequence.mask, "masks": sequence.frame_masks}
            read["weights"] = config.weights if config.uses_descriptor else None
        if name == "train" and config.trains_gift:
            read |= {f"train_config_{stage}": _gift_preset(stage) for stage in (1, 2)}
        elif name == "train":
            read |= {"train_config": config.train_config, "views": model.views_per_point, "cloud": model.structure}
        if name == "skeleton" or (name == "train" and not config.trains_gift):
            read["poses"] = model.motion
        return {key: fingerprint_path(path) for key, path in read.items() if path is not None and path.exists()}

    def _remove_outdated(self, name: str) -> None:
        """Remove what would no longer fit to what is about to be made."""
        paths = self.paths
        results = [paths.page, paths.overlay, paths.point_cloud, paths.trajectory, paths.transforms]
        if name in ("correspond", "skeleton", "flesh"):
            with explain_os_errors("write", paths.root):
                for path in [*results, TrainingPaths(paths.root).motion, paths.dense_tracks]:
                    path.unlink(missing_ok=True)
            remove_directory(paths.dense.parent)
        if name in ("correspond", "skeleton"):
            remove_directory(paths.sparse_models)

    def _bootstrap(self) -> None:
        """See that there is a camera, and training data where they are needed; a first SfM that is there is kept."""
        has_model = TrainingPaths(self.sequence.root).motion.exists()
        calibrated = self._video().camera is not None
        needs_model = self.config.trains and not self.config.trains_gift
        if has_model or (calibrated and not needs_model):
            return
        rules = {name: getattr(self.config, name) for name in _POINT_RULES}
        bootstrap.run(BootstrapConfig(self.sequence.root, points=self.config.points, seed=self.config.seed, **rules))

    def _train(self, report: StageReport) -> list[Path]:
        config = self.config
        video = self._video()
        frames = WorkingFrames(video.source, video.frame_index, video.mask)
        after = self._estimate(video, frames, None)
        logger.info("training takes %g min; after it %s for flow alone (estimated)", config.train_minutes, after)
        if config.trains_gift:
            with report.timed("train"):
                self._train_gift()
            return [self._trained]
        settings = read_yaml(config.train_config)
        if not isinstance(settings, dict):
            raise LumenError(f"{config.train_config} holds no settings: give one such as configs/train/cpu_quick.yaml")
        settings |= {
            "training_data_root": str(self.sequence.root),
            "log_root": str(self.paths.training),
            "max_minutes": config.train_minutes,
            "device": config.device,
            "seed": config.seed,
            "cache_root": str(config.cache_root),
        }
        if config.weights is not None:
            settings |= {"load_trained_model": True, "trained_model_path": str(config.weights)}
            settings |= _shape_of(load_weights(config))
        with report.timed("train"):
            train(from_mapping(TrainConfig, settings, str(config.train_config)), to_the_end=True)
        return [self._trained]

    def _train_gift(self) -> None:
        """Both stages, which share the time as their presets do."""
        config = self.config
        presets = {stage: read_yaml(_gift_preset(stage)) for stage in (1, 2)}
        minutes = {stage: preset.get("max_minutes") for stage, preset in presets.items()}
        for stage, own in minutes.items():
            require(
                isinstance(own, int | float) and own > 0,
                f"{_gift_preset(stage)}: give max_minutes, by which both stages share the time",
            )
        for stage, preset in presets.items():
            share = minutes[stage] / sum(minutes.values())
            settings = preset | {
                "training_data_root": str(self.sequence.root),
                "log_root": str(self._gift_stage(stage)),
                "trained_model_path": str(RunFolder(self._gift_stage(1)).last) if stage == 2 else None,
                "max_minutes": share * config.train_minutes,
                "device": config.device,
                "seed": config.seed,
            }
            train_gift(from_mapping(GiftTrainConfig, settings, str(_gift_preset(stage))), to_the_end=True)

    def _gift_stage(self, stage: int) -> Path:
        return self.paths.training / f"stage{stage}"

    @property
    def _trained(self) -> Path:
        """The descriptor that is trained on the sequence."""
        return RunFolder(self._gift_stage(2) if self.config.trains_gift else self.paths.training).last

    def _correspond(self, report: StageReport) -> list[Path]:
        video = self._video()
        frames = WorkingFrames(video.source, video.frame_index, video.mask)
        guided = self._guided(video, frames)
        needed = self._estimate(video, frames, guided)
        logger.info("%d frames of %dx%d: %s are needed (estimated)", len(frames), *video.size, needed)
        correspond(self.config, video, frames, guided, self.paths, report)
        return [self.paths.tracks, self.paths.keyframes]

    def _estimate(self, video: InputVideo, frames: WorkingFrames, guided: GuidedFinder | None) -> Estimate:
        return estimate(
            self.config, video, frames, guided, cell_side(self.config, video), pairs_per_reference(self.config)
        )

    def _skeleton(self, report: StageReport) -> list[Path]:
        map_skeleton(self.config, self._video(), self.paths, report)
        return [self.paths.sparse(), self.paths.unregistered]

    def _flesh(self, report: StageReport) -> list[Path]:
        video = self._video()
        frames = WorkingFrames(video.source, video.frame_index, video.mask)
        grow_flesh(self.config, video, frames, self._guided(video, frames), self.paths, report)
        return [self.paths.dense, self.paths.dense_tracks, TrainingPaths(self.paths.root).model]

    def _export(self, report: StageReport) -> list[Path]:
        return export(self._video(), self.paths, report)

    def _report(self, report: StageReport) -> list[Path]:
        del report
        own = ("train", "correspond", "skeleton", "flesh", "export")
        reports = [
            RunPaths(self.sequence.root.parent).report("extract"),
            BootstrapPaths.of(self.sequence).report,
            *(self.paths.stage_report(name) for name in own if name != "train" or self.config.trains),
        ]
        page = report_on(self._video(), self.paths, [path for path in reports if path.exists()])
        return [page, self.paths.overlay, self.paths.point_cloud, self.paths.dense]

    def _video(self) -> InputVideo:
        return InputVideo.read(self.sequence.root, as_recorded=False)

    def _guided(self, video: InputVideo, frames: WorkingFrames) -> GuidedFinder | None:
        config = self.config
        if not config.uses_descriptor:
            return None
        device = choose_device(config.device)
        descriptor = load_descriptor(self._trained, device) if config.trains else load_weights(config)
        engine = choose_engine(config.matcher, device)
        described = DescribedFrames(descriptor, engine, video.source, video.frame_index, video.mask)
        return GuidedFinder(frames, described)


def _gift_preset(stage: int) -> Path:
    return CONFIGS / "gift" / f"cpu_quick{stage}.yaml"


def _shape_of(descriptor: Descriptor) -> dict[str, Any]:
    """The settings of a training that goes on from weights, as far as these say them."""
    assert isinstance(descriptor, FCDenseNetDescriptor)
    network = descriptor.network
    return {
        "feature_length": network.shape.feature_length,
        "filter_growth_rate": network.shape.growth,
        "contrast_radius": network.contrast_radius,
    }


def _keep_or_clear(work: Path, fingerprint: str) -> None:
    """Leave what a killed run of the same settings on the same inputs did, and nothing else."""
    begun = work / "begun.json"
    with explain_os_errors("write", work):
        if begun.exists() and read_yaml(begun) == {"stage": fingerprint}:
            logger.info("going on from where an interrupted run was")
            return
        remove_directory(work)
        work.mkdir(parents=True)
    write_json(begun, {"stage": fingerprint})
