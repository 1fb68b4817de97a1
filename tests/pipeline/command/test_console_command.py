"""`lumensfm COMMAND` is the script of the same name, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT

COMMANDS = (
    "reconstruct",
    "extract",
    "bootstrap",
    "train",
    "test",
    "convert",
    "calibrate",
    "phantom",
    "evaluate",
    "view",
)


def lumensfm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its entry point does, which puts no folder of ours on the path."""
    program = "import sys; from lumensfm import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    done = lumensfm(tmp_path, "--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert lumensfm(tmp_path, "--version").stdout.startswith("lumensfm ")


def test_an_unknown_command_is_rejected_with_the_names_of_all(tmp_path: Path) -> None:
    done = lumensfm(tmp_path, "reconstuct")
    assert done.returncode == 2
    assert done.stderr.startswith("error: lumensfm reconstuct: choose one of reconstruct, extract")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help_also_beside_a_folder_named_pipeline(command: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    done = lumensfm(tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: lumensfm {command} ")


def test_a_module_run_beside_a_folder_named_pipeline_finds_ours(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "sfm.evaluate", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_settings_of_a_command_are_those_of_the_script(tmp_path: Path) -> None:
    done = lumensfm(tmp_path, "phantom", "out", "--frames", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --frames 0: choose 1 or more")


def test_the_variant_of_train_is_chosen_by_its_flag(tmp_path: Path) -> None:
    assert "--stage" in lumensfm(tmp_path, "train", "--method", "gift", "--help").stdout
