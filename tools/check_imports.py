"""Check that packages with native code can be imported, and install missing system libraries.

Wheels contain most libraries, but not those for the display, USB and OpenMP, which may be missing on servers and in
containers. `make setup` runs this with the Python of `.venv`.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from system_packages import SetUpError, install

MODULES = ("av", "cv2", "numpy", "open3d", "pycolmap", "torch")

PACKAGE_OF_LIBRARY = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libICE.so.6": "libice6",
    "libSM.so.6": "libsm6",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libgcc_s.so.1": "libgcc-s1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libidn2.so.0": "libidn2-0",
    "libstdc++.so.6": "libstdc++6",
    "libudev.so.1": "libudev1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libxcb.so.1": "libxcb1",
    "libz.so.1": "zlib1g",
}


def main() -> int:
    try:
        failures = _failures()
        libraries = missing_libraries(failures)
        packages = sorted({PACKAGE_OF_LIBRARY[library] for library in libraries & PACKAGE_OF_LIBRARY.keys()})
        if packages:
            install(packages)
            failures = _failures()
        if failures:
            raise SetUpError("; ".join(f"cannot import {module}: {reason}" for module, reason in failures.items()))
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def missing_libraries(failures: dict[str, str]) -> set[str]:
    """The libraries named in `failures`, and those that ldd reports, because the loader names only the first."""
    named = {library for reason in failures.values() for library in re.findall(r"(lib\S+?\.so\S*?):", reason)}
    for module in failures:
        named |= _not_found(_shared_objects(module))
    return named


def _failures() -> dict[str, str]:
    """Each module that cannot be imported → the last line of its error.

    Each module is imported in its own process, because a failed import has side effects.
    """
    failures = {}
    for module in MODULES:
        command = [sys.executable, "-c", f"import {module}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            failures[module] = lines[-1] if lines else f"exit status {done.returncode}"
    return failures


def _shared_objects(module: str) -> list[str]:
    spec = importlib.util.find_spec(module)
    folders = spec.submodule_search_locations if spec else None
    return [str(found) for folder in folders or [] for found in Path(folder).rglob("*.so*") if found.is_file()]


def _not_found(shared_objects: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for shared_object in shared_objects:
        done = subprocess.run(["ldd", shared_object], capture_output=True, text=True, check=False)
        found |= set(re.findall(r"^\s*(\S+) => not found", done.stdout, flags=re.MULTILINE))
    return found


if __name__ == "__main__":
    sys.exit(main())
