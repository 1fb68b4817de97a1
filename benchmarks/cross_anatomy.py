"""The dense descriptor on anatomies that it is not trained on: other phantoms, and a real clip.

    python benchmarks/cross_anatomy.py [WORK] [--minutes 20] [--train_on colon]

Phantoms are rendered. The descriptor is trained on four of them with configs/train/phantoms.yaml; `test.py` measures it
on others, where ground truth and visibility are exact. If LUMEN_REAL_DATA names the folder of real data, its sinus clip
is measured, too. The baseline is optical flow (DIS) on the same pairs. Phantoms and trainings in WORK are used again.

The bounds hold for the default settings.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import bounds
from measurement import ROOT, print_machine, run_command, timed

FRAMES, WIDTH, HEIGHT = 120, 640, 512
TRAINING_SEEDS, TEST_SEED = range(4), 100
ANATOMIES = ("colon", "sinus")
REAL = "real sinus"
# 320x256, half the size of the phantom, is the network's size in DDL's settings.
PIXEL_DOWNSAMPLING = 2
THRESHOLD_PX = "5"


def make_phantom(anatomy: str, seed: int, root: Path, scratch: Path) -> None:
    """Render a phantom and convert it to training data of a patient of its own."""
    sequence = root / f"{anatomy}_{seed}" / "phantom"
    if sequence.exists():
        return
    rendered = scratch / f"{anatomy}_{seed}"
    flags = f"--anatomy {anatomy} --frames {FRAMES} --seed {seed} --size {WIDTH} {HEIGHT}"
    if not rendered.exists():
        run_command("data_prep/phantom.py", rendered, *flags.split())
    run_command("data_prep/convert.py", rendered, "--to", "training", "--output", sequence)


def train(work: Path, anatomies: Sequence[str], minutes: float) -> Path:
    """Train on the phantoms of some anatomies; returns the run's folder."""
    trained = work / "_".join(["run", *anatomies])
    patients = [f"{anatomy}_{seed}" for anatomy in anatomies for seed in TRAINING_SEEDS]
    with timed() as cost:
        run_command(
            *("train.py", "--config", ROOT / "configs" / "train" / "phantoms.yaml"),
            *("--training_data_root", work / "training", "--log_root", trained),
            *("--max_minutes", minutes, "--training_patient_id", *patients),
        )
    print(f"\ntraining on {len(patients)} phantoms: {cost}", flush=True)
    return trained


def test(name: str, data: Path, trained: Path, *flags: object) -> dict[str, dict[str, float | None]]:
    """Measure the descriptor on `data`; returns distance of frames → method → share of points within 5 px."""
    output = trained / f"test_{name.replace(' ', '_')}"
    with timed() as cost:
        run_command(
            *("test.py", "--trained_model_path", trained / "last.pt"),
            *("--testing_data_root", data, "--log_root", output, *flags),
        )
    print(f"{name}: {cost}", flush=True)
    results = json.loads((output / "pck.json").read_text())
    # The method of --trained_model_path is the first.
    trained_name = next(iter(results))
    methods = {"trained": trained_name, "dis": "dis"}
    return {
        distances: {method: results[name][distances]["pck"][THRESHOLD_PX] for method, name in methods.items()}
        for distances in results[trained_name]
    }


def print_shares(name: str, shares: dict[str, dict[str, float | None]], note: str) -> dict[str, float | None]:
    """Print a row for each distance of frames; returns what the bounds limit."""
    measured: dict[str, float | None] = {}
    print(f"\n{name + ', frames apart':<28} {'trained':>8} {'DIS':>6} {'ratio':>6}  notes")
    for distances, share in shares.items():
        # A distance without pairs has no share.
        ours, flow = (math.nan if share[method] is None else share[method] for method in ("trained", "dis"))
        ratio = measured[f"{name}, {distances} frames apart"] = ours / flow if flow else math.nan
        print(f"{distances:<28} {ours:>8.3f} {flow:>6.3f} {ratio:>6.2f}  {note}", flush=True)
    return measured


def main() -> int:
    """Render, train and test; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "build" / "cross_anatomy"
    parser.add_argument("work", type=Path, nargs="?", default=default, help="folder to work in")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training (default: %(default)g)")
    parser.add_argument("--train_on", nargs="+", choices=ANATOMIES, default=("colon",), help="default: colon")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    print_machine(f"{WIDTH}x{HEIGHT}", f"{FRAMES} frames a phantom", f"{options.minutes:g} minutes of training")
    for anatomy in ANATOMIES:
        for seed in TRAINING_SEEDS if anatomy in options.train_on else ():
            make_phantom(anatomy, seed, work / "training", work / "rendered")
        make_phantom(anatomy, TEST_SEED, work / anatomy, work / "rendered")
    trained = train(work, options.train_on, options.minutes)
    count = len(TRAINING_SEEDS) * len(options.train_on) * FRAMES
    note = f"weights trained on {count} other frames ({', '.join(options.train_on)} phantoms)"
    flags = ("--pixel_downsampling", PIXEL_DOWNSAMPLING)
    shares = {f"{anatomy} phantom": test(anatomy, work / anatomy, trained, *flags) for anatomy in ANATOMIES}
    if "LUMEN_REAL_DATA" in os.environ:
        shares[REAL] = test(REAL, Path(os.environ["LUMEN_REAL_DATA"]) / "sinus", trained)
    measured: dict[str, float | None] = {}
    for name, of_clip in shares.items():
        measured |= print_shares(name, of_clip, note)
    applied = [bound for name in shares for bound in bounds.CROSS_ANATOMY[name]]
    limited = {bound.name for bound in applied}
    return bounds.check(applied, {name: ratio for name, ratio in measured.items() if name in limited})


if __name__ == "__main__":
    sys.exit(main())
