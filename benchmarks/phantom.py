"""Frames a second and peak memory of the phantom, for a short and a four times longer video.

Run with `python benchmarks/phantom.py`. Memory that grows with the length, or a rate under 3 frames a second at
640x512 on 2 cores, is a regression.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.data.phantom_files import PhantomPaths
from pipeline.outputs.files import read_yaml

WIDTH, HEIGHT = 640, 512
FRAMES = (60, 240)


def measure(anatomy: str, frames: int, folder: Path) -> tuple[float, float, float]:
    """Render in a process of its own: seconds to build the scene, frames a second, peak memory in MiB."""
    output = folder / f"{anatomy}_{frames}"
    flags = f"--anatomy {anatomy} --frames {frames} --size {WIDTH} {HEIGHT}"
    command = [sys.executable, "-m", "data_prep.phantom", str(output), *flags.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = read_yaml(PhantomPaths(output).report)
    return report["times_s"]["build"], frames / report["times_s"]["render"], report["peak_memory_mb"]


def main() -> None:
    """Print the table; the ratio is to the shorter video of the same anatomy."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {WIDTH}x{HEIGHT}")
    print(f"{'anatomy':<8} {'frames':>6} {'build s':>8} {'frames/s':>9} {'peak MiB':>9} {'memory ratio':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for anatomy in ("colon", "sinus"):
            shortest_mb = 0.0
            for frames in FRAMES:
                build_s, rate, memory_mb = measure(anatomy, frames, Path(folder))
                shortest_mb = shortest_mb or memory_mb
                ratio = memory_mb / shortest_mb
                print(f"{anatomy:<8} {frames:>6} {build_s:>8.1f} {rate:>9.1f} {memory_mb:>9.0f} {ratio:>13.2f}")


if __name__ == "__main__":
    main()
