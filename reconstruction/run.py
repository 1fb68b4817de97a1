"""A whole reconstruction: the sequences of the input, each on its way through the stages."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data_prep import extract
from data_prep.calibration.files import read_calibration
from data_prep.extract import ExtractConfig
from data_prep.video.frame_source import open_source, source_name, source_places
from descriptor.clips.cache_root import check_cache_root
from pipeline.command.privacy import named_settings, private_strings, scrub
from pipeline.data.sequence import Sequence
from pipeline.errors import LumenError, PartialSuccess, require
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.files import read_yaml, write_json
from pipeline.outputs.folders import output_folder
from pipeline.outputs.record import OutputRecord
from pipeline.paths import RunPaths, SequencePaths
from pipeline.reconstruction_paths import ReconstructionPaths
from reconstruction.config import EXTRACTION_DEFAULTS, TRAIN_CONFIG, ReconstructConfig
from reconstruction.first_sfm import make_first_sfms
from reconstruction.outcome import Outcome, outcomes_of, table, write_index
from reconstruction.sequence_run import SequenceRun
from reconstruction.train_stage import load_weights

logger = logging.getLogger(__name__)


def reconstruct(config: ReconstructConfig) -> list[Path]:
    """Reconstruct each sequence of the input; a failed sequence does not stop the others.

    Returns:
        The report and the main outputs of each; what is there so far, if `until` says to stop early.

    Raises:
        NoReconstruction: if no sequence has one.
        PartialSuccess: if some sequences or models could not be finished; it has the outputs of the others.
        LumenError: if the input, the settings or the output do not fit.
    """
    if config.uses_descriptor and config.weights is not None:
        # Wrong weights are better refused before the work than after.
        load_weights(config)
    if config.trains and not config.trains_gift:
        check_cache_root(config.cache_root)
    output = config.output or Path("runs") / source_name(config.input)
    settings = config.train_config if config.train_config != TRAIN_CONFIG else None
    inputs = (*source_places(config.input), config.calibration, config.weights, settings)
    with output_folder(output, "reconstruct.py", inputs=inputs) as record:
        try:
            sequences = _sequences(config, record)
        except LumenError:
            if not RunPaths(ReconstructionPaths(record.root).extracted).sequences():
                record.remove(ReconstructionPaths(record.root).input)
            raise
        if config.until == "extract":
            return [paths.root for paths in sequences]
        roots = [record.root / paths.root.name if len(sequences) > 1 else record.root for paths in sequences]
        _remove_other_layout(record, roots)
        return _run_all(config, dict(zip(roots, sequences, strict=True)), record.root)


def _run_all(config: ReconstructConfig, sequences: dict[Path, SequencePaths], output: Path) -> list[Path]:
    results: list[Path] = []
    failures: list[LumenError] = []
    outcomes: list[Outcome] = []
    extracted = ReconstructionPaths(output).extracted
    are_own = all(paths.root.is_relative_to(extracted) for paths in sequences.values())
    first_sfms = make_first_sfms(config, list(sequences.values()), are_own=are_own)
    for root, paths in sequences.items():
        problem, later_round = None, None
        try:
            results += _run_one(config, root, paths, first_sfms[paths.root])
        except PartialSuccess as error:
            results += error.outputs
            later_round = str(error)
        except LumenError as error:
            if len(sequences) > 1:
                logger.error("%s: %s", paths.root.name, error)
            failures.append(error)
            problem = str(error)
        outcomes += outcomes_of(paths.root.name, ReconstructionPaths(root), problem, config.until)
        if later_round is not None:
            outcomes.append(Outcome(paths.root.name, None, "", None, None, later_round))
    # The page travels, and an error names files.
    named = private_strings(named_settings(config))
    private = {text: placeholder for text, placeholder in named.items() if not placeholder.startswith("<file of")}
    outcomes = [replace(each, problem=each.problem and scrub(each.problem, private)) for each in outcomes]
    index = ReconstructionPaths(output).index
    write_index(index, f"Reconstruction: {_title(config, sequences.values())}", outcomes)
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


def _run_one(
    config: ReconstructConfig, root: Path, sequence: SequencePaths, first_sfm: list[str] | LumenError
) -> list[Path]:
    if isinstance(first_sfm, LumenError):
        raise first_sfm
    run = SequenceRun.of(config, sequence, root, first_sfm)
    results = run.run()
    if config.rounds > 1 and config.until == "report":
        try:
            # The last round's outputs come first.
            results = reconstruct(run.next_round()) + results
        except LumenError as error:
            outputs = error.outputs if isinstance(error, PartialSuccess) else []
            raise PartialSuccess(f"the next round: {error}", [*outputs, *results]) from error
    return results


def _title(config: ReconstructConfig, sequences: Iterable[SequencePaths]) -> str:
    """What to call the videos: the name that was given, or the hash of each."""
    found: dict[str, None] = {}
    for paths in sequences:
        # Its own outcome says what is wrong with a damaged one.
        with suppress(LumenError):
            found[Sequence.load(paths.sequence).source_title(config.name)] = None
    return ", ".join(found)


def _sequences(config: ReconstructConfig, record: OutputRecord) -> list[SequencePaths]:
    """The sequences of the input; those of a video are extracted into the output."""
    given = config.input
    found = [SequencePaths(given)] if SequencePaths(given).sequence.exists() else []
    if not found and given.is_dir():
        found = RunPaths(given).sequences()
    if not found:
        return _extract(config, record)
    for name, plain in EXTRACTION_DEFAULTS.items():
        require(
            getattr(config, name) == plain,
            f"--{name} is for videos and images; {given} is extracted already: give it to data_prep/extract.py",
        )
    inputs = {"sequences": [fingerprint_path(paths.as_recorded.sequence) for paths in found]}
    _claim(record, inputs, overwrite=config.overwrite)
    return found


def _extract(config: ReconstructConfig, record: OutputRecord) -> list[SequencePaths]:
    given, output = config.input, ReconstructionPaths(record.root)
    settings = {name: getattr(config, name) for name in EXTRACTION_DEFAULTS}
    # Everything that can be wrong is found out before what is there is given up.
    extraction = ExtractConfig(given, output.extracted, overwrite=True, **settings)
    source = open_source(given, config.image_fps, config.image_kind, config.image_numbers)
    if config.calibration is not None:
        read_calibration(config.calibration, (source.info.width, source.info.height))
    inputs = {"video": source.fingerprint()}
    _claim(record, inputs, overwrite=config.overwrite)
    if config.calibration is not None:
        inputs["calibration"] = fingerprint_path(config.calibration)
    # Where the calibration lies does not matter, and may name a patient.
    recorded = {name: value for name, value in settings.items() if name != "calibration"}
    stage = Stage("extract", recorded, inputs, format_version=extract.FORMAT_VERSION)

    def run() -> list[Path]:
        extracted = extract.run(extraction)
        # Everything else in the output was made of the frames before.
        _remove_all_but(record, output.extracted, output.input, output.extraction_manifest)
        return extracted

    Manifest.load(output.extraction_manifest).run(stage, run)
    return RunPaths(output.extracted).sequences()


def _claim(record: OutputRecord, inputs: Mapping[str, object], *, overwrite: bool) -> None:
    """See that the output holds nothing of another input.

    Raises:
        LumenError: if it does, and may not be replaced.
    """
    path = ReconstructionPaths(record.root).input
    known = read_yaml(path) if path.exists() else inputs
    require(isinstance(known, dict), f"{path} is damaged: remove it, and run the same command again")
    if known != inputs:
        require(
            overwrite,
            f"{record.root} holds the reconstruction of another input: choose another --output, or pass --overwrite to "
            "replace it",
        )
        record.clear()
    write_json(path, inputs)


def _remove_other_layout(record: OutputRecord, roots: list[Path]) -> None:
    """Remove the results of a run that had other sequences: one in the output itself, or others in its folders."""
    output = ReconstructionPaths(record.root)
    if roots == [record.root]:
        record.remove(*RunPaths(record.root).segments())
    else:
        _remove_all_but(record, output.extracted, output.input, output.extraction_manifest, *roots)


def _remove_all_but(record: OutputRecord, *kept: Path) -> None:
    record.remove(*(child for child in record.root.iterdir() if child not in (*kept, record.path)))
