"""Install Debian packages if that needs no password, or report which ones are needed."""

import os
import shutil
import subprocess
from collections.abc import Sequence

_APT_GET = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]


class SetUpError(Exception):
    """The set-up cannot continue. The message is one line that tells the user what to do."""


def install(packages: Sequence[str]) -> None:
    """Install `packages` with apt-get, as root or with sudo if that needs no password.

    Raises:
        SetUpError: if that is not possible; it names the packages.
    """
    names = " ".join(packages)
    prefix = _privilege()
    if prefix is not None and shutil.which("apt-get"):
        print(f"installing system packages: {names}", flush=True)
        # Package lists may be missing (containers) or list versions that the mirror has removed.
        if _succeeds([*prefix, *_APT_GET, "update"]) and _succeeds(
            [*prefix, *_APT_GET, "install", "-y", "--no-install-recommends", *packages]
        ):
            return
    raise SetUpError(f"install these first: sudo apt-get install {names}")


def _privilege() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    has_sudo = shutil.which("sudo") is not None and _succeeds(["sudo", "-n", "true"], quiet=True)
    return ["sudo", "-n"] if has_sudo else None


def _succeeds(command: list[str], *, quiet: bool = False) -> bool:
    output = subprocess.DEVNULL if quiet else None
    # The output of apt-get must not become output of make.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output, check=False)
    return done.returncode == 0
