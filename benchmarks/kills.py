"""Kill reconstruct.py at random times in every stage, run it again, and compare the result with an undisturbed run.

    python benchmarks/kills.py --kills 50

Between kills, files of a user are added to the output. Every finished run must have the same frames and points as the
undisturbed run, and every file of the user must be unchanged. The exit status is 1 otherwise.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
_START = "start"
_STAGES = (_START, "extract", "train", "match", "map", "densify", "export", "report")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="number of kills (default: %(default)d)")
    parser.add_argument("--frames", type=int, default=64, help="length of the phantom (default: %(default)d)")
    parser.add_argument("--seed", type=int, default=0, help="of stages, times and signals (default: %(default)d)")
    parser.add_argument("--train_minutes", type=float, default=0.0, help="of a descriptor; 0 uses optical flow only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _measure(options, Path(folder))


def _measure(options: argparse.Namespace, work: Path) -> int:
    phantom = [str(work / "phantom"), "--frames", str(options.frames), "--cuts", "1", "--size", "320", "256"]
    _run("data_prep/phantom.py", *phantom, "--fps", "15", "--seed", "2", "--no_depth")
    durations_s = _stage_durations(_command(options, work, work / "undisturbed"))
    wanted = result(work / "undisturbed")
    rng = random.Random(options.seed)
    kills: Counter[str] = Counter()
    wrong, runs = 0, 0
    while kills.total() < options.kills:
        output = work / f"run{runs}"
        mine = _kill_until_done(_command(options, work, output), output, rng, kills, durations_s)
        runs += 1
        same = _agree(result(output), wanted, exact=options.train_minutes == 0)
        unchanged = all(path.read_bytes() == content for path, content in mine.items())
        wrong += not (same and unchanged)
        print(f"run {runs}: same result: {same}, files of the user unchanged: {unchanged} ({len(mine)})", flush=True)
    print(f"{kills.total()} kills in {runs} runs of {sum(durations_s.values()):.0f} s: {wrong} wrong")
    print(", ".join(f"{place} {count}" for place, count in sorted(kills.items())))
    return int(wrong > 0)


def _command(options: argparse.Namespace, work: Path, output: Path) -> list[str]:
    phantom = work / "phantom"
    settings = ["--calibration", str(phantom / "calibration.yaml"), "--points", "400", "--references", "4"]
    if options.train_minutes:
        settings += ["--train_minutes", str(options.train_minutes), "--cache_root", str(work / "cache")]
    else:
        settings += ["--preset", "fast"]
    return [sys.executable, "reconstruct.py", str(phantom / "video.mp4"), "--output", str(output), *settings]


class _Log:
    """Reads the stderr of a command."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self.stage = _START
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._follow, args=(stream,))
        self._thread.start()

    def _follow(self, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line)
                name = line.partition(":")[0]
                self.stage = name if name in _STAGES else self.stage
                self._changed.notify_all()
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def wait_for(self, stage: str) -> bool:
        """Wait until a stage starts; returns False if the command ends first."""
        with self._changed:
            self._changed.wait_for(lambda: self.stage == stage or not self._is_open)
            return self.stage == stage

    def text(self) -> str:
        """All lines; waits until the command ends."""
        self._thread.join()
        return "".join(self.lines)


def _start(line: list[str]) -> "tuple[subprocess.Popen[str], _Log]":
    child = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    return child, _Log(child.stderr)


def _stage_durations(line: list[str]) -> dict[str, float]:
    """Run the command to its end; returns the total seconds of each stage."""
    durations_s: Counter[str] = Counter()
    child, log = _start(line)
    while child.poll() is None:
        before = time.monotonic()
        time.sleep(0.02)
        durations_s[log.stage] += time.monotonic() - before
    if child.returncode:
        raise SystemExit(f"status {child.returncode}:\n{log.text()}")
    return dict(durations_s)


def _kill_until_done(
    line: list[str], output: Path, rng: random.Random, kills: Counter[str], durations_s: dict[str, float]
) -> dict[Path, bytes]:
    """Kill and rerun the command until it finishes; returns the files added to its output, with their contents."""
    mine: dict[Path, bytes] = {}
    # Every stage once, in order, and two stages twice; then the command runs to its end.
    plan = sorted([*durations_s, *rng.sample(list(durations_s), 2)], key=_STAGES.index)
    for stage in [*plan, None]:
        number = rng.choice(_SIGNALS)
        child, log = _start(line)
        if stage is not None and log.wait_for(stage):
            try:
                child.wait(timeout=rng.uniform(0, durations_s[stage] / 2))
            except subprocess.TimeoutExpired:
                child.send_signal(number)
                if child.wait() not in (0, -number, 128 + number):
                    raise SystemExit(f"status {child.returncode} after {number.name}:\n{log.text()}") from None
                log.text()
                kills[f"{log.stage} ({number.name})"] += 1
                mine |= _put_files(output, rng)
        if child.wait() == 0:
            return mine
        if child.returncode in (1, 2, 3, 70):
            raise SystemExit(f"status {child.returncode}:\n{log.text()}")
    raise AssertionError("the last run is not killed")


def _put_files(output: Path, rng: random.Random) -> dict[Path, bytes]:
    folders = [output, *(path for path in output.rglob("*") if path.is_dir())] if output.exists() else []
    owned = [path for path in folders if (output / ".lumensfm").exists()]
    files = {rng.choice(owned) / f"mine_{rng.randrange(10**9)}.txt": rng.randbytes(50) for _ in range(3) if owned}
    for path, content in files.items():
        path.write_bytes(content)
    return files


def result(output: Path) -> dict[str, object]:
    """The frames and points of every model of a run, and its trajectories."""
    found: dict[str, object] = {}
    for report in sorted(output.rglob("reports/densify.json")):
        name = str(report.parent.parent.relative_to(output))
        models = json.loads(report.read_text())["counts"]["models"]
        found[name] = [(each["number"], each["frames"], each["points"]) for each in models]
    for trajectory in sorted(output.rglob("trajectory.tum")):
        found[str(trajectory.relative_to(output))] = np.loadtxt(trajectory)
    return found


def _agree(found: dict[str, object], wanted: dict[str, object], *, exact: bool) -> bool:
    """Whether two results are the same. Training depends on the clock: without `exact`, only sizes must agree."""
    if found.keys() != wanted.keys():
        return False
    for name, one in wanted.items():
        other = found[name]
        if isinstance(one, np.ndarray):
            if one.shape != np.shape(other) or (exact and not np.allclose(one, other, atol=1e-6)):
                return False
        elif exact and one != other:
            return False
    return True


def _run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} exited with status {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
