"""The images that a folder or a glob pattern stands for."""

import glob
from pathlib import Path

from pipeline.errors import LumenError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")


def list_images(path: Path) -> list[Path]:
    """The images in a folder, or the files that a glob pattern matches, sorted by name; hidden ones do not count.

    Raises:
        LumenError: if there are none.
    """
    if path.is_dir():
        found = [child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = [match for match in map(Path, glob.glob(str(path))) if match.is_file()]
    images = sorted(image for image in found if not image.name.startswith("."))
    if not images:
        what = "holds no images" if path.is_dir() else "matches no file"
        raise LumenError(f"{path} {what}: give a folder of {', '.join(IMAGE_SUFFIXES)}, or a quoted glob")
    return images
