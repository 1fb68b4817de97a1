"""A signal ends a command with one line and status 128 + signal at any time."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from child_process import signal_script_when_ready
from repository import ROOT

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
START = """
from pipeline.command.interruption import stop_request, watch_signals
watch_signals()
import hashlib, logging, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pipeline.command import interruption
from pipeline.command.run_command import run_command
from pipeline.errors import LumenError
from pipeline.progress import progress

@dataclass
class Config:
    '''Do something.'''

def native_call():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def run(config):
    {body}

sys.exit(run_command(Config, run, []))
"""
READY = "print('ready');"
LINE = "stopped by {}: finished work is kept; run the same command again to continue\n"


def command(body: str, grace_s: float = 60.0) -> str:
    """A command that runs `body`. The default grace period is long, so only tests that shorten it depend on it."""
    return START.replace("{body}", f"interruption._GRACE_S = {grace_s}; {body}")


def expect(done: subprocess.CompletedProcess[str], stop: signal.Signals) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (128 + stop, "", LINE.format(stop.name))


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_ends_python_code(tmp_path: Path, stop: signal.Signals) -> None:
    expect(signal_script_when_ready(command(READY + "time.sleep(600)"), tmp_path, stop), stop)


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_ends_a_native_call(tmp_path: Path, stop: signal.Signals) -> None:
    expect(signal_script_when_ready(command(READY + "native_call()", 0.1), tmp_path, stop), stop)


def test_a_signal_ends_a_thread_pool_that_waits_for_a_native_call(tmp_path: Path) -> None:
    body = READY + "pool = ThreadPoolExecutor(2); pool.submit(native_call).result()"
    expect(signal_script_when_ready(command(body, 0.1), tmp_path, signal.SIGTERM), signal.SIGTERM)


def test_running_threads_do_not_delay_the_exit(tmp_path: Path) -> None:
    body = READY + "threading.Thread(target=native_call).start(); time.sleep(600)"
    expect(signal_script_when_ready(command(body), tmp_path, signal.SIGTERM), signal.SIGTERM)


def test_a_second_signal_ends_a_native_call_immediately(tmp_path: Path) -> None:
    done = signal_script_when_ready(
        command(READY + "native_call()"), tmp_path, signal.SIGINT, signal.SIGTERM, delay_s=0.6
    )
    expect(done, signal.SIGINT)


def test_signals_in_quick_succession_count_as_one(tmp_path: Path) -> None:
    body = "exec('''\nwith stop_request.finishing('finishing') as stop:\n  print('ready')\n  while not stop: pass\n"
    body += "  time.sleep(1)\n  print('finished')''')"
    done = signal_script_when_ready(command(body), tmp_path, signal.SIGHUP, signal.SIGHUP)
    assert (done.returncode, done.stdout) == (0, "finished\n")


def test_a_finishing_block_completes_unless_a_second_signal_arrives(tmp_path: Path) -> None:
    body = "exec('''\nwith stop_request.finishing('finishing') as stop:\n  print('ready')\n  while not stop: pass\n"
    finishing = body + "  print('finished')\nraise KeyboardInterrupt(\"step 7 is saved\")''')"
    done = signal_script_when_ready(command(finishing), tmp_path, signal.SIGTERM)
    assert (done.returncode, done.stdout) == (143, "finished\n")
    assert done.stderr == "finishing\nstopped by SIGTERM: step 7 is saved\n"
    hanging = body + "  native_call()''')"
    done = signal_script_when_ready(command(hanging), tmp_path, signal.SIGTERM, signal.SIGTERM, delay_s=0.6)
    assert (done.returncode, done.stderr) == (143, "finishing\n" + LINE.format("SIGTERM"))


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_signal_during_the_imports_ends_the_command(tmp_path: Path, stop: signal.Signals) -> None:
    script = START.replace("import hashlib", f"{READY} import time; time.sleep(600)\nimport hashlib")
    expect(signal_script_when_ready(script.replace("{body}", "pass"), tmp_path, stop), stop)


@pytest.mark.parametrize(
    "body", ["import pycolmap;" + READY + "time.sleep(600)", "import pycolmap, torch;" + READY + "native_call()"]
)
def test_colmaps_failure_handler_is_not_called(tmp_path: Path, body: str) -> None:
    expect(signal_script_when_ready(command(body, 0.1), tmp_path, signal.SIGTERM), signal.SIGTERM)
    early = command(body, 0.1).replace("import hashlib", "import pycolmap, hashlib")
    expect(signal_script_when_ready(early, tmp_path, signal.SIGTERM), signal.SIGTERM)


@pytest.mark.parametrize("stop", SIGNALS)
def test_an_ignored_signal_stays_ignored(tmp_path: Path, stop: signal.Signals) -> None:
    ignoring = f"import signal; signal.signal({int(stop)}, signal.SIG_IGN)\n"
    body = "import pycolmap; print('ready'); time.sleep(1); print('survived')"
    done = signal_script_when_ready(ignoring + command(body), tmp_path, stop)
    assert (done.returncode, done.stdout, done.stderr) == (0, "survived\n", "")


def test_an_error_caused_by_the_signal_is_not_reported(tmp_path: Path) -> None:
    body = "exec('''\nprint('ready')\ntry: time.sleep(600)\nexcept KeyboardInterrupt: raise RuntimeError''')"
    expect(signal_script_when_ready(command(body), tmp_path, signal.SIGTERM), signal.SIGTERM)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", ["sys.stdout", "sys.stderr", "sys.stdout, sys.stderr"])
def test_the_exit_status_is_correct_with_closed_streams(tmp_path: Path, closed: str) -> None:
    body = f"print('ready'); [os.close(each.fileno()) for each in ({closed},)]; time.sleep(600)"
    script = command(body).replace("import hashlib", "import os, hashlib")
    done = signal_script_when_ready(script, tmp_path, signal.SIGTERM, delay_s=0.2)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == ("" if "stderr" in closed else LINE.format("SIGTERM"))


def test_the_progress_bar_is_erased_from_the_terminal(tmp_path: Path) -> None:
    body = "[native_call() for _ in progress(range(9), 'reading')]"
    terminal, its_end = pty.openpty()
    # tqdm shows nothing on a terminal without width.
    termios.tcsetwinsize(its_end, (24, 80))
    child = subprocess.Popen([sys.executable, "-c", command(body, 0.1)], cwd=tmp_path, stderr=its_end)
    os.close(its_end)
    shown = os.read(terminal, 10_000)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 143
    shown += os.read(terminal, 10_000)
    os.close(terminal)
    assert shown.endswith(b"\r\x1b[2K" + LINE.format("SIGTERM").encode().replace(b"\n", b"\r\n"))


def test_a_stopped_command_leaves_no_partial_output_and_can_be_run_again(tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "data_prep" / "phantom.py"), "ph", "--size", "64", "64", "--frames"]
    child = subprocess.Popen([*line, "5000"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    errors = child.communicate(timeout=60)[1]
    assert child.returncode == 143 and errors.splitlines()[-1] + "\n" == LINE.format("SIGTERM")
    assert not (tmp_path / "ph").exists()
    subprocess.run([*line, "4"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "ph" / "video.mp4").is_file()
