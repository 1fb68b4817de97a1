"""Code that all stages share: on-disk formats, configs, manifest and resume, errors, progress, reports."""

# Must precede pycolmap: the libraries bundled with pycolmap otherwise replace zlib, and OpenCV crashes when it writes
# a PNG.
import zlib  # noqa: F401
from importlib.metadata import version

__version__ = version("lumensfm")
