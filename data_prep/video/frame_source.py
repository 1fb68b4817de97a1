"""Opening whatever frames come from: a video file, a folder of images, or a glob pattern."""

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

# Below this there is nothing to find a content area or a flow in.
_SMALLEST_SIDE_PX = 64


def open_source(
    path: AnyPath, image_fps: float, image_kind: str | None = None, image_numbers: NumberMeaning = "auto"
) -> FrameSource:
    """Open a video file, a folder of images or a glob pattern.

    Args:
        path: the file, the folder, or a pattern such as `frames/*.png`.
        image_fps: frames a second of images whose names hold no times.
        image_kind: the kind of images to use, such as "color" or "left"; by default the only one that shows frames.
        image_numbers: what the numbers in the images' names are.

    Raises:
        LumenError: if there is nothing there, nothing that can be read, frames too small to use, or several kinds of
            images of which none is the obvious one.
    """
    path = Path(path)
    source = _open(path, image_fps, image_kind, image_numbers)
    if min(source.info.width, source.info.height) < _SMALLEST_SIDE_PX:
        size = f"{source.info.width}x{source.info.height}"
        raise LumenError(f"{path}: frames of {size} are too small, {_SMALLEST_SIDE_PX} pixels a side are needed")
    return source


def source_name(path: Path) -> str:
    """A name for what comes of a source: the video's without suffix, the folder's, or that of a glob's folder."""
    if path.is_file():
        return path.stem
    return source_place(path).resolve().name


def source_place(path: Path) -> Path:
    """What a source lies in: the video file, the folder of images, or that of a glob pattern."""
    while glob.has_magic(path.name) and not path.exists():
        path = path.parent
    return path


def source_places(path: Path) -> list[Path]:
    """What an output may not overlap with: what a source lies in (`source_place`), and where links in it lead."""
    place = source_place(path)
    links = [child for child in place.iterdir() if child.is_symlink()] if place.is_dir() else []
    images = [link for link in links if link.suffix.lower() in IMAGE_SUFFIXES]
    return [place, *{link.resolve().parent for link in images}]


def _open(path: Path, image_fps: float, image_kind: str | None, image_numbers: NumberMeaning) -> FrameSource:
    if path.is_file():
        for flag, given in (("image_kind", image_kind is not None), ("image_numbers", image_numbers != "auto")):
            require(not given, f"--{flag} is for folders of images; {path} is a file")
        return VideoSource(path)
    if not path.exists() and not glob.has_magic(str(path)):
        raise LumenError(f"{path} does not exist")
    _refuse_sequences(path)
    mask_name = SequencePaths(path).mask.name
    images = [image for image in list_images(path) if image.name != mask_name]
    require(len(images) > 0, f"{path} holds no images but {mask_name}")
    names = read_names(images)
    chosen, notes = choose_kind(path, names, image_kind)
    return ImageSource(path, order_images(chosen, image_numbers, image_fps), notes)


def _refuse_sequences(folder: Path) -> None:
    """Name the next step for a folder that an extraction has made; its pictures are not a video's frames."""
    step = "reconstruct it with python data_prep/bootstrap.py"
    if SequencePaths(folder).sequence.exists():
        raise LumenError(f"{folder} is a sequence already: {step} {folder}")
    inside = RunPaths(folder).sequences()
    if inside and RunPaths(folder).report("extract").exists():
        raise LumenError(f"{folder} holds sequences already: choose one and {step} {inside[0].root}")
