"""One process at a time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import LumenError
from pipeline.locks import held

HOLD = """
import sys, time
from pathlib import Path
from pipeline.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold_elsewhere(path: Path, seconds: float) -> subprocess.Popen[str]:
    other = subprocess.Popen([sys.executable, "-c", HOLD, path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    return other


def test_what_another_process_holds_is_waited_for_or_said_to_be_held(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, 1.0)
    with pytest.raises(LumenError, match="in use"), held(tmp_path, busy="in use"):
        pass
    with held(tmp_path):
        assert other.poll() is not None or other.wait(timeout=10) == 0


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path, 60.0)
    other.kill()
    other.wait()
    started = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - started < 30


def test_what_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="cannot open"), held(tmp_path / "nothing"):
        pass
