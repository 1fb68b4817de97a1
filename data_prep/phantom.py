"""Render endoscopic video of procedural anatomy with exact ground truth."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import av
import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import tyro
from av.video.reformatter import ColorRange, Colorspace

from data_prep.simulation.anatomy import ANATOMIES
from data_prep.simulation.endoscope import ContentArea, ContentShape, make_camera
from data_prep.simulation.motion import Flight, Timeline, frames_needed, plan_timeline
from data_prep.simulation.mucosa import TISSUES, paint
from data_prep.simulation.renderer import Renderer
from data_prep.simulation.scene import SurfaceScene
from data_prep.simulation.surface import join
from data_prep.simulation.truth import PhantomTruth, frame_truths, write_truth
from data_prep.simulation.video_camera import VideoCamera, exposure_gains
from pipeline.arrays import Bytes, Float32s, Float64s
from pipeline.command.bounds import Count, NonNegative, NonNegativeInt, Settings
from pipeline.command.config import to_mapping
from pipeline.command.run_command import run_command
from pipeline.data.images import write_image
from pipeline.data.phantom_files import DEPTH_UNIT_MM, PhantomPaths
from pipeline.errors import explain_os_errors, require
from pipeline.outputs.file_names import ffmpeg_url
from pipeline.outputs.folders import work_folder
from pipeline.outputs.owned_files import own
from pipeline.progress import progress
from pipeline.report import StageReport

logger = logging.getLogger(__name__)

Rendered = tuple[Bytes, Float32s]
_Side = Annotated[int, msgspec.Meta(ge=64, le=4096)]

_FRAMES_AT_ONCE = 2
_METER_SIZE = (40, 32)
_REFERENCE_HEIGHT_PX = 512


@dataclass(frozen=True)
class PhantomConfig(Settings):
    """Render a video of procedural anatomy with ground-truth poses, depth and correspondences."""

    output: tyro.conf.Positional[Path]
    """Output folder for video.mp4 and its ground truth, new or empty."""
    anatomy: Literal["colon", "sinus"] = "colon"
    """Anatomy to render."""
    frames: Count = 120
    """Number of frames in the video."""
    seed: NonNegativeInt = 0
    """Random seed for anatomy, camera path and noise."""
    size: tuple[_Side, _Side] = (640, 512)
    """Width and height of the video, px, even."""
    fisheye: bool = False
    """Use a wide OPENCV_FISHEYE lens (125 degrees) instead of PINHOLE (85 degrees)."""
    fps: Annotated[float, msgspec.Meta(ge=1, le=240)] = 30.0
    """Frames per second; the camera moves at about 10 mm/s at any frame rate."""
    content_area: ContentShape = "round"
    """Shape of the content area in the black border."""
    overlay_text: bool = False
    """Burn fictitious patient data into the black border."""
    black_s: NonNegative = 0.0
    """Seconds of black frames at the start."""
    cuts: NonNegativeInt = 0
    """Number of hard cuts; at each the camera jumps to another place."""
    duplicates: NonNegativeInt = 0
    """Number of frames that repeat the previous frame exactly."""
    crf: Annotated[int, msgspec.Meta(ge=0, le=51)] = 19
    """H.264 quality, 0 (lossless) to 51."""
    depth: bool = True
    """Write a depth map for every frame."""
    overwrite: bool = False
    """Replace the output folder if it holds a phantom."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width, height = self.size
        require(bool(self.output.resolve().name), f"{self.output} cannot be an output folder: name a folder")
        require(width % 2 == height % 2 == 0, f"--size {width} {height}: choose even numbers")
        needed = self.black_frames + frames_needed(self.cuts, self.duplicates)
        require(
            self.frames >= needed,
            f"--frames {self.frames}: these black frames, cuts and duplicates need at least {needed}",
        )
        require(
            not (self.overlay_text and self.content_area == "full"),
            "--overlay_text needs a black border: choose another --content_area than full",
        )

    @property
    def rate(self) -> Fraction:
        """Frames per second as a fraction: 29.97 is 30000/1001."""
        ntsc = Fraction(round(self.fps) * 1000, 1001)
        return ntsc if abs(float(ntsc) - self.fps) < 5e-4 else Fraction(self.fps).limit_denominator(1000)

    @property
    def black_frames(self) -> int:
        """Number of frames that start before `black_s`."""
        return int(np.ceil(self.black_s * self.rate - Fraction(1, 10**6)))


@dataclass(frozen=True)
class Phantom:
    """A scene with its camera path and ground truth; renders frames deterministically in any order."""

    config: PhantomConfig
    truth: PhantomTruth
    renderer: Renderer
    video_camera: VideoCamera

    def frame(self, index: int) -> Rendered:
        """Render a frame.

        Returns:
            The image (H, W, 3) BGR uint8, and the depth (H, W) float32, mm along the optical axis, 0 = none.
        """
        facts = self.truth.frames[index]
        if facts.is_black:
            return self.video_camera.black(), np.zeros((self.config.size[1], self.config.size[0]), dtype=np.float32)
        light = self.renderer.render(self.truth.cam_from_world[facts.content_index])
        noise = np.random.default_rng([self.config.seed, 7, facts.content_index])
        return self.video_camera.expose(light.radiance, facts.exposure_gain, noise), light.depth_mm


def build_phantom(config: PhantomConfig) -> Phantom:
    """Build anatomy, tissue, camera path and exposure from a config; nothing is written."""
    anatomy = ANATOMIES[config.anatomy](_random(config, 1))
    mesh = join(anatomy.surfaces)
    scene = SurfaceScene(mesh)
    tissue = TISSUES[config.anatomy]
    atlas = paint(anatomy.surfaces, tissue, _random(config, 2), _detail(config))
    content = ContentArea(config.content_area, *config.size)
    camera = make_camera(content, config.fisheye)
    timeline = plan_timeline(config.frames, config.black_frames, config.cuts, config.duplicates, _random(config, 3))
    timestamps_s = np.array([float(index / config.rate) for index in range(config.frames)])
    flight = Flight(anatomy, scene, _random(config, 4))
    poses = flight.poses(timestamps_s, timeline.segment)[timeline.content_index]
    meter_area = ContentArea(config.content_area, *_METER_SIZE)
    meter = Renderer(scene, atlas, tissue.wetness, make_camera(meter_area, config.fisheye), meter_area)
    gains = _exposure(meter, poses, timestamps_s, timeline, _random(config, 5))
    truth = PhantomTruth(
        config={name: value for name, value in to_mapping(config).items() if name not in ("output", "overwrite")},
        camera=camera,
        content=content,
        frames=frame_truths(timeline, timestamps_s, gains),
        cam_from_world=poses,
        mesh=mesh,
        scene=scene,
    )
    renderer = Renderer(scene, atlas, tissue.wetness, camera, content)
    return Phantom(config, truth, renderer, VideoCamera(content, config.overlay_text))


def run(config: PhantomConfig) -> list[Path]:
    """Render the video and write it with its ground truth; a failed run leaves no output.

    Raises:
        LumenError: if the output exists and may not be replaced, or cannot be written.
    """
    report = StageReport("phantom")
    with work_folder(config.output, "phantom.py", overwrite=config.overwrite) as work:
        work.clear()
        try:
            _make(config, PhantomPaths(work.path), report)
            work.publish()
        except BaseException:
            work.discard()
            raise
    written = PhantomPaths(config.output)
    return [written.video, written.truth]


def _make(config: PhantomConfig, paths: PhantomPaths, report: StageReport) -> None:
    with report.timed("build"):
        phantom = build_phantom(config)
    write_truth(paths, phantom.truth)
    with report.timed("render"), explain_os_errors("write", config.output):
        _write_frames(phantom, paths)
    report.counts = _counts(phantom)
    report.save(paths.report)


def _write_frames(phantom: Phantom, paths: PhantomPaths) -> None:
    config = phantom.config
    own(paths.video)
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(ffmpeg_url(paths.video), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=config.rate, options={"crf": str(config.crf)})
        stream.width, stream.height = config.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU601, ColorRange.MPEG
        stream.codec_context.time_base = 1 / config.rate
        for index, (image, depth_mm) in enumerate(progress(_rendered(phantom), "rendering", total=config.frames)):
            frame = _encodable(image)
            frame.pts, frame.time_base = index, 1 / config.rate
            container.mux(stream.encode(frame))
            if config.depth:
                _write_depth(paths.depth(index), depth_mm)
        container.mux(stream.encode(None))


def _rendered(phantom: Phantom) -> Iterator[Rendered]:
    """All frames in order, two at a time: ray casting uses all cores, shading uses one."""
    with ThreadPoolExecutor(_FRAMES_AT_ONCE) as pool:
        waiting: deque[Future[Rendered]] = deque()
        for index in range(phantom.config.frames):
            waiting.append(pool.submit(phantom.frame, index))
            if len(waiting) > _FRAMES_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encodable(image: Bytes) -> av.VideoFrame:
    # PyAV's own conversion lowers every channel by about two levels.
    return av.VideoFrame.from_ndarray(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8), "yuv420p")


def _write_depth(path: Path, depth_mm: Float32s) -> None:
    steps = np.clip(np.round(depth_mm / DEPTH_UNIT_MM), 0, 65535).astype(np.uint16)
    write_image(path, steps, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _exposure(
    meter: Renderer, poses: npt.NDArray, timestamps_s: npt.NDArray, timeline: Timeline, rng: np.random.Generator
) -> Float64s:
    """Gains (N,); a duplicate has the gain of the frame it repeats."""
    brightness = np.empty(len(poses))
    for index, pose in enumerate(poses):
        light = meter.render(pose)
        brightness[index] = np.minimum(light.radiance[light.depth_mm > 0], 3.0).mean()
    change_at_s = timestamps_s[-1] * rng.uniform(0.55, 0.65)
    change = float(rng.choice([0.6, 1.6]))
    return exposure_gains(brightness, timestamps_s, change_at_s, change)[timeline.content_index]


def _counts(phantom: Phantom) -> dict[str, int]:
    frames = phantom.truth.frames
    return {
        "frames": len(frames),
        "black": sum(frame.is_black for frame in frames),
        "duplicates": sum(frame.is_duplicate for frame in frames),
        "segments": frames[-1].segment + 1,
        "triangles": len(phantom.truth.mesh.triangles),
    }


def _random(config: PhantomConfig, purpose: int) -> np.random.Generator:
    """A separate random stream per purpose, so that a change to one leaves the others unchanged."""
    return np.random.default_rng([config.seed, purpose])


def _detail(config: PhantomConfig) -> float:
    """Texel size factor for images smaller than the reference."""
    return max(1.0, _REFERENCE_HEIGHT_PX / min(config.size))


if __name__ == "__main__":
    sys.exit(run_command(PhantomConfig, run))
