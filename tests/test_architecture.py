"""Imports go one way, from the recipes down to pipeline. The tests check the source without importing it."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from repository import ROOT

RECIPES = {"train", "test", "reconstruct"}
FORBIDDEN = {
    "pipeline": {"data_prep", "descriptor", "sfm", "pycolmap", "torch"} | RECIPES,
    "descriptor": {"data_prep", "sfm", "pycolmap"} | RECIPES,
    "sfm": {"data_prep", "descriptor", "torch"} | RECIPES,
    "data_prep": {"torch"} | RECIPES,
}


def imported_modules(source: str) -> Iterator[str]:
    """The top-level names of all imports in `source`: at the top, inside functions, and by import_module("...")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            constants = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from (str(constant).partition(".")[0] for constant in constants)


def source_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_has_no_forbidden_imports(package: str) -> None:
    assert source_files(package)
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in source_files(package)
        for module in imported_modules(file.read_text(encoding="utf-8"))
        if module in FORBIDDEN[package]
    ]
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import numpy, torch.nn as nn",
        "from torch.nn import functional",
        "def f():\n    import torch",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "import importlib\nimportlib.import_module('torch.cuda')",
        "__import__('torch')",
    ],
)
def test_every_form_of_import_is_detected(source: str) -> None:
    assert "torch" in set(imported_modules(source))


@pytest.mark.parametrize("source", ["from .torch import x", "torch = 1", "import pytorch", "'import torch'"])
def test_other_code_is_not_taken_for_an_import(source: str) -> None:
    assert "torch" not in set(imported_modules(source))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_file_is_called_utils_or_shadows_the_standard_library(package: str) -> None:
    # The folder of a command comes first on sys.path, so `import signal` anywhere would import data_prep/signal.py.
    names = {file.stem for file in source_files(package)} - {"__init__"}
    assert not names & (set(sys.stdlib_module_names) | {"util", "utils", "helpers", "common", "misc"})


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_file_exceeds_400_lines(package: str) -> None:
    long = [str(file) for file in source_files(package) if len(file.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long


def commands() -> list[Path]:
    files = [*ROOT.glob("*.py"), *(file for package in FORBIDDEN for file in source_files(package))]
    calls = ("sys.exit(run_command(", "sys.exit(run_variant(")
    return [file for file in files if any(call in file.read_text(encoding="utf-8") for call in calls)]


def test_a_command_watches_signals_before_its_other_imports() -> None:
    assert len(commands()) >= 10
    for file in commands():
        _, first, *_ = ast.parse(file.read_text(encoding="utf-8")).body
        watching = "    from pipeline.command.interruption import watch_signals\n    watch_signals()"
        expected = f"if __name__ == '__main__':\n{watching}"
        assert ast.unparse(first) == expected, file


def test_the_code_that_watches_signals_imports_only_the_standard_library() -> None:
    for name in ("__init__", "command/__init__", "command/interruption", "command/exit_status"):
        modules = set(imported_modules((ROOT / "pipeline" / f"{name}.py").read_text(encoding="utf-8")))
        assert modules <= set(sys.stdlib_module_names) | {"pipeline"}


def test_every_package_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {file.parent for package in FORBIDDEN for file in source_files(package)}
    assert {str(folder.relative_to(ROOT)).replace("/", ".") for folder in folders} <= listed
