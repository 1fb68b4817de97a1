"""Every command can write a PNG. The order in which libraries are loaded decides whether OpenCV can."""

import subprocess
import sys

import pytest

from repository import ROOT

COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "data_prep", ROOT / "sfm", ROOT / "descriptor")
    for path in folder.glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
SCRIPT = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="imported")
import cv2, numpy
assert cv2.imencode(".png", numpy.random.default_rng(0).integers(0, 255, (200, 300, 3), numpy.uint8))[0]
"""


def test_all_commands_are_found() -> None:
    assert {"reconstruct.py", "train.py", "test.py", "data_prep/extract.py", "sfm/view.py"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_png_can_be_written(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
