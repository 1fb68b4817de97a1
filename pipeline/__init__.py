"""What every stage shares: on-disk formats, config, manifest and resume, errors, progress, reports."""

from importlib.metadata import version

__version__ = version("lumensfm")
