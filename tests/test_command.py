"""A command's outcome: known errors are one line and status 1, bugs a traceback with a log and status 70."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from child_process import run_script, stop_script_when_ready

COMMAND = """
import logging, sys, time
from dataclasses import dataclass
from pathlib import Path
from pipeline.command import run_command
from pipeline.errors import LumenError
from pipeline.progress import progress

@dataclass
class Config:
    '''Do something.'''
    what: str = "work"
    '''What to do.'''

def run(config):
    logging.getLogger("pipeline.test").debug("a detail")
    logging.getLogger("some.library").warning("chatter")
    if config.what == "fail":
        raise LumenError("clip  1.mp4 is empty:\\n   choose another")
    if config.what == "fail in a loop":
        for frame in progress(range(9), "reading"):
            raise LumenError("frame 0 is damaged")
    if config.what == "bug":
        {}["missing"]
    if config.what == "wait":
        print("ready", flush=True)
        time.sleep(60)
    if config.what == "inform":
        logging.getLogger("pipeline.test").info("3 frames")
        logging.getLogger("pipeline.test").warning("one is dark")
        logging.getLogger("some.library").error("trouble")
    return {"work": Path("out.mp4"), "many": [Path("a"), Path("b")]}.get(config.what)
"""
START = COMMAND + "\nsys.argv[0] = 'tools/make it.py'\nsys.exit(run_command(Config, run))\n"


def test_outputs_are_printed_one_a_line_and_nothing_else(tmp_path: Path) -> None:
    done = run_script(START, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.mp4\n", "")
    done = run_script(START, tmp_path, "--what", "many")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb\n", "")
    done = run_script(START, tmp_path, "--what", "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("what", "line"), [("fail", "clip  1.mp4 is empty: choose another"), ("fail in a loop", "frame 0 is damaged")]
)
def test_a_known_error_is_one_line_and_status_1(tmp_path: Path, what: str, line: str) -> None:
    done = run_script(START, tmp_path, "--what", what)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {line}\n")
    assert not list(tmp_path.iterdir())


def test_a_bad_preset_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text("waht: work")
    done = run_script(START, tmp_path, "--config", "preset.yaml")
    assert done.returncode == 1
    assert done.stderr == "error: preset.yaml: unknown key 'waht'; did you mean 'what'?\n"


def test_a_wrong_flag_is_status_2_and_names_the_nearest(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--waht", "work")
    assert done.returncode == 2
    assert "--what" in done.stderr and "python tools/make it.py --help" in done.stderr


def test_a_bug_shows_its_traceback_and_a_log_that_holds_everything(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--what", "bug")
    assert done.returncode == 70
    assert "Traceback (most recent call last)" in done.stderr and "KeyError: 'missing'" in done.stderr
    named = re.search(r"this is a bug in LumenSfM; please report it with (.*\.log)\n$", done.stderr)
    assert named
    log = Path(named[1])
    assert log.parent == tmp_path
    text = log.read_text()
    for part in ("LumenSfM 0.", "arguments: ['--what', 'bug']", "a detail", "chatter", "KeyError: 'missing'"):
        assert part in text


def test_the_log_goes_elsewhere_when_the_folder_is_gone(tmp_path: Path) -> None:
    script = START.replace(
        "sys.argv[0]", "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())\nsys.argv[0]"
    )
    done = run_script(script, tmp_path, "--what", "bug")
    assert done.returncode == 70, done.stderr
    log = Path(done.stderr.splitlines()[-1].partition("please report it with ")[2])
    assert "KeyError: 'missing'" in log.read_text()
    log.unlink()


def test_ctrl_c_is_status_130_without_a_traceback(tmp_path: Path) -> None:
    script = START.replace("run_command(Config, run)", "run_command(Config, run, ['--what', 'wait'])")
    status, lines = stop_script_when_ready(script, tmp_path, signal.SIGINT, delay_s=0.1)
    assert (status, lines) == (130, [])


def test_a_closed_pipe_is_no_bug(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent.parent / "train.py"), "--help"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    assert not list(tmp_path.iterdir())


def test_the_terminal_shows_our_information_and_only_the_errors_of_others(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--what", "inform")
    assert done.stderr == "3 frames\nwarning: one is dark\nerror: trouble\n"
