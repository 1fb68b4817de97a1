"""LumenSfM for scripts: the console command `lumensfm`, and the functions to call from Python (docs/python.md).

Libraries are imported when a command or function needs them, so that `lumensfm --help` answers at once.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from descriptor.base import Descriptor
    from pipeline.data.training_data import TrainingData
    from sfm.evaluation.truth import TruthFigures

AnyPath = str | os.PathLike[str]

# Command → its module, its config, the function that runs it, and what it does; for train and test, the table of
# variants and the flag that selects one.
_COMMANDS = {
    "reconstruct": ("reconstruct", "ReconstructConfig", "reconstruct", "video → camera poses and a dense point cloud"),
    "extract": ("data_prep.extract", "ExtractConfig", "run", "video → clean sequences of frames"),
    "bootstrap": ("data_prep.bootstrap", "BootstrapConfig", "run", "sequence → first SfM, the training data"),
    "train": ("descriptor.commands", "METHODS", "method", "training data → descriptor"),
    "test": ("descriptor.commands", "TASKS", "task", "measure a descriptor"),
    "convert": ("data_prep.convert", "ConvertConfig", "run", "SfM results between formats"),
    "calibrate": ("data_prep.calibrate", "CalibrateConfig", "run", "images of a pattern → camera calibration"),
    "phantom": ("data_prep.phantom", "PhantomConfig", "run", "render endoscopy with ground truth"),
    "evaluate": ("sfm.evaluate", "EvaluateConfig", "run", "measure a reconstruction"),
    "view": ("sfm.view", "ViewConfig", "run", "show a reconstruction in 3D"),
}


def main() -> int:
    """Run `lumensfm COMMAND ...`; the commands take the same flags as the scripts.

    Returns:
        The exit status (`pipeline.command.exit_status`).
    """
    from pipeline.command.interruption import watch_signals

    watch_signals()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help(), flush=True)
        return 0
    if name == "--version":
        from pipeline import __version__

        print(f"lumensfm {__version__}", flush=True)
        return 0
    if name not in _COMMANDS:
        print(f"error: lumensfm {name}: choose one of {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    module_name, config, function, _ = _COMMANDS[name]
    module, program = import_module(module_name), f"lumensfm {name}"
    from pipeline.command.run_command import run_command, run_variant

    if name in ("train", "test"):
        return run_variant(function, getattr(module, config), arguments, program)
    return run_command(getattr(module, config), getattr(module, function), arguments, program)


def _help() -> str:
    lines = [f"  {name:<12} {what}" for name, (_, _, _, what) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: lumensfm COMMAND ...",
            "",
            "Camera poses and extremely dense point clouds from endoscopic video.",
            "",
            *lines,
            "",
            "lumensfm COMMAND --help lists the flags of a command; lumensfm --version prints the version.",
        ]
    )


def extract(video: AnyPath, output: AnyPath | None = None, **settings: Any) -> list[Path]:
    """Turn a video into clean sequences of frames; see `lumensfm extract --help`.

    Args:
        video: a video file, a folder of images, or a glob pattern.
        output: folder for the sequences; by default sequences/NAME OF THE VIDEO.
        settings: flags by their names, such as `stride=2`.

    Returns:
        The folders of the sequences, in order, and the contact sheet.

    Raises:
        LumenError: if there is nothing to extract, or it cannot be read or written.
        TypeError: if there is no flag of a name.
    """
    from data_prep.extract import ExtractConfig, run
    from pipeline.command.config import configure

    return run(configure(ExtractConfig, Path(video), None if output is None else Path(output), **settings))


def bootstrap(sequence: AnyPath, **settings: Any) -> list[Path]:
    """Reconstruct a sequence for the first time: poses, sparse cloud and visibility, as training data.

    Args:
        sequence: folder of a sequence.
        settings: flags of `lumensfm bootstrap` by their names.

    Returns:
        The best model's folder and the overview plot.

    Raises:
        NoReconstruction: if there is none.
        LumenError: if the sequence cannot be read or the output cannot be written.
        TypeError: if there is no flag of a name.
    """
    from data_prep.bootstrap import BootstrapConfig, run
    from pipeline.command.config import configure

    return run(configure(BootstrapConfig, Path(sequence), **settings))


def reconstruct(
    input: AnyPath, output: AnyPath | None = None, *, preset: str | None = None, **settings: Any
) -> list[Path]:
    """Reconstruct a video: camera poses and an extremely dense point cloud; see `lumensfm reconstruct --help`.

    Args:
        input: a video, a folder of images, or a sequence.
        output: folder to write into; by default runs/NAME OF THE INPUT.
        preset: fast, dense or extreme.
        settings: flags by their names; they override the preset.

    Returns:
        The report and the main outputs of each sequence.

    Raises:
        NoReconstruction: if no sequence can be reconstructed.
        PartialSuccess: if some sequences or models could not be finished; it has the outputs of the others.
        LumenError: if the input, the settings or the output do not fit.
        TypeError: if there is no flag of a name.
    """
    from pipeline.command.config import configure, preset_settings
    from reconstruct import ReconstructConfig
    from reconstruct import reconstruct as run

    given = {} if preset is None else preset_settings(ReconstructConfig, preset)
    place = None if output is None else Path(output)
    return run(configure(ReconstructConfig, Path(input), place, **given | settings))


def load_descriptor(path: AnyPath, device: "torch.device | None" = None, rotations: int | None = None) -> "Descriptor":
    """Read a trained descriptor; see `descriptor.registry.load_descriptor`."""
    from descriptor.registry import load_descriptor as load

    return load(path, device, rotations)


def read_training_data(folder: AnyPath) -> "TrainingData":
    """Read SfM training data; see `pipeline.data.training_files.read_training_data`."""
    from pipeline.data.training_files import read_training_data as read

    return read(folder)


def evaluate(run: AnyPath, truth: AnyPath) -> "TruthFigures":
    """Measure a reconstruction of a phantom against its ground truth.

    Args:
        run: folder of a reconstruction, of training data, or of a COLMAP model.
        truth: the phantom's folder.

    Raises:
        LumenError: if either cannot be read, image names hold no frame indices, or they share fewer than 3 frames.
    """
    from sfm.evaluate import read_reconstruction, require_frame_numbers
    from sfm.evaluation.surface import SurfaceTruth
    from sfm.evaluation.truth import evaluate as measure

    data = read_reconstruction(Path(run))
    require_frame_numbers(data, Path(run))
    return measure(data, SurfaceTruth.load(Path(truth)))


if __name__ == "__main__":
    sys.exit(main())
