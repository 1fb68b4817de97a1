"""The sequences of what `reconstruct.py` is given: a sequence, an extraction, or a video that it extracts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_prep import extract
from data_prep.calibration.files import read_calibration
from data_prep.extract import ExtractConfig, FrameConfig
from data_prep.video.frame_source import open_source
from pipeline.command.config import to_mapping
from pipeline.errors import LumenError, require
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.files import read_yaml, write_json
from pipeline.outputs.owned_files import OutputRecord
from pipeline.paths import RunPaths, SequencePaths
from pipeline.reconstruction_paths import ReconstructionPaths


def find_sequences(given: Path, frames: FrameConfig, record: OutputRecord, *, overwrite: bool) -> list[SequencePaths]:
    """Find the sequences of an input; those of a video or of images are extracted into the output.

    Args:
        given: a sequence, a folder of sequences, or what `extract.py` takes.
        frames: settings of the extraction.
        record: of the output.
        overwrite: replace the results of another input in the output.

    Raises:
        LumenError: if there are no sequences, settings of an extraction are given with sequences, or the output holds
            the results of another input and may not be replaced.
    """
    try:
        found = _existing(given)
        if not found:
            return _extract(given, frames, record, overwrite=overwrite)
        _refuse_settings(given, frames)
        inputs = {"sequences": [fingerprint_path(paths.as_recorded.sequence) for paths in found]}
        _claim(record, inputs, overwrite=overwrite)
        return found
    except LumenError:
        output = ReconstructionPaths(record.root)
        if not RunPaths(output.extracted).sequences():
            record.remove(output.input)
        raise


def remove_other_layout(record: OutputRecord, roots: list[Path]) -> None:
    """Remove results of a run with other sequences: one in the output itself, or others in its folders.

    Args:
        record: of the output.
        roots: the folder of each sequence's results, the output itself if there is one sequence.
    """
    output = ReconstructionPaths(record.root)
    if roots == [record.root]:
        record.remove(*RunPaths(record.root).segments())
    else:
        _remove_all_but(record, output.extracted, output.input, output.extraction_manifest, *roots)


def _existing(given: Path) -> list[SequencePaths]:
    if SequencePaths(given).sequence.exists():
        return [SequencePaths(given)]
    return RunPaths(given).sequences() if given.is_dir() else []


def _refuse_settings(given: Path, frames: FrameConfig) -> None:
    defaults = to_mapping(FrameConfig())
    for name, value in to_mapping(frames).items():
        require(
            value == defaults[name],
            f"--{name} is for videos and images; {given} is extracted already: pass it to data_prep/extract.py",
        )


def _extract(given: Path, frames: FrameConfig, record: OutputRecord, *, overwrite: bool) -> list[SequencePaths]:
    output = ReconstructionPaths(record.root)
    # Everything that can be wrong is checked before anything is removed.
    extraction = ExtractConfig(given, output.extracted, overwrite=True, frames=frames)
    source = open_source(given, frames.image_fps, frames.image_kind, frames.image_numbers)
    if frames.calibration is not None:
        read_calibration(frames.calibration, (source.info.width, source.info.height))
    inputs = {"video": source.fingerprint()}
    _claim(record, inputs, overwrite=overwrite)
    if frames.calibration is not None:
        inputs["calibration"] = fingerprint_path(frames.calibration)
    # The path of the calibration does not matter, and may name a patient.
    settings = to_mapping(replace(frames, calibration=None))
    stage = Stage("extract", settings, inputs, format_version=extract.FORMAT_VERSION)

    def run() -> list[Path]:
        extracted = extract.run(extraction)
        # Everything else in the output was made from the frames before.
        _remove_all_but(record, output.extracted, output.input, output.extraction_manifest)
        return extracted

    Manifest.load(output.extraction_manifest).run(stage, run)
    return RunPaths(output.extracted).sequences()


def _claim(record: OutputRecord, inputs: Mapping[str, object], *, overwrite: bool) -> None:
    """Check that the output holds nothing of another input.

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


def _remove_all_but(record: OutputRecord, *kept: Path) -> None:
    record.remove(*(child for child in record.root.iterdir() if child not in (*kept, record.path)))
