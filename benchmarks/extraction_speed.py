"""Speed and peak memory of extraction at 1080p30, on a short video and on a long one.

    python benchmarks/extraction_speed.py [VIDEO] [--minutes 5]

Without VIDEO, a phantom is rendered. The long video repeats the packets of the short one. The baseline of the speed is
decoding the same video without using its frames. The baseline of the memory is the short video. No frame is extracted
with --keep_all.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import bounds
from measurement import Cost, print_machine, run_command, timed

from data_prep.video.frame_source import open_source
from pipeline.data.phantom_files import PhantomPaths
from pipeline.paths import RunPaths


def repeat_packets(video: Path, output: Path, seconds: float) -> None:
    """Write a video of about `seconds` that repeats `video`, without encoding it again."""
    with av.open(str(video)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        stream = source.streams.video[0]
        length = max(packet.pts + packet.duration for packet in packets)
        with av.open(str(output), "w") as copy:
            target = copy.add_stream_from_template(stream)
            for repeat in range(max(1, round(seconds / float(length * stream.time_base)))):
                for packet in packets:
                    again = av.Packet(bytes(packet))
                    again.pts, again.dts = packet.pts + repeat * length, packet.dts + repeat * length
                    again.time_base, again.duration = packet.time_base, packet.duration
                    again.is_keyframe = packet.is_keyframe
                    again.stream = target
                    copy.mux(again)


def decode(video: Path) -> Cost:
    """Decode every frame of a video."""
    with timed() as cost:
        for _ in open_source(video, 30).frames():
            pass
    return cost


def extract(video: Path, output: Path) -> tuple[Cost, dict[str, Any]]:
    """Extract in a process of its own; returns the cost and the report."""
    with timed() as cost:
        run_command("data_prep/extract.py", video, "--output", output, is_quiet=True)
    return cost, json.loads(RunPaths(output).report("extract").read_text())


def measure(videos: dict[str, Path], root: Path) -> dict[str, float | None]:
    """Print a row for each video; returns what the bounds limit."""
    print(
        f"{'video':<6} {'frames':>7} {'decode s':>9} {'CPU s':>7} {'extract s':>10} {'CPU s':>7} {'speed':>6} "
        f"{'peak MiB':>9} {'memory':>7}  seconds of each part"
    )
    measured: dict[str, float | None] = {}
    first_mb = 0.0
    for name, video in videos.items():
        decoding = decode(video)
        cost, report = extract(video, root / name)
        peak_mb = report["peak_memory_mb"]
        first_mb = first_mb or peak_mb
        speed = measured[f"speed, {name} video"] = decoding.cpu_s / cost.cpu_s
        measured[f"peak memory, {name} video"] = peak_mb
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in report["times_s"].items())
        print(
            f"{name:<6} {report['counts']['frames_read']:>7} {decoding.wall_s:>9.1f} {decoding.cpu_s:>7.1f} "
            f"{cost.wall_s:>10.1f} {cost.cpu_s:>7.1f} {speed:>6.2f} {peak_mb:>9.0f} "
            f"{peak_mb / first_mb:>7.2f}  {parts}",
            flush=True,
        )
    measured["memory, long / short"] = peak_mb / first_mb
    return measured


def render_phantom(output: Path) -> Path:
    """Render 1.5 s of a sinus at 1080p30."""
    flags = "--anatomy sinus --frames 45 --size 1920 1080 --no_depth"
    run_command("data_prep/phantom.py", output, *flags.split(), is_quiet=True)
    return PhantomPaths(output).video


def main() -> int:
    """Measure both videos; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path, help="a 1080p video; by default a phantom is rendered")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the long video (default: %(default)g)")
    options = parser.parse_args()
    print_machine("1920x1080" if options.video is None else options.video.name, f"{options.minutes:g} minutes")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        short = options.video or render_phantom(root / "phantom")
        repeat_packets(short, root / "long.mp4", 60 * options.minutes)
        return bounds.check(bounds.EXTRACTION, measure({"short": short, "long": root / "long.mp4"}, root))


if __name__ == "__main__":
    sys.exit(main())
