"""The folder in which decoded frames are kept: found without a home folder, and checked before the work starts."""

import logging
import os
import tempfile
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors, require

logger = logging.getLogger(__name__)


def default_cache_root() -> Path:
    """Where caches of this user go, as freedesktop.org has it; a folder among temporary files without a home folder."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "lumensfm" / "frames"
    try:
        return Path.home() / ".cache" / "lumensfm" / "frames"
    except RuntimeError:
        return _temporary_folder() / "frames"


def check_cache_root(root: Path) -> None:
    """Make the folder if it is not there, and see that files can be written into it.

    Raises:
        LumenError: naming `--cache_root`, if they cannot, or the folder for want of a home folder is another user's.
    """
    try:
        if root == _temporary_folder() / "frames":
            _claim_temporary_folder()
            logger.info("there is no home folder: decoded frames are kept in %s; see --cache_root", root)
        with explain_os_errors("write", root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root) as file:
                file.write(b"\0")
    except LumenError as error:
        raise LumenError(f"{error}; give a folder for decoded frames with --cache_root") from error


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"lumensfm-{os.getuid()}"


def _claim_temporary_folder() -> None:
    folder = _temporary_folder()
    with explain_os_errors("write", folder):
        # Others could exchange the frames in a folder that is theirs.
        folder.mkdir(mode=0o700, exist_ok=True)
        require(folder.lstat().st_uid == os.getuid(), f"{folder} belongs to another user")
