"""Python scripts in a process of their own, for tests that kill it, interrupt it or starve it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

_PATIENCE_S = 60.0


def run_script(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in `folder` to its end and capture what it prints."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
    )


def stop_script_when_ready(
    script: str, folder: Path, stop: signal.Signals, delay_s: float = 0.0
) -> tuple[int, list[str]]:
    """Start `script`, wait until it prints "ready", send it `stop` after `delay_s`; its status and lines on stdout."""
    done = signal_script_when_ready(script, folder, stop, delay_s=delay_s)
    return done.returncode, done.stdout.splitlines()


def signal_script_when_ready(
    script: str, folder: Path, *signals: signal.Signals, delay_s: float = 0.0
) -> subprocess.CompletedProcess[str]:
    """Start `script`, wait until it prints "ready", send it each signal after `delay_s`; what it printed after that."""
    # A job in the background of a shell script ignores SIGINT, and so would its children.
    listening = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-uc", listening + script]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        first = child.stdout.readline()
        if first != "ready\n":
            child.kill()
            raise AssertionError(first + child.stderr.read())
        for each in signals:
            time.sleep(delay_s)
            child.send_signal(each)
        output, errors = child.communicate(timeout=_PATIENCE_S)
        return subprocess.CompletedProcess(command, child.returncode, output, errors)
