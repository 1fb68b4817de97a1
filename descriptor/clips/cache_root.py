"""The folder for decoded frames: its default, and a check before work starts."""

import logging
import os
import tempfile
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors, require

logger = logging.getLogger(__name__)


def default_cache_root() -> Path:
    """The user's cache folder, as specified by freedesktop.org; without a home folder, a temporary folder."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "lumensfm" / "frames"
    try:
        return Path.home() / ".cache" / "lumensfm" / "frames"
    except RuntimeError:
        return _temporary_folder() / "frames"


def check_cache_root(root: Path) -> None:
    """Create the folder if necessary, and check that it is writable.

    Raises:
        LumenError: naming `--cache_root`, if it is not writable, or the temporary folder belongs to another user.
    """
    try:
        if root == _temporary_folder() / "frames":
            _claim_temporary_folder()
            logger.info("no home folder: decoded frames are stored in %s; see --cache_root", root)
        with explain_os_errors("write", root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root) as file:
                file.write(b"\0")
    except LumenError as error:
        raise LumenError(f"{error}; choose a folder for decoded frames with --cache_root") from error


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"lumensfm-{os.getuid()}"


def _claim_temporary_folder() -> None:
    folder = _temporary_folder()
    with explain_os_errors("write", folder):
        # The owner of the folder could replace frames in it.
        folder.mkdir(mode=0o700, exist_ok=True)
        require(folder.lstat().st_uid == os.getuid(), f"{folder} belongs to another user")
