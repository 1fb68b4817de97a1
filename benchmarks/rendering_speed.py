"""Speed and peak memory of the phantom renderer, for a short video and for one four times as long.

    python benchmarks/rendering_speed.py [--anatomies colon sinus] [--frames 60]

The baseline of the speed is encoding the same frames with H.264, at the quality of the phantom's video. The baseline of
the memory is the short video of the same anatomy.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import av
import bounds
from measurement import Cost, print_machine, run_command, timed

from data_prep.phantom import PhantomConfig
from pipeline.data.phantom_files import PhantomPaths
from pipeline.outputs.files import read_yaml

ANATOMIES = ("colon", "sinus")
WIDTH, HEIGHT = 640, 512
LONGER = 4


def render(anatomy: str, frames: int, output: Path) -> tuple[Cost, float]:
    """Render in a process of its own; returns the cost and the peak memory in MiB."""
    flags = f"--anatomy {anatomy} --frames {frames} --size {WIDTH} {HEIGHT}"
    with timed() as cost:
        run_command("data_prep/phantom.py", output, *flags.split(), is_quiet=True)
    return cost, read_yaml(PhantomPaths(output).report)["peak_memory_mb"]


def encode_again(video: Path, output: Path) -> Cost:
    """Encode the frames of a video once more."""
    with av.open(str(video)) as source:
        images = list(source.decode(video=0))
    crf = PhantomConfig.__dataclass_fields__["crf"].default
    with timed() as cost, av.open(str(output), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, image in enumerate(images):
            image.pts = number
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return cost


def measure(anatomy: str, frames: int, root: Path) -> dict[str, float | None]:
    """Print the rows of an anatomy; returns what the bounds limit."""
    short_mb = 0.0
    for count in (frames, LONGER * frames):
        output = root / f"{anatomy}_{count}"
        cost, peak_mb = render(anatomy, count, output)
        encoding = encode_again(PhantomPaths(output).video, root / "encoded.mp4")
        short_mb = short_mb or peak_mb
        speed = encoding.cpu_s / cost.cpu_s
        print(
            f"{anatomy:<8} {count:>6} {cost.wall_s:>9.1f} {cost.cpu_s:>7.1f} {count / cost.wall_s:>9.1f} "
            f"{encoding.wall_s:>9.1f} {encoding.cpu_s:>7.1f} {speed:>6.3f} {peak_mb:>9.0f} {peak_mb / short_mb:>7.2f}",
            flush=True,
        )
    return {f"{anatomy}: speed": speed, f"{anatomy}: memory, long / short": peak_mb / short_mb}


def main() -> int:
    """Measure each anatomy; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", nargs="+", choices=ANATOMIES, default=ANATOMIES)
    parser.add_argument("--frames", type=int, default=60, help="length of the short video (default: %(default)d)")
    options = parser.parse_args()
    print_machine(f"{WIDTH}x{HEIGHT}", "start-up and scene included")
    print(
        f"{'anatomy':<8} {'frames':>6} {'render s':>9} {'CPU s':>7} {'frames/s':>9} {'encode s':>9} {'CPU s':>7} "
        f"{'speed':>6} {'peak MiB':>9} {'memory':>7}"
    )
    measured: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for anatomy in options.anatomies:
            measured |= measure(anatomy, options.frames, Path(folder))
    return bounds.check([each for anatomy in options.anatomies for each in bounds.RENDERING[anatomy]], measured)


if __name__ == "__main__":
    sys.exit(main())
