"""The examples of docs/python.md run as they are written."""

import re
from pathlib import Path
from typing import Any

import pytest

from descriptor.checkpoint import Checkpoint
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from repository import ROOT


def test_the_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 7
    monkeypatch.chdir(tmp_path)
    Checkpoint(FCDenseNet(NetworkShape(32, 3)).state_dict(), method="fcdensenet").save(tmp_path / "last.pt")
    names: dict[str, Any] = {"checkpoint": "last.pt"}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "1 sequence" in printed and "run/report.html" in printed
    assert names["dense"].points.shape[0] > 1000 and names["errors"].registered_share > 0.9


def test_every_public_function_has_a_section() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in ("extract", "bootstrap", "reconstruct", "load_descriptor", "read_training_data", "evaluate"):
        assert f"\n## {name}\n" in page and f"lumensfm.{name}(" in page
