"""What every stage shares: on-disk formats, config, manifest and resume, errors, progress, reports."""

# Before pycolmap: otherwise libraries that pycolmap brings along take the place of zlib, and OpenCV crashes while it
# writes a PNG.
import zlib  # noqa: F401
from importlib.metadata import version

__version__ = version("lumensfm")
