"""python reconstruct.py VIDEO: camera poses and an extremely dense point cloud."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import tyro

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.extract import FrameConfig
from data_prep.find_sequences import find_sequences, remove_other_layout
from data_prep.first_sfm import make_first_sfms
from data_prep.video.frame_source import source_name, source_places
from descriptor.clips.cache_root import check_cache_root
from descriptor.flow.working_frames import WorkingFrames
from descriptor.frame_cache import DEFAULT_LIMIT_GB, check_limit, default_cache_root
from descriptor.matching.combined_finder import dense_finder, pairs_per_reference
from descriptor.matching.config import MatchConfig
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.estimate import estimate
from descriptor.matching.guided_finder import GuidedFinder
from descriptor.matching.match_stage import PointFinders, match_stage
from descriptor.training.train_stage import (
    TRAIN_CONFIG,
    DescriptorConfig,
    TrainingContext,
    load_weights,
    read_descriptor,
    train_stage,
    trained_weights,
)
from pipeline.command.bounds import Count, NonNegativeInt, Settings
from pipeline.command.config import Flat, to_mapping
from pipeline.command.privacy import named_settings, private_strings, scrub
from pipeline.command.run_command import run_command
from pipeline.data.sequence import Sequence as SequenceFacts
from pipeline.errors import LumenError, PartialSuccess, require
from pipeline.outputs.folders import output_folder
from pipeline.paths import CONFIGS, BootstrapPaths, RunPaths, SequencePaths, TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.run import Run, StageName, is_reached
from sfm.densify_stage import DensifyConfig, ReadableFinder, densify_stage
from sfm.input_video import InputVideo
from sfm.map_stage import map_stage
from sfm.mapping.config import MapConfig
from sfm.mapping.sift import tracks_from_matches
from sfm.output.export_stage import export_stage
from sfm.output.index_page import Outcome, outcomes_of, table, write_index
from sfm.output.report_stage import report_stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReconstructConfig(Settings):
    """Turn an endoscopic video into camera poses and an extremely dense point cloud.

    Look at report.html in the output first. The same command resumes a run that was stopped.
    """

    PRESETS: ClassVar[Path] = CONFIGS / "reconstruct"

    input: tyro.conf.Positional[Path]
    """A video, a folder of images, or a sequence made by extract.py; the first SfM of a sequence is written into its
    folder if it has none."""
    output: Path | None = None
    """Folder to write into; by default runs/NAME OF THE INPUT. No file in it contains that name."""
    name: str | None = None
    """Title of the report and the overview; by default the first digits of the video's SHA-256."""
    until: StageName = "report"
    """Last stage to run; the same command without it runs the rest."""
    rounds: Count = 1
    """How often to train and reconstruct: the second round trains on the dense model of the first."""
    frames: Flat[FrameConfig] = field(default_factory=FrameConfig)
    descriptor: Flat[DescriptorConfig] = field(default_factory=DescriptorConfig)
    match: Flat[MatchConfig] = field(default_factory=MatchConfig)
    map: Flat[MapConfig] = field(default_factory=MapConfig)
    densify: Flat[DensifyConfig] = field(default_factory=DensifyConfig)
    seed: NonNegativeInt = 0
    """Seed of the random choices."""
    cache_root: Path = field(default_factory=default_cache_root)
    """Where decoded frames for the training are kept."""
    cache_limit_gb: float | None = DEFAULT_LIMIT_GB
    """Largest size of all decoded frames, GB; the least recently used are removed first, those in use never. None for
    no limit."""
    overwrite: bool = False
    """Replace the reconstruction of another input in the output; not needed when only settings change. Files that
    LumenSfM did not write stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limit(self.cache_limit_gb)
        if self.rounds > 1:
            require(self.descriptor.uses_descriptor, "--rounds needs a descriptor: not with --correspondences flow")
            require(self.descriptor.trains, "--rounds needs training: give --train_minutes above 0")
            require(not self.descriptor.trains_gift, "GIFT is trained once: leave out --rounds")
        require(
            self.match.pairs == "keyframes" or not self.descriptor.uses_flow,
            f"--pairs {self.match.pairs} is for --correspondences descriptor",
        )


def reconstruct(config: ReconstructConfig) -> list[Path]:
    """Reconstruct each sequence of the input; a failed sequence does not stop the others.

    Returns:
        The report and the main outputs of each; what there is so far if `until` stops early.

    Raises:
        NoReconstruction: if no sequence can be reconstructed.
        PartialSuccess: if some sequences or models could not be finished; it has the outputs of the others.
        LumenError: if the input, the settings or the output do not fit.
    """
    descriptor = config.descriptor
    if descriptor.uses_descriptor and descriptor.weights is not None:
        # Wrong weights are refused before the work, not after it.
        load_weights(descriptor)
    if descriptor.uses_descriptor and is_reached("match", config.until):
        # So are a device and an engine that are not available.
        _ = descriptor.engine
    if descriptor.trains_on_model:
        check_cache_root(config.cache_root)
    output = config.output or Path("runs") / source_name(config.input)
    settings = descriptor.train_config if descriptor.train_config != TRAIN_CONFIG else None
    inputs = (*source_places(config.input), config.frames.calibration, descriptor.weights, settings)
    with output_folder(output, "reconstruct.py", inputs=inputs) as record:
        sequences = find_sequences(config.input, config.frames, record, overwrite=config.overwrite)
        if config.until == "extract":
            return [sequence.root for sequence in sequences]
        roots = [record.root / sequence.root.name if len(sequences) > 1 else record.root for sequence in sequences]
        remove_other_layout(record, roots)
        return _reconstruct_all(config, dict(zip(roots, sequences, strict=True)), record.root)


def _reconstruct_all(config: ReconstructConfig, sequences: dict[Path, SequencePaths], output: Path) -> list[Path]:
    """Reconstruct sequences, each into its folder, and list the outcomes in `index.html`."""
    results: list[Path] = []
    failures: list[LumenError] = []
    outcomes: list[Outcome] = []
    first_sfms = _first_sfms(config, list(sequences.values()), output)
    for root, sequence in sequences.items():
        problem, next_round = None, None
        try:
            results += _all_rounds(config, root, sequence, first_sfms[sequence.root])
        except PartialSuccess as error:
            results += error.outputs
            next_round = str(error)
        except LumenError as error:
            if len(sequences) > 1:
                logger.error("%s: %s", sequence.root.name, error)
            failures.append(error)
            problem = str(error)
        outcomes += outcomes_of(sequence.root.name, ReconstructionPaths(root), problem, config.until)
        if next_round is not None:
            outcomes.append(Outcome(sequence.root.name, None, "", None, None, next_round))
    index = ReconstructionPaths(output).index
    write_index(index, f"Reconstruction: {_title(config, sequences.values())}", _without_names(config, outcomes))
    if len(outcomes) > 1:
        logger.info("%s", table(outcomes))
    if len(failures) == len(sequences):
        raise failures[0]
    results.append(index)
    unfinished = [each for each in outcomes if each.problem]
    if unfinished:
        raise PartialSuccess(
            f"{len(unfinished)} of {len(outcomes)} sequences and models could not be finished: {index} lists why",
            results,
        )
    return results


def _first_sfms(
    config: ReconstructConfig, sequences: Sequence[SequencePaths], output: Path
) -> dict[Path, list[str] | LumenError]:
    """Make sure that each sequence has a camera, and training data if a descriptor is trained on them."""
    extracted = ReconstructionPaths(output).extracted
    return make_first_sfms(
        [_first_sfm_config(config, sequence) for sequence in sequences],
        are_own=all(sequence.root.is_relative_to(extracted) for sequence in sequences),
        needs_model=config.descriptor.trains_on_model,
    )


def _first_sfm_config(config: ReconstructConfig, sequence: SequencePaths) -> BootstrapConfig:
    return BootstrapConfig(
        sequence.root,
        name=config.name,
        overwrite=True,
        points=config.match.points,
        map=config.map,
        seed=config.seed,
    )


def _all_rounds(
    config: ReconstructConfig, root: Path, sequence: SequencePaths, first_sfm: list[str] | LumenError
) -> list[Path]:
    """Reconstruct a sequence; a further round trains on the dense model and reconstructs once more."""
    if isinstance(first_sfm, LumenError):
        raise first_sfm
    results = reconstruct_sequence(config, sequence, root, first_sfm)
    if config.rounds == 1 or config.until != "report":
        return results
    paths = ReconstructionPaths(root)
    next_round = replace(
        config,
        input=root,
        output=paths.next_round,
        rounds=config.rounds - 1,
        frames=FrameConfig(),
        descriptor=replace(config.descriptor, weights=trained_weights(config.descriptor, paths.training)),
    )
    try:
        # The outputs of the last round come first.
        return reconstruct(next_round) + results
    except LumenError as error:
        outputs = error.outputs if isinstance(error, PartialSuccess) else []
        raise PartialSuccess(f"the next round: {error}", [*outputs, *results]) from error


def reconstruct_sequence(
    config: ReconstructConfig, sequence: SequencePaths, root: Path, warnings: Sequence[str] = ()
) -> list[Path]:
    """Run the stages of one sequence: train, match, map, densify, export, report.

    Args:
        config: the settings.
        sequence: with a camera, and with training data if a descriptor is trained on them.
        root: folder to write into.
        warnings: of the first SfM, for the report.

    Returns:
        The outputs of the last stage.

    Raises:
        NoReconstruction: if there is none.
        LumenError: if something cannot be read or written.
    """
    for warning in warnings:
        logger.warning("%s", warning)
    run = Run.start(root, config.until, config)
    paths, descriptor, seed = run.paths, config.descriptor, {"seed": config.seed}
    first_sfm, model = BootstrapPaths.of(sequence), TrainingPaths(sequence.root).model
    facts, images = {"sequence": sequence.sequence}, sequence.inputs() | {"weights": descriptor.used_weights}
    frames = _Inputs(config, sequence, paths)
    # Refused before the work if it cannot be met.
    frames.video.limits(config.map)
    if descriptor.trains:
        context = TrainingContext(
            *(sequence.root, paths.training, config.seed, config.frames.record_path),
            *(config.cache_root, config.cache_limit_gb),
        )
        run.stage(
            "train",
            lambda: descriptor.training_settings() | seed,
            images | descriptor.training_inputs(model),
            lambda report: train_stage(descriptor, context, frames.log_estimate, report),
        )
    run.stage(
        "match",
        lambda: to_mapping(config.match) | descriptor.matching_settings() | seed,
        images | {"first_sfm": first_sfm.manifest, "first_sfm_tracks": first_sfm.tracks},
        lambda report: match_stage(config.match, frames.finders(), paths, config.seed, report),
    )
    run.stage(
        "map",
        to_mapping(config.map) | seed,
        facts | {"model": model},
        lambda report: map_stage(config.map, frames.video, paths, config.seed, report),
    )
    run.stage(
        "densify",
        lambda: to_mapping(config.densify) | descriptor.computing(),
        facts,
        lambda report: densify_stage(config.densify, config.map, frames.video, frames.dense_finder(), paths, report),
    )
    run.stage("export", {}, facts, lambda report: export_stage(frames.video, paths, report))
    reports = partial(_reports, sequence, paths, trains=descriptor.trains)
    run.stage(
        "report",
        {"name": config.name, "warnings": list(warnings)},
        facts,
        lambda report: report_stage(frames.video, paths, reports(), config.name, warnings),
    )
    return run.outputs or [sequence.root]


@dataclass(frozen=True)
class _Inputs:
    """What the stages of a sequence read, made when a stage needs it: frames, and what finds their points."""

    config: ReconstructConfig
    sequence: SequencePaths
    paths: ReconstructionPaths

    @cached_property
    def video(self) -> InputVideo:
        return InputVideo.read(self.sequence.root, as_recorded=False)

    def finders(self) -> PointFinders:
        """What `match_stage` finds points with."""
        config, frames = self.config, self._working_frames()
        guided = self._guided(frames)
        self.log_estimate(frames, guided)
        known = bootstrap.followed_before(self.sequence.root, config.match.points)
        return PointFinders(frames, guided, config.descriptor.uses_flow, known, tracks_from_matches)

    def dense_finder(self) -> ReadableFinder:
        """What `densify_stage` finds points with."""
        frames = self._working_frames()
        find = dense_finder(
            frames, self._guided(frames), self.config.densify.reach, uses_flow=self.config.descriptor.uses_flow
        )
        return ReadableFinder(find, lambda row: frames[row] is not None)

    def log_estimate(self, frames: WorkingFrames | None = None, guided: GuidedFinder | None = None) -> None:
        """Log what the stages after the training need."""
        config = self.config
        if frames is None:
            frames = self._working_frames()
        needed = estimate(
            *(config.match, frames, guided),
            cells=np.count_nonzero(self.video.mask) / config.densify.cell_side(self.video) ** 2,
            references=config.densify.references,
            coverage=config.densify.coverage,
            pairs_per_reference=pairs_per_reference(config.densify.reach),
        )
        part = "for flow, without the descriptor, " if config.descriptor.uses_descriptor and guided is None else ""
        logger.info("%d frames of %dx%d: %s%s are needed (estimated)", len(frames), *self.video.size, part, needed)

    def _working_frames(self) -> WorkingFrames:
        return WorkingFrames(self.video.source, self.video.frame_index, self.video.mask)

    def _guided(self, frames: WorkingFrames) -> GuidedFinder | None:
        config = self.config.descriptor
        if not config.uses_descriptor:
            return None
        descriptor, video = read_descriptor(config, self.paths.training), self.video
        described = DescribedFrames(descriptor, config.engine, video.source, video.frame_index, video.mask)
        return GuidedFinder(frames, described)


def _reports(sequence: SequencePaths, paths: ReconstructionPaths, *, trains: bool) -> list[Path]:
    """The stage reports that the page shows."""
    stages = [*(["train"] if trains else []), "match", "map", "densify", "export"]
    extracted, first_sfm = RunPaths(sequence.root.parent).report("extract"), BootstrapPaths.of(sequence).report
    reports = [extracted, first_sfm, *(paths.stage_report(name) for name in stages)]
    return [path for path in reports if path.exists()]


def _title(config: ReconstructConfig, sequences: Iterable[SequencePaths]) -> str:
    """The title of the videos: the name that was given, or the hash of each."""
    found: dict[str, None] = {}
    for paths in sequences:
        # What is wrong with a damaged one is in its outcome.
        with suppress(LumenError):
            found[SequenceFacts.load(paths.sequence).source_title(config.name)] = None
    return ", ".join(found)


def _without_names(config: ReconstructConfig, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes without the private names in their errors: the page travels."""
    named = private_strings(named_settings(config))
    private = {text: placeholder for text, placeholder in named.items() if not placeholder.startswith("<file of")}
    return [replace(each, problem=each.problem and scrub(each.problem, private)) for each in outcomes]


if __name__ == "__main__":
    sys.exit(run_command(ReconstructConfig, reconstruct))
