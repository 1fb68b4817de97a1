"""The dense descriptor on anatomies that it was never trained on: other phantoms, and a real clip.

Run with `python benchmarks/cross_anatomy.py [WORK] [--minutes 10] [--train_on colon]`. It renders phantoms, trains on
some with configs/train/phantoms.yaml, and measures on the others, where truth and visibility are exact, with `test.py`;
then, if LUMEN_REAL_DATA names the folder of real data, on its sinus clip. What is in WORK already is not made again.
A descriptor that finds less than optical flow 21 frames or more apart is a regression.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FRAMES, WIDTH, HEIGHT = 120, 640, 512
TRAINING_SEEDS, TEST_SEED = range(4), 100
ANATOMIES = ("colon", "sinus")
# Half the phantom's size, 320x256, is the network's in DDL's settings.
PIXEL_DOWNSAMPLING = 2


def make_phantom(anatomy: str, seed: int, root: Path, scratch: Path) -> None:
    """Render one and turn it into training data, a patient of its own."""
    sequence = root / f"{anatomy}_{seed}" / "phantom"
    if sequence.exists():
        return
    rendered = scratch / f"{anatomy}_{seed}"
    flags = f"--anatomy {anatomy} --frames {FRAMES} --seed {seed} --size {WIDTH} {HEIGHT}"
    if not rendered.exists():
        run("data_prep/phantom.py", str(rendered), *flags.split())
    run("data_prep/convert.py", str(rendered), "--to", "training", "--output", str(sequence))


def run(script: str, *arguments: str) -> None:
    """One of our commands, its output on the terminal."""
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)


def main() -> None:
    """Make, train, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "work", type=Path, nargs="?", default=ROOT / "build" / "cross_anatomy", help="folder for it all"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--train_on", nargs="+", choices=ANATOMIES, default=ANATOMIES, help="the other is then new")
    arguments = parser.parse_args()
    work: Path = arguments.work
    for anatomy in ANATOMIES:
        for seed in TRAINING_SEEDS if anatomy in arguments.train_on else ():
            make_phantom(anatomy, seed, work / "training", work / "rendered")
        make_phantom(anatomy, TEST_SEED, work / anatomy, work / "rendered")
    trained = work / "_".join(["run", *arguments.train_on])
    preset = ROOT / "configs" / "train" / "phantoms.yaml"
    where = ("--training_data_root", str(work / "training"), "--log_root", str(trained))
    patients = [f"{anatomy}_{seed}" for anatomy in arguments.train_on for seed in TRAINING_SEEDS]
    minutes = ("--max_minutes", str(arguments.minutes), "--training_patient_id", *patients)
    run("train.py", "--config", str(preset), *where, *minutes)
    checkpoint = ("--trained_model_path", str(trained / "last.pt"))
    for anatomy in ANATOMIES:
        print(f"\nphantom {anatomy}, seed {TEST_SEED}", flush=True)
        where = ("--testing_data_root", str(work / anatomy), "--log_root", str(trained / f"test_{anatomy}"))
        run("test.py", *checkpoint, *where, "--pixel_downsampling", str(PIXEL_DOWNSAMPLING))
    if "LUMEN_REAL_DATA" in os.environ:
        print("\nreal sinus, never trained on", flush=True)
        clip = Path(os.environ["LUMEN_REAL_DATA"]) / "sinus"
        run("test.py", *checkpoint, "--testing_data_root", str(clip), "--log_root", str(trained / "test_real"))


if __name__ == "__main__":
    main()
