"""Kill reconstruct.py at random moments, run the same command again, and compare with a run that was left alone.

    python benchmarks/kills.py --kills 50

Files of a user are put into the output between the kills. Every run that ends must have the same frames and points as
the undisturbed one, and every file of the user must be unchanged.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train_minutes", type=float, default=0.0, help="above 0, a descriptor is trained, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _measure(options, Path(folder))


def _measure(options: argparse.Namespace, work: Path) -> int:
    phantom = [str(work / "phantom"), "--frames", str(options.frames), "--cuts", "1", "--size", "320", "256"]
    _run("data_prep/phantom.py", *phantom, "--fps", "15", "--seed", "2", "--no_depth")
    started = time.monotonic()
    _run(*_command(options, work, work / "undisturbed"))
    duration_s = time.monotonic() - started
    wanted = result(work / "undisturbed")
    rng = random.Random(options.seed)
    kills: Counter[str] = Counter()
    wrong, runs = 0, 0
    while kills.total() < options.kills:
        output = work / f"run{runs}"
        mine = _kill_until_done(options, work, output, rng, kills, duration_s)
        runs += 1
        same = _agree(result(output), wanted, exact=options.train_minutes == 0)
        untouched = all(path.read_bytes() == content for path, content in mine.items())
        wrong += not (same and untouched)
        print(f"run {runs}: same result: {same}, files of the user untouched: {untouched} ({len(mine)})", flush=True)
    print(f"{kills.total()} kills in {runs} runs of {duration_s:.0f} s: {wrong} wrong")
    print(", ".join(f"{place} {count}" for place, count in kills.most_common()))
    return int(wrong > 0)


def _command(options: argparse.Namespace, work: Path, output: Path) -> list[str]:
    phantom = work / "phantom"
    settings = ["--calibration", str(phantom / "calibration.yaml"), "--points", "400", "--references", "4"]
    if options.train_minutes:
        settings += ["--train_minutes", str(options.train_minutes), "--cache_root", str(work / "cache")]
    else:
        settings += ["--preset", "fast"]
    return ["reconstruct.py", str(phantom / "video.mp4"), "--output", str(output), *settings]


def _kill_until_done(
    options: argparse.Namespace, work: Path, output: Path, rng: random.Random, kills: Counter[str], duration_s: float
) -> dict[Path, bytes]:
    """Run the command until it ends by itself; the files that were put into its output, with their contents."""
    mine: dict[Path, bytes] = {}
    while True:
        line = [sys.executable, *_command(options, work, output)]
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
            try:
                log = child.communicate(timeout=rng.uniform(0.1, 0.7 * duration_s))[1]
            except subprocess.TimeoutExpired:
                number = rng.choice(_SIGNALS)
                child.send_signal(number)
                log = child.communicate()[1]
                if child.returncode not in (0, -number, 128 + number):
                    raise SystemExit(f"status {child.returncode} after {number.name}:\n{log}") from None
                kills[f"{_stage(log)} ({number.name})"] += 1
                mine |= _put_files(output, rng)
        if child.returncode == 0:
            return mine
        if child.returncode in (1, 2, 3, 70):
            raise SystemExit(f"status {child.returncode}:\n{log}")


def _stage(log: str) -> str:
    """The last stage that a log names."""
    names = ("extract", "train", "correspond", "skeleton", "flesh", "export", "report")
    found = [
        line.partition(":")[0] for line in log.splitlines() if line.startswith(tuple(f"{name}: " for name in names))
    ]
    return found[-1] if found else "start"


def _put_files(output: Path, rng: random.Random) -> dict[Path, bytes]:
    folders = [output, *(path for path in output.rglob("*") if path.is_dir())] if output.exists() else []
    owned = [path for path in folders if (output / ".lumensfm").exists()]
    files = {rng.choice(owned) / f"mine_{rng.randrange(10**9)}.txt": rng.randbytes(50) for _ in range(3) if owned}
    for path, content in files.items():
        path.write_bytes(content)
    return files


def result(output: Path) -> dict[str, object]:
    """Frames and points of every model of a run."""
    found: dict[str, object] = {}
    for report in sorted(output.rglob("reports/flesh.json")):
        name = str(report.parent.parent.relative_to(output))
        models = json.loads(report.read_text())["counts"]["models"]
        found[name] = [(each["number"], each["frames"], each["points"]) for each in models]
    for trajectory in sorted(output.rglob("trajectory.tum")):
        found[str(trajectory.relative_to(output))] = np.loadtxt(trajectory)
    return found


def _agree(found: dict[str, object], wanted: dict[str, object], *, exact: bool) -> bool:
    """Whether two results are the same; with a descriptor, which is trained by the clock, in their frames."""
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
        raise SystemExit(f"{command[0]} ends with status {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
