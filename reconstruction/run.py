"""A whole reconstruction: the stages in their order, each skipped where an earlier run has done it."""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from data_prep import bootstrap, extract
from data_prep.bootstrap import BootstrapConfig
from data_prep.bootstrap_input import InputVideo
from data_prep.extract import ExtractConfig
from data_prep.frame_source import source_name
from descriptor.described_frames import DescribedFrames
from descriptor.device import choose_device
from descriptor.guided_finder import GuidedFinder
from descriptor.keypoint_matching import KeypointRules
from descriptor.matching.engines import choose_engine
from descriptor.pair_policy import DdlPolicy
from descriptor.registry import load_descriptor
from descriptor.training import train
from descriptor.training_config import TrainConfig
from descriptor.training_paths import RunFolder
from pipeline.config import from_mapping, save_config
from pipeline.errors import LumenError, NoReconstruction, explain_os_errors, require
from pipeline.files import read_yaml, write_json
from pipeline.locks import held
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.paths import BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from pipeline.working_frames import WorkingFrames
from reconstruction.config import STAGES, ReconstructConfig
from reconstruction.estimate import estimate
from reconstruction.export_stage import export
from reconstruction.flesh_stage import cell_side, grow_flesh, pairs_per_reference
from reconstruction.path_stages import correspond, map_skeleton
from reconstruction.report_stage import report_on

FORMAT_VERSION = 1
# Described frames held at once: those around one reference or keyframe.
_DESCRIBED_HELD = 120

_DDL_OPTIONS = tuple(each.name for part in (DdlPolicy, KeypointRules) for each in fields(part))
# The settings that each stage depends on, besides what the stages before it depend on.
_SETTINGS = {
    "train": ("weights", "train_minutes", "train_config", "seed"),
    "correspond": ("correspondences", "weights", "points", "matcher", "pairs", "seed", *_DDL_OPTIONS),
    "skeleton": ("max_error_px", "min_angle_deg", "min_views", "max_depth_uncertainty", "inlier_percentage", "seed"),
    "flesh": ("references", "coverage", "reach", "cell_px"),
    "export": (),
    "report": (),
}

logger = logging.getLogger(__name__)


def reconstruct(config: ReconstructConfig) -> list[Path]:
    """Reconstruct each sequence of the input.

    Returns:
        The report and the main outputs of each; what is there so far, if `until` says to stop early.

    Raises:
        NoReconstruction: if a sequence has none.
        LumenError: if the input, the settings or the output do not fit.
    """
    output = config.output or Path("runs") / source_name(config.input)
    with explain_os_errors("write", output):
        output.mkdir(parents=True, exist_ok=True)
    with held(output, busy=f"another process is reconstructing in {output}: wait for it, or choose another --output"):
        try:
            sequences = _sequences(config, output)
        except LumenError:
            with suppress(OSError):
                output.rmdir()
            raise
        if config.until == "extract":
            return [paths.root for paths in sequences]
        roots = [output / paths.root.name if len(sequences) > 1 else output for paths in sequences]
        results: list[Path] = []
        failures: list[NoReconstruction] = []
        for paths, root in zip(sequences, roots, strict=True):
            try:
                results += _SequenceRun.of(config, paths, root).run()
            except NoReconstruction as error:
                logger.error("%s: %s", paths.root.name, error)
                failures.append(error)
    if failures and not results:
        raise failures[0]
    return results


def _sequences(config: ReconstructConfig, output: Path) -> list[SequencePaths]:
    """The sequences of the input; those of a video are extracted into the output."""
    given = config.input
    require(given.resolve() != output.resolve(), f"--output {output} is the input: choose another place")
    if SequencePaths(given).sequence.exists():
        return [SequencePaths(given)]
    inside = RunPaths(given).sequences() if given.is_dir() else []
    if inside:
        return inside
    extracted = ReconstructionPaths(output).extracted
    settings = {name: getattr(config, name) for name in ("calibration", "stride", "split_at_cuts", "keep_all")}
    inputs = {"video": fingerprint_path(given)}
    if config.calibration is not None:
        inputs["calibration"] = fingerprint_path(config.calibration)
    manifest = Manifest.load(ReconstructionPaths(output).extraction_manifest)
    extraction = ExtractConfig(given, extracted, overwrite=True, **settings)
    hidden = {name: value for name, value in settings.items() if name != "calibration"}
    manifest.run(Stage("extract", hidden, inputs), lambda: extract.run(extraction)[-1:])
    return RunPaths(extracted).sequences()


@dataclass(frozen=True)
class _SequenceRun:
    """One sequence on its way."""

    config: ReconstructConfig
    sequence: SequencePaths
    paths: ReconstructionPaths
    manifest: Manifest

    @classmethod
    def of(cls, config: ReconstructConfig, sequence: SequencePaths, root: Path) -> "_SequenceRun":
        paths = ReconstructionPaths(root)
        with explain_os_errors("write", root):
            root.mkdir(parents=True, exist_ok=True)
        save_config(config, paths.config)
        return cls(config, sequence, paths, Manifest.load(paths.manifest))

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
        if self.config.rounds > 1 and self.config.until == "report":
            return reconstruct(self._next_round()) + outputs
        return outputs

    def _next_round(self) -> ReconstructConfig:
        return replace(
            self.config,
            input=self.paths.root,
            output=self.paths.next_round,
            rounds=self.config.rounds - 1,
            weights=RunFolder(self.paths.training).last,
        )

    def _wants(self, stage: str) -> bool:
        return STAGES.index(stage) <= STAGES.index(self.config.until)

    def _stage(self, name: str, before: Sequence[str], function: Callable[[StageReport], Sequence[Path]]) -> list[Path]:
        """Run a stage unless it is current."""
        settings = {key: getattr(self.config, key) for key in _SETTINGS[name]}
        stage = Stage(name, _as_builtins(settings), self._inputs(name), before[-1:], FORMAT_VERSION)

        def call() -> Sequence[Path]:
            report = StageReport(name)
            work = self.paths.work(name)
            if work is not None:
                _keep_or_clear(work, self.manifest.fingerprint(stage))
            outputs = function(report)
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
            report.save(self.paths.stage_report(name))
            return outputs

        return self.manifest.run(stage, call)

    def _inputs(self, name: str) -> dict[str, str]:
        """Fingerprints of what is not made by the stages before."""
        inputs = {"sequence": fingerprint_path(self.sequence.sequence)}
        if name == "correspond":
            inputs["images"] = fingerprint_path(self.sequence.images)
            inputs["mask"] = fingerprint_path(self.sequence.mask)
        if name == "skeleton" and TrainingPaths(self.sequence.root).motion.exists():
            inputs["first_sfm"] = fingerprint_path(TrainingPaths(self.sequence.root).motion)
        if name in ("train", "correspond") and self.config.weights is not None and self.config.uses_descriptor:
            inputs["weights"] = fingerprint_path(self.config.weights)
        return inputs

    def _bootstrap(self) -> None:
        """See that there is a camera, and training data where they are needed."""
        has_model = TrainingPaths(self.sequence.root).motion.exists()
        calibrated = InputVideo.read(self.sequence.root, as_recorded=False).camera is not None
        if has_model or (calibrated and not self.config.trains):
            return
        bootstrap.run(BootstrapConfig(self.sequence.root, seed=self.config.seed))

    def _train(self, report: StageReport) -> list[Path]:
        config = self.config
        settings = read_yaml(config.train_config) | {
            "training_data_root": str(self.sequence.root),
            "log_root": str(self.paths.training),
            "max_minutes": config.train_minutes,
            "device": config.device,
            "seed": config.seed,
            "cache_root": str(config.cache_root),
        }
        if config.weights is not None:
            settings |= {"load_trained_model": True, "trained_model_path": str(config.weights)}
        with report.timed("train"):
            train(from_mapping(TrainConfig, settings, str(config.train_config)))
        return [RunFolder(self.paths.training).last]

    def _correspond(self, report: StageReport) -> list[Path]:
        video = self._video()
        frames = WorkingFrames(video.source, video.frame_index, video.mask)
        guided = self._guided(video, frames)
        cell_px, pairs = cell_side(self.config, video), pairs_per_reference(self.config)
        needed = estimate(self.config, video, frames, guided, cell_px, pairs)
        logger.info("%d frames of %dx%d: %s are needed (estimated)", len(frames), *video.size, needed)
        correspond(self.config, video, frames, guided, self.paths, report)
        return [self.paths.tracks, self.paths.keyframes]

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
        own = [name for name in ("train", "correspond", "skeleton", "flesh", "export")]
        reports = [
            RunPaths(self.sequence.root.parent).report("extract"),
            BootstrapPaths.of(self.sequence).report,
            *(self.paths.stage_report(name) for name in own if name != "train" or self.config.trains),
        ]
        return [
            report_on(self._video(), self.paths, [path for path in reports if path.exists()]),
            *self._main_outputs(),
        ]

    def _main_outputs(self) -> list[Path]:
        return [self.paths.point_cloud, self.paths.dense, self.paths.overlay]

    def _video(self) -> InputVideo:
        return InputVideo.read(self.sequence.root, as_recorded=False)

    def _guided(self, video: InputVideo, frames: WorkingFrames) -> GuidedFinder | None:
        config = self.config
        if not config.uses_descriptor:
            return None
        device = choose_device(config.device)
        path = RunFolder(self.paths.training).last if config.trains else config.weights
        assert path is not None
        descriptor = load_descriptor(path, device)
        if config.descriptor not in (None, descriptor.name):
            raise LumenError(f"{path} is of {descriptor.name}, not of --descriptor {config.descriptor}")
        engine = choose_engine(config.matcher, device)
        described = DescribedFrames(descriptor, engine, video.source, video.frame_index, video.mask, _DESCRIBED_HELD)
        return GuidedFinder(frames, described)


def _keep_or_clear(work: Path, fingerprint: str) -> None:
    """Leave what a killed run of the same settings on the same inputs did, and nothing else."""
    begun = work / "begun.json"
    with explain_os_errors("write", work):
        if not begun.exists() or read_yaml(begun) != {"stage": fingerprint}:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_json(begun, {"stage": fingerprint})
        else:
            logger.info("going on from where an interrupted run was")


def _as_builtins(settings: dict[str, object]) -> dict[str, object]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
