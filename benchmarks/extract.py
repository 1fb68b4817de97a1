"""Frames a second and peak memory of the extraction at 1080p30, for a short video and one many times longer.

Run with `python benchmarks/extract.py [VIDEO] [--minutes 5]`. Without a video of your own a phantom is rendered; the
long one repeats its packets. Under 15 frames a second on 2 cores, or memory that grows with the length, is a
regression.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av

from data_prep.video.frame_source import open_source
from pipeline.data.phantom_files import PhantomPaths
from pipeline.paths import RunPaths


def repeat_packets(video: Path, output: Path, seconds: float) -> None:
    """Write a video of `seconds` that shows `video` over and over, without encoding anything anew."""
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


def decode_only(video: Path) -> float:
    """Frames a second of reading the video once and doing nothing with it: what bounds any extraction."""
    started = time.perf_counter()
    count = sum(1 for _ in open_source(video, 30).frames())
    return count / (time.perf_counter() - started)


def measure(video: Path, output: Path) -> tuple[int, float, float, dict[str, float]]:
    """Extract in a process of its own: frames read, frames a second, peak memory in MiB, seconds of each part."""
    command = [sys.executable, "-m", "data_prep.extract", str(video), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    report = json.loads(RunPaths(output).report("extract").read_text())
    frames = report["counts"]["frames_read"]
    return frames, frames / report["total_s"], report["peak_memory_mb"], report["times_s"]


def main() -> None:
    """Print the table; the ratios are to reading the video once, and to the memory of the short one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", nargs="?", type=Path, help="a 1080p video; by default a phantom")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the long video")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'frames':>7} {'decode fps':>11} {'extract fps':>12} {'ratio':>6} {'peak MiB':>9} {'ratio':>6}  parts, s")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        short = arguments.video or render_phantom(root / "phantom")
        long = root / "long.mp4"
        repeat_packets(short, long, 60 * arguments.minutes)
        first_mb = 0.0
        for name, video in (("short", short), ("long", long)):
            decode_fps = decode_only(video)
            frames, fps, memory_mb, times_s = measure(video, root / name)
            first_mb = first_mb or memory_mb
            parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in times_s.items())
            print(
                f"{frames:>7} {decode_fps:>11.1f} {fps:>12.1f} {fps / decode_fps:>6.2f} "
                f"{memory_mb:>9.0f} {memory_mb / first_mb:>6.2f}  {parts}",
                flush=True,
            )


def render_phantom(output: Path) -> Path:
    """A second and a half of sinus at 1080p30."""
    flags = "--anatomy sinus --frames 45 --size 1920 1080 --no_depth"
    command = [sys.executable, "-m", "data_prep.phantom", str(output), *flags.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return PhantomPaths(output).video


if __name__ == "__main__":
    main()
