"""Outcomes of a command: known errors print one line and exit with 1, bugs print a traceback and exit with 70."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from child_process import run_script, stop_script_when_ready
from pipeline.command import exit_status
from repository import ROOT

COMMAND = """
import logging, sys, time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from pipeline.command.run_command import run_command
from pipeline.errors import LumenError, PartialSuccess
from pipeline.progress import progress

@dataclass
class Config:
    '''Do something.'''
    what: str = "work"
    '''What to do.'''
    kind: Literal["colon", "sinus"] = "colon"
    '''A choice.'''
    video: Path = Path("video.mp4")
    '''An input.'''

def run(config):
    logging.getLogger("pipeline.test").debug("a detail")
    logging.getLogger("some.library").warning("chatter")
    if config.what == "fail":
        raise LumenError("clip  1.mp4 is empty:\\n   choose another")
    if config.what == "fail in a loop":
        for frame in progress(range(9), "reading"):
            raise LumenError("frame 0 is damaged")
    if config.what == "fail at length":
        raise LumenError(f"{Path('/data/' + 200 * 'x')}: unknown keys {list(range(5000))}: use another checkpoint")
    if config.what == "half":
        raise PartialSuccess("sequence 2 of 2 has\\n no reconstruction", [Path("a"), Path("b")])
    if config.what == "private bug":
        raise KeyError(str(config.video.resolve()) + config.video.stem)
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


def test_only_the_outputs_are_printed_one_per_line(tmp_path: Path) -> None:
    done = run_script(START, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.mp4\n", "")
    done = run_script(START, tmp_path, "--what", "many")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb\n", "")
    done = run_script(START, tmp_path, "--what", "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("what", "line"), [("fail", "clip  1.mp4 is empty: choose another"), ("fail in a loop", "frame 0 is damaged")]
)
def test_a_known_error_prints_one_line_and_exits_with_1(tmp_path: Path, what: str, line: str) -> None:
    done = run_script(START, tmp_path, "--what", what)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {line}\n")
    assert not list(tmp_path.iterdir())


def test_an_error_is_shortened_to_300_characters_and_keeps_its_start_and_end(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--what", "fail at length")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert len(done.stderr.strip()) <= 300
    assert done.stderr.startswith("error: /data/xxx") and done.stderr.endswith(": use another checkpoint\n")


@pytest.mark.parametrize(
    "arguments", [["--kind", "x" * 5000], ["--" + "x" * 5000], [f"{number}.mp4" for number in range(2000)]]
)
def test_a_usage_error_about_long_values_is_short(tmp_path: Path, arguments: list[str]) -> None:
    done = run_script(START, tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr) < 1000 and "python tools/make it.py --help" in done.stderr


def test_partial_success_prints_its_outputs_and_exits_with_3(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--what", "half")
    assert (done.returncode, done.stdout, done.stderr) == (3, "a\nb\n", "sequence 2 of 2 has no reconstruction\n")


def test_help_ends_with_the_exit_statuses(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--help")
    assert done.returncode == 0 and done.stdout.endswith(exit_status.HELP)
    for number in (0, 1, 2, 3, 70, 141, 130, 143, 129):
        assert re.search(rf"\b{number}\b", exit_status.HELP)


def test_a_crash_log_does_not_name_files_folders_user_or_machine(tmp_path: Path) -> None:
    folder = tmp_path / "Klinik Nord" / "Müller"
    folder.mkdir(parents=True)
    done = run_script(START, folder, "--what", "private bug", "--video", "../Müller/Eva_1957.mp4")
    assert done.returncode == 70
    (log,) = folder.glob("*.log")
    assert done.stderr.endswith(f"please report it with {log}\n")
    text = log.read_text()
    for private in ("Eva", "1957", "Klinik", "Müller", "M\\xfcller", str(tmp_path), str(ROOT), str(Path.home())):
        assert private not in text
    assert "'--video', '<video>'" in text and "KeyError: '<video><video>'" in text
    assert 'File "pipeline/command/run_command.py", line' in text


def test_an_invalid_preset_prints_one_line_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text("waht: work")
    done = run_script(START, tmp_path, "--config", "preset.yaml")
    assert done.returncode == 1
    assert done.stderr == "error: preset.yaml: unknown key 'waht'; did you mean 'what'?\n"


def test_an_invalid_flag_exits_with_2_and_suggests_the_nearest(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--waht", "work")
    assert done.returncode == 2
    assert "--what" in done.stderr and "python tools/make it.py --help" in done.stderr


def test_a_bug_prints_its_traceback_and_writes_a_complete_log(tmp_path: Path) -> None:
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


def test_the_crash_log_is_written_elsewhere_if_the_working_directory_is_gone(tmp_path: Path) -> None:
    script = START.replace(
        "sys.argv[0]", "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())\nsys.argv[0]"
    )
    done = run_script(script, tmp_path, "--what", "bug")
    assert done.returncode == 70, done.stderr
    log = Path(done.stderr.splitlines()[-1].partition("please report it with ")[2])
    assert "KeyError: 'missing'" in log.read_text()
    log.unlink()


def test_ctrl_c_exits_with_130_without_a_traceback(tmp_path: Path) -> None:
    script = START.replace("run_command(Config, run)", "run_command(Config, run, ['--what', 'wait'])")
    status, lines = stop_script_when_ready(script, tmp_path, signal.SIGINT, delay_s=0.1)
    assert (status, lines) == (130, [])


def test_a_closed_pipe_is_not_a_bug(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--help"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    assert not list(tmp_path.iterdir())


def test_the_terminal_shows_our_log_lines_but_only_errors_of_other_libraries(tmp_path: Path) -> None:
    done = run_script(START, tmp_path, "--what", "inform")
    assert done.stderr == "3 frames\nwarning: one is dark\nerror: trouble\n"
