"""A whole reconstruction: the sequences of the input, each on its way through the stages."""

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data_prep import extract
from data_prep.calibration import read_calibration
from data_prep.extract import ExtractConfig
from data_prep.frame_source import open_source, source_name
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.files import read_yaml, write_json
from pipeline.locks import held
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.paths import RunPaths, SequencePaths
from pipeline.reconstruction_paths import ReconstructionPaths
from reconstruction.config import ReconstructConfig
from reconstruction.sequence_run import SequenceRun, load_weights

# Settings of the extraction, with what they are where a sequence is given.
_EXTRACTION: Mapping[str, object] = {
    "calibration": None,
    "stride": 1,
    "split_at_cuts": True,
    "keep_all": False,
    "min_segment_frames": 5,
    "image_fps": 30.0,
    "record_path": True,
}

logger = logging.getLogger(__name__)


def reconstruct(config: ReconstructConfig) -> list[Path]:
    """Reconstruct each sequence of the input; one that cannot be reconstructed does not keep the others from it.

    Returns:
        The report and the main outputs of each; what is there so far, if `until` says to stop early.

    Raises:
        NoReconstruction: if no sequence has one.
        LumenError: if the input, the settings or the output do not fit.
    """
    if config.uses_descriptor and config.weights is not None:
        # Wrong ones are better told before the work than after.
        load_weights(config)
    output = config.output or Path("runs") / source_name(config.input)
    with explain_os_errors("write", output):
        output.mkdir(parents=True, exist_ok=True)
    with held(output, busy=f"another process is reconstructing in {output}: wait for it, or choose another --output"):
        try:
            sequences = _sequences(config, output)
        except LumenError:
            _remove_if_nothing_is_in_it(output)
            raise
        if config.until == "extract":
            return [paths.root for paths in sequences]
        roots = [output / paths.root.name if len(sequences) > 1 else output for paths in sequences]
        return _run_all(config, dict(zip(roots, sequences, strict=True)))


def _remove_if_nothing_is_in_it(output: Path) -> None:
    marker = ReconstructionPaths(output).input
    with suppress(OSError):
        if list(output.iterdir()) in ([], [marker]):
            marker.unlink(missing_ok=True)
            output.rmdir()


def _run_all(config: ReconstructConfig, sequences: dict[Path, SequencePaths]) -> list[Path]:
    results: list[Path] = []
    failures: list[LumenError] = []
    for root, paths in sequences.items():
        try:
            run = SequenceRun.of(config, paths, root)
            results += run.run()
            if config.rounds > 1 and config.until == "report":
                # The last round's outputs come first.
                results = reconstruct(run.next_round()) + results
        except LumenError as error:
            if len(sequences) == 1 and not results:
                raise
            logger.error("%s: %s", paths.root.name, error)
            failures.append(error)
    if failures and not results:
        raise failures[0]
    return results


def _sequences(config: ReconstructConfig, output: Path) -> list[SequencePaths]:
    """The sequences of the input; those of a video are extracted into the output."""
    given = config.input
    require(given.resolve() != output.resolve(), f"the output, {output}, is the input: choose another --output")
    found = [SequencePaths(given)] if SequencePaths(given).sequence.exists() else []
    if not found and given.is_dir():
        found = RunPaths(given).sequences()
    if not found:
        return _extract(config, output)
    for name, plain in _EXTRACTION.items():
        require(
            getattr(config, name) == plain,
            f"--{name} is for videos and images; {given} is extracted already: give it to data_prep/extract.py",
        )
    _claim(output, {"sequences": [fingerprint_path(paths.sequence) for paths in found]}, overwrite=config.overwrite)
    return found


def _extract(config: ReconstructConfig, output: Path) -> list[SequencePaths]:
    given = config.input
    inside = given.is_dir() and output.resolve().is_relative_to(given.resolve())
    require(not inside, f"{output} is inside the images' folder {given}: choose another --output")
    settings = {name: getattr(config, name) for name in _EXTRACTION}
    extracted = ReconstructionPaths(output).extracted
    # Everything that can be wrong is found out before what is there is given up.
    extraction = ExtractConfig(given, extracted, overwrite=True, **settings)
    source = open_source(given, config.image_fps)
    if config.calibration is not None:
        read_calibration(config.calibration, (source.info.width, source.info.height))
    inputs = {"video": source.fingerprint()}
    _claim(output, inputs, overwrite=config.overwrite)
    if config.calibration is not None:
        inputs["calibration"] = fingerprint_path(config.calibration)
    # Where the calibration lies does not matter, and may name a patient.
    told = {name: value for name, value in settings.items() if name != "calibration"}
    manifest = Manifest.load(ReconstructionPaths(output).extraction_manifest)
    manifest.run(Stage("extract", told, inputs), lambda: extract.run(extraction))
    return RunPaths(extracted).sequences()


def _claim(output: Path, inputs: Mapping[str, object], *, overwrite: bool) -> None:
    """See that the output holds nothing of another input.

    Raises:
        LumenError: if it does, and may not be replaced.
    """
    path = ReconstructionPaths(output).input
    if path.exists() and read_yaml(path) != inputs:
        require(
            overwrite,
            f"{output} holds the reconstruction of another input: choose another --output, or pass --overwrite to "
            "replace it",
        )
        with explain_os_errors("write", output):
            for child in output.iterdir():
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
    write_json(path, inputs)
