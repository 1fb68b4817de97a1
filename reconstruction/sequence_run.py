"""One sequence through the stages, each skipped where an earlier run has done it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from descriptor.device import choose_device
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.engines.choice import choose_engine
from descriptor.matching.guided_finder import GuidedFinder
from descriptor.matching.keypoint_matching import KeypointRules
from descriptor.matching.pair_policy import DdlPolicy
from descriptor.registry import load_descriptor
from pipeline.command.config import save_config, to_mapping
from pipeline.errors import explain_os_errors
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.files import read_yaml, write_json
from pipeline.outputs.record import remove_own
from pipeline.paths import BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from reconstruction.config import EXTRACTION_DEFAULTS, STAGES, ReconstructConfig
from reconstruction.correspond_stage import correspond
from reconstruction.estimate import Estimate, estimate
from reconstruction.export_stage import export
from reconstruction.first_sfm import POINT_RULES
from reconstruction.flesh_stage import cell_side, grow_flesh, pairs_per_reference
from reconstruction.report_stage import report_on
from reconstruction.skeleton_stage import map_skeleton, model_numbers
from reconstruction.train_stage import (
    gift_preset,
    load_weights,
    train_descriptor,
    train_gift_descriptor,
    trained_weights,
)
from sfm.input_video import InputVideo

FORMAT_VERSION = 3

_DDL_OPTIONS = tuple(each.name for part in (DdlPolicy, KeypointRules) for each in fields(part))
# The settings that each stage depends on, besides what the stages before it depend on.
_SETTINGS = {
    "train": ("train_minutes", "trained_method", "seed"),
    "correspond": (
        "correspondences",
        "points",
        "pairs",
        "similar_frames",
        "rotations",
        "seed",
        *_DDL_OPTIONS,
    ),
    "skeleton": (*POINT_RULES, "seed"),
    "flesh": ("references", "coverage", "reach", "cell_px"),
    "export": (),
    "report": ("name",),
}
# Where things are may name a patient.
_PLACES = ("input", "output", "calibration", "weights", "train_config", "cache_root", "overwrite", "until")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SequenceRun:
    """One sequence on its way.

    Attributes:
        config: the settings.
        sequence: where its frames are.
        paths: where everything goes.
        warnings: of what was done before, for the report.
        manifest: what is done already.
    """

    config: ReconstructConfig
    sequence: SequencePaths
    paths: ReconstructionPaths
    warnings: list[str]
    manifest: Manifest

    @classmethod
    def of(
        cls, config: ReconstructConfig, sequence: SequencePaths, root: Path, warnings: Sequence[str] = ()
    ) -> "SequenceRun":
        """Begin, or resume, a run in a folder."""
        paths = ReconstructionPaths(root)
        with explain_os_errors("write", root):
            root.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.load(paths.manifest)
        save_config({key: value for key, value in to_mapping(config).items() if key not in _PLACES}, paths.config)
        return cls(config, sequence, paths, list(warnings), manifest)

    def run(self) -> list[Path]:
        """All stages up to the last that is wanted; returns what to look at."""
        for warning in self.warnings:
            logger.warning("%s", warning)
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
            weights=trained_weights(self.config, self.paths.training),
            **EXTRACTION_DEFAULTS,
        )

    def _wants(self, stage: str) -> bool:
        return STAGES.index(stage) <= STAGES.index(self.config.until)

    def _stage(
        self,
        name: str,
        before: Sequence[str],
        function: Callable[[StageReport], Sequence[Path]],
    ) -> list[Path]:
        """Run a stage unless it is current."""
        settings = {key: getattr(self.config, key) for key in _SETTINGS[name]} | self._computing(name)
        if name == "report":
            settings["warnings"] = self.warnings
        stage = Stage(name, settings, self._inputs(name), before[-1:], FORMAT_VERSION)

        def call() -> Sequence[Path]:
            report = StageReport(name)
            self._remove_outdated(name)
            work = self.paths.work(name)
            if work is not None:
                _keep_or_clear(work, self.manifest.fingerprint(stage))
            outputs = function(report)
            if work is not None and work != self.paths.training:
                remove_own(work)
            report.save(self.paths.stage_report(name))
            return outputs

        return self.manifest.run(stage, call)

    def _computing(self, name: str) -> dict[str, str]:
        """What `auto` chose to compute with, where a stage uses the descriptor."""
        if not self.config.uses_descriptor or name not in ("train", "correspond", "flesh"):
            return {}
        return {"device": self._device.type} | ({} if name == "train" else {"engine": type(self._engine).__name__})

    @cached_property
    def _device(self) -> Any:
        return choose_device(self.config.device)

    @cached_property
    def _engine(self) -> Any:
        return choose_engine(self.config.matcher, self._device)

    def _inputs(self, name: str) -> dict[str, str]:
        """Fingerprints of what a stage reads that no stage before it makes."""
        sequence, config = self.sequence, self.config
        model, first_sfm = TrainingPaths(sequence.root), BootstrapPaths.of(sequence)
        read: dict[str, Path | None] = {"sequence": sequence.sequence}
        if name in ("train", "correspond"):
            read |= {"images": sequence.images, "mask": sequence.mask, "masks": sequence.frame_masks}
            read["weights"] = config.weights if config.uses_descriptor else None
        if name == "train" and config.trains_gift:
            read |= {f"train_config_{stage}": gift_preset(stage) for stage in (1, 2)}
        elif name == "train":
            read["train_config"] = config.train_config
        if name == "skeleton" or (name == "train" and not config.trains_gift):
            # Poses, points, intrinsics and lists of views.
            read["model"] = model.model
        if name == "correspond":
            read |= {"first_sfm": first_sfm.manifest, "first_sfm_tracks": first_sfm.tracks}
        return {key: fingerprint_path(path) for key, path in read.items() if path is not None and path.exists()}

    def _remove_outdated(self, name: str) -> None:
        """Remove what would no longer fit to what is about to be made."""
        paths = self.paths
        remove_own(*(paths.stage_report(each) for each in STAGES[STAGES.index(name) :]))
        results = [paths.page, paths.overlay, paths.point_cloud, paths.trajectory, paths.transforms, paths.dense_tracks]
        if name in ("train", "correspond", "skeleton", "flesh"):
            models = paths.training_data.model.parent
            remove_own(*results, *paths.further_results, paths.dense_models, models, paths.next_round)
        if name in ("train", "correspond", "skeleton"):
            remove_own(paths.sparse_models, paths.unregistered)

    def _train(self, report: StageReport) -> list[Path]:
        config = self.config
        video = self._video()
        frames = WorkingFrames(video.source, video.frame_index, video.mask)
        after = self._estimate(video, frames, None)
        logger.info("training takes %g min; after it %s for flow alone (estimated)", config.train_minutes, after)
        with report.timed("train"):
            train = train_gift_descriptor if config.trains_gift else train_descriptor
            train(config, self.sequence.root, self.paths.training)
        return [trained_weights(config, self.paths.training)]

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
        return [*(self.paths.of_model(number).sparse for number in model_numbers(self.paths)), self.paths.unregistered]

    def _flesh(self, report: StageReport) -> list[Path]:
        video = self._video()
        frames = WorkingFrames(video.source, video.frame_index, video.mask)
        models = grow_flesh(self.config, video, frames, self._guided(video, frames), self.paths, report)
        return [path for model in models for path in (model.dense, model.dense_tracks, model.training_data.model)]

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
        pages = report_on(
            self._video(), self.paths, [path for path in reports if path.exists()], self.config.name, self.warnings
        )
        return [*pages, self.paths.overlay, self.paths.point_cloud, self.paths.dense]

    def _video(self) -> InputVideo:
        return InputVideo.read(self.sequence.root, as_recorded=False)

    def _guided(self, video: InputVideo, frames: WorkingFrames) -> GuidedFinder | None:
        config = self.config
        if not config.uses_descriptor:
            return None
        weights = trained_weights(config, self.paths.training)
        descriptor = load_descriptor(weights, self._device) if config.trains else load_weights(config)
        described = DescribedFrames(descriptor, self._engine, video.source, video.frame_index, video.mask)
        return GuidedFinder(frames, described)


def _keep_or_clear(work: Path, fingerprint: str) -> None:
    """Leave what a killed run of the same settings on the same inputs did, and nothing else."""
    begun = work / "begun.json"
    if begun.exists() and read_yaml(begun) == {"stage": fingerprint}:
        logger.info("resuming an interrupted run")
        return
    remove_own(work)
    write_json(begun, {"stage": fingerprint})
