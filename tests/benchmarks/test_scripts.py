"""Every benchmark as users start it."""

import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT

MODULES = sorted((ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [path for path in MODULES if "__main__" in path.read_text(encoding="utf-8")]
# Python puts the folder of a script first on sys.path, so that its files hide modules of the same name.
COMMANDS = {
    "train",
    "test",
    "reconstruct",
    "evaluate",
    "view",
    "extract",
    "bootstrap",
    "convert",
    "calibrate",
    "phantom",
}
PACKAGES = {"pipeline", "data_prep", "descriptor", "sfm", "lumensfm", "configs"}


def test_the_benchmarks_are_found() -> None:
    assert len(SCRIPTS) >= 12


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_name_hides_a_command_or_a_module(path: Path) -> None:
    assert path.stem not in COMMANDS | PACKAGES | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_names_the_command(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{path.name}" in done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_exit_status_is_that_of_main(path: Path) -> None:
    assert path.read_text(encoding="utf-8").endswith('if __name__ == "__main__":\n    sys.exit(main())\n')
