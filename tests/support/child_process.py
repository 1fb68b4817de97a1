"""Run Python scripts in a child process that a test can kill, interrupt or limit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

_PATIENCE_S = 60.0


def run_script(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in `folder` and capture its output."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
    )


def stop_script_when_ready(
    script: str, folder: Path, stop: signal.Signals, delay_s: float = 0.0
) -> tuple[int, list[str]]:
    """Send `stop` to a script `delay_s` after it printed "ready"; return its status and later lines on stdout."""
    done = signal_script_when_ready(script, folder, stop, delay_s=delay_s)
    return done.returncode, done.stdout.splitlines()


def signal_script_when_ready(
    script: str, folder: Path, *signals: signal.Signals, delay_s: float = 0.0
) -> subprocess.CompletedProcess[str]:
    """Send each signal to a script, `delay_s` apart, after it printed "ready"; return its status and later output."""
    # Background jobs of a shell script ignore SIGINT, those under nohup SIGHUP, and their children inherit this.
    listening = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    )
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
        try:
            output, errors = child.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        return subprocess.CompletedProcess(command, child.returncode, output, errors)
