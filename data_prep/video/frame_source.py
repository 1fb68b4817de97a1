"""Open a frame source: a video file, a folder of images, or a glob pattern."""

import glob
from pathlib import Path

from data_prep.video.image_kinds import choose_kind
from data_prep.video.image_names import read_names
from data_prep.video.image_order import NumberMeaning, order_images
from data_prep.video.image_source import IMAGE_SUFFIXES, ImageSource, list_images
from data_prep.video.source_frame import FrameSource
from data_prep.video.video_source import VideoSource
from pipeline.errors import LumenError, require
from pipeline.paths import AnyPath, RunPaths, SequencePaths

# Smaller frames are useless for content-area detection and optical flow.
_SMALLEST_SIDE_PX = 64


def open_source(
    path: AnyPath, image_fps: float, image_kind: str | None = None, image_numbers: NumberMeaning = "auto"
) -> FrameSource:
    """Open a video file, a folder of images or a glob pattern.

    Args:
        path: the file, the folder, or a pattern such as `frames/*.png`.
        image_fps: frames per second of images whose names hold no timestamps.
        image_kind: the kind of images to use, such as "color" or "left"; by default the only kind that shows frames.
        image_numbers: meaning of the numbers in the image names.

    Raises:
        LumenError: if nothing is there, nothing can be read, the frames are too small, or the images have several
            kinds and none is the obvious choice.
    """
    path = Path(path)
    source = _open(path, image_fps, image_kind, image_numbers)
    if min(source.info.width, source.info.height) < _SMALLEST_SIDE_PX:
        size = f"{source.info.width}x{source.info.height}"
        raise LumenError(f"{path}: frames of {size} are too small: each side needs at least {_SMALLEST_SIDE_PX} pixels")
    return source


def source_name(path: Path) -> str:
    """A name for the output of a source: the video's without suffix, the folder's, or that of a glob's folder."""
    if path.is_file():
        return path.stem
    return source_place(path).resolve().name


def source_place(path: Path) -> Path:
    """Where a source is: the video file, the folder of images, or the folder of a glob pattern."""
    while glob.has_magic(path.name) and not path.exists():
        path = path.parent
    return path


def source_places(path: Path) -> list[Path]:
    """Places that an output must not overlap: the source's (`source_place`), and the targets of links in it."""
    place = source_place(path)
    links = [child for child in place.iterdir() if child.is_symlink()] if place.is_dir() else []
    images = [link for link in links if link.suffix.lower() in IMAGE_SUFFIXES]
    return [place, *{link.resolve().parent for link in images}]


def _open(path: Path, image_fps: float, image_kind: str | None, image_numbers: NumberMeaning) -> FrameSource:
    if path.is_file():
        for flag, given in (("image_kind", image_kind is not None), ("image_numbers", image_numbers != "auto")):
            require(not given, f"--{flag} needs a folder of images; {path} is a file")
        return VideoSource(path)
    if not path.exists() and not glob.has_magic(str(path)):
        raise LumenError(f"{path} does not exist")
    _refuse_sequences(path)
    mask_name = SequencePaths(path).mask.name
    images = [image for image in list_images(path) if image.name != mask_name]
    require(len(images) > 0, f"{path} holds no images except {mask_name}")
    names = read_names(images)
    chosen, notes = choose_kind(path, names, image_kind)
    return ImageSource(path, order_images(chosen, image_numbers, image_fps), notes)


def _refuse_sequences(folder: Path) -> None:
    """Refuse an extracted sequence, whose images are not video frames, and suggest the next step."""
    step = "reconstruct it with python data_prep/bootstrap.py"
    if SequencePaths(folder).sequence.exists():
        raise LumenError(f"{folder} is already a sequence: {step} {folder}")
    inside = RunPaths(folder).sequences()
    if inside and RunPaths(folder).report("extract").exists():
        raise LumenError(f"{folder} already holds sequences: choose one and {step} {inside[0].root}")
