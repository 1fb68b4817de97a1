"""Extract sequences from a video: usable frames, content area, timestamps and calibration."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import math
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import tyro

from data_prep.calibration.files import read_calibration
from data_prep.calibration.undistort import plan_undistortion
from data_prep.selection.contact_sheet import draw_contact_sheet
from data_prep.selection.frame_choice import ChoiceRules, choose_frames
from data_prep.selection.plan import (
    ExtractionPlan,
    describe_calibration,
    describe_extraction,
    describe_source,
    summary_lines,
    why_nothing_is_kept,
)
from data_prep.selection.survey import Survey, survey_video
from data_prep.selection.writer import FrameFormat, write_frames, write_sequence
from data_prep.video.frame_source import open_source, source_name, source_places
from data_prep.video.image_order import NumberMeaning
from data_prep.video.source_frame import FrameSource
from pipeline.command.bounds import Count, NonNegative, NonNegativeInt, Positive, Settings, Share
from pipeline.command.config import Flat, save_config, to_mapping
from pipeline.command.run_command import run_command
from pipeline.data.images import write_image
from pipeline.data.sequence import Calibration, Sequence
from pipeline.errors import LumenError, require
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.folders import WorkFolder, work_folder
from pipeline.outputs.owned_files import remove_own
from pipeline.paths import RunPaths
from pipeline.report import StageReport

if TYPE_CHECKING:
    import pycolmap

FORMAT_VERSION = 2
_MARGIN_SHARE = 0.004

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameConfig(Settings):
    """Which frames of the input are used, and how they are read."""

    calibration: Path | None = None
    """Camera calibration (OpenCV, ROS, COLMAP cameras.txt, eight OPENCV_FISHEYE numbers) to undistort frames with."""
    stride: Count = 1
    """Take one frame of every STRIDE; where that one is bad, the sharpest of the STRIDE."""
    split_at_cuts: bool = True
    """Make a sequence of each stretch between hard cuts; --no_split_at_cuts makes one of all frames."""
    keep_all: bool = False
    """Keep every sampled frame whatever its quality; its flaws are recorded as flags."""
    min_segment_frames: int = 5
    """Leave out stretches between cuts that have fewer usable frames."""
    image_fps: Positive = 30.0
    """Frames per second of images whose names hold no times."""
    image_kind: str | None = None
    """Kind of images to use in a folder or glob that holds several: a word that differs in their names, such as color
    or left. By default the one that shows frames, if that is clear."""
    image_numbers: NumberMeaning = "auto"
    """Meaning of the numbers in image names: frame numbers, or times in seconds, milliseconds, microseconds or
    nanoseconds. By default it is recognised and logged."""
    record_path: bool = False
    """Write the path of the video to sequence.yaml and that of the calibration to extract.yaml: they may name a
    patient."""


@dataclass(frozen=True)
class ExtractConfig(Settings):
    """Turn an endoscopic video into clean sequences of frames, one for each stretch without a cut."""

    video: tyro.conf.Positional[Path]
    """Video file, folder of images, or quoted glob such as "frames/*.png"."""
    output: Path | None = None
    """Folder for the sequences; by default sequences/NAME OF THE VIDEO. No file in it contains that name."""
    overwrite: bool = False
    """Replace the output folder if an extraction made it."""
    frames: Flat[FrameConfig] = field(default_factory=FrameConfig)
    start: NonNegative = 0.0
    """Skip what is shown before this time, seconds from the first frame."""
    end: float | None = None
    """Stop at this time, seconds from the first frame."""
    fps: Positive | None = None
    """Take this many frames per second instead of one of every STRIDE, by their true timestamps."""
    max_frames: Count | None = None
    """Thin the chosen frames evenly to at most this many."""
    min_sharpness: Share = 0.45
    """A frame is blurred below this share of the median sharpness of its neighbours."""
    min_motion_px: NonNegative = 0.2
    """A frame that moved less than this since the last kept one is left out, pixels of the video. Frames less than
    1/30 s apart have to move by 0.25 % of the diagonal; 0 keeps them all."""
    needs_calibration: bool = False
    """Stop if no calibration is given; in saved settings of a calibrated run that may not say where it is."""
    max_fov_deg: Annotated[float, msgspec.Meta(gt=0, le=178)] = 150.0
    """Content seen at a wider angle than this is cut off when undistorting, degrees."""
    mask_margin_px: NonNegativeInt | None = None
    """Erode the content area by this many pixels of the video; by default 0.4 % of the shorter side."""
    jpeg_quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 95
    """Quality of the written frames, 1 to 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.fps is None or self.frames.stride == 1, "--stride and --fps exclude each other: choose one")
        require(self.end is None or self.end > self.start, f"--end {self.end}: choose a time after --start")
        require(
            self.frames.calibration is not None or not self.needs_calibration,
            "these settings come from a calibrated run and do not name the calibration: give it with "
            "--calibration, or pass --no_needs_calibration to go without one",
        )

    @property
    def rules(self) -> ChoiceRules:
        """The settings for frame selection."""
        return ChoiceRules(
            stride=self.frames.stride,
            fps=self.fps,
            max_frames=self.max_frames,
            keep_all=self.frames.keep_all,
            min_sharpness=self.min_sharpness,
            min_motion_px=self.min_motion_px,
            min_segment_frames=self.frames.min_segment_frames,
            split_at_cuts=self.frames.split_at_cuts,
        )


def run(config: ExtractConfig) -> list[Path]:
    """Write a folder with one sequence per segment, the contact sheet, the survey, the manifest and the report.

    All files are written to a hidden folder beside the output, which is moved into place at the end. A killed run
    resumes from that folder.

    Returns:
        The folders of the sequences, in order, and the contact sheet.

    Raises:
        LumenError: if there is nothing to extract, or something cannot be read or written.
    """
    report = StageReport("extract")
    source = open_source(config.video, config.frames.image_fps, config.frames.image_kind, config.frames.image_numbers)
    camera = None
    if config.frames.calibration is not None:
        camera = read_calibration(config.frames.calibration, (source.info.width, source.info.height))
    output = config.output or Path("sequences") / source_name(config.video)
    if not config.overwrite:
        _refuse_another_video(output, source)
    inputs = (*source_places(config.video), config.frames.calibration)
    with work_folder(output, "extract.py", inputs=inputs, overwrite=config.overwrite) as work:
        paths = RunPaths(work.path)
        with report.timed("fingerprint"):
            sha256 = source.fingerprint()
        try:
            manifest = _resume_or_clear(config, sha256, work)
            with report.timed("survey"):
                survey = _survey(config, source, sha256, manifest, paths)
            plan = _plan(config, survey, camera)
        except LumenError:
            work.discard()
            raise
        _start_writing(config, sha256, manifest, paths)
        describe_extraction(source.info, survey, plan, report)
        with report.timed("write"):
            names = _write(config, source, survey, plan, sha256, paths, report)
        report.save(paths.report("extract"))
        work.publish()
    return [*(output / name for name in names), RunPaths(output).contact_sheet]


def _refuse_another_video(output: Path, source: FrameSource) -> None:
    """Refuse an output of another video; `work_folder` would only suggest --overwrite."""
    sequences = RunPaths(output).sequences() if RunPaths(output).report("extract").exists() else []
    if not sequences:
        return
    try:
        there = Sequence.load(sequences[0].sequence).source
    except LumenError:
        # The sequence is unreadable, so its video is unknown; `work_folder` reports the conflict.
        return
    if there.sha256 != source.fingerprint():
        named = f" ({there.path})" if there.path else ""
        raise LumenError(
            f"{output} holds the sequences of another video{named}: choose another folder with --output, or pass "
            "--overwrite to replace them"
        )


def _survey_stage(config: ExtractConfig, sha256: str) -> Stage:
    """What the survey depends on."""
    every = to_mapping(config)
    settings = {name: every[name] for name in ("start", "end", "mask_margin_px", "image_fps", "image_numbers")}
    return Stage("survey", settings, {"video": sha256}, format_version=FORMAT_VERSION)


def _frames_stage(config: ExtractConfig, sha256: str) -> Stage:
    """The stage of the written frames, with everything that they depend on."""
    inputs = {"video": sha256}
    if config.frames.calibration is not None:
        inputs["calibration"] = fingerprint_path(config.frames.calibration)
    return Stage("frames", _settings(config), inputs, after=("survey",), format_version=FORMAT_VERSION)


def _settings(config: ExtractConfig) -> dict[str, Any]:
    """The settings that may be recorded: no paths, because a path may identify a patient."""
    hidden = ("video", "output", "overwrite", "calibration", "needs_calibration")
    return {name: value for name, value in to_mapping(config).items() if name not in hidden}


def _save_settings(config: ExtractConfig, path: Path) -> None:
    """Save the settings for `--config`: the path of the calibration, or that a calibration is required."""
    settings = _settings(config)
    if config.frames.calibration is not None and config.frames.record_path:
        settings["calibration"] = str(config.frames.calibration.resolve())
    elif config.frames.calibration is not None:
        settings["needs_calibration"] = True
    save_config(settings, path)


def _resume_or_clear(config: ExtractConfig, sha256: str, work: WorkFolder) -> Manifest:
    """The manifest of an interrupted run with the same survey, or a new manifest in an empty folder."""
    path = RunPaths(work.path).manifest
    # An unreadable manifest is from another version; nothing in it can be reused.
    with suppress(LumenError):
        manifest = Manifest.load(path)
        if manifest.reason_to_run(_survey_stage(config, sha256)) is None:
            logger.info("resuming an interrupted run")
            return manifest
    work.clear()
    return Manifest.load(path)


def _survey(config: ExtractConfig, source: FrameSource, sha256: str, manifest: Manifest, paths: RunPaths) -> Survey:
    stage = _survey_stage(config, sha256)
    if manifest.reason_to_run(stage) is None:
        return Survey.load(paths.survey, paths.content_area)
    margin_px = config.mask_margin_px
    if margin_px is None:
        margin_px = round(_MARGIN_SHARE * min(source.info.width, source.info.height))
    survey = survey_video(source, config.start, math.inf if config.end is None else config.end, margin_px)
    survey.save(paths.survey, paths.content_area)
    manifest.complete(stage, [paths.survey, paths.content_area])
    return survey


def _start_writing(config: ExtractConfig, sha256: str, manifest: Manifest, paths: RunPaths) -> None:
    """Keep existing frames only if they were written with these settings."""
    stage = _frames_stage(config, sha256)
    is_current = manifest.reason_to_run(stage) is None
    if not is_current:
        remove_own(*paths.segments())
    # Saved even if the frames are current: the calibration file may have moved.
    _save_settings(config, paths.config("extract"))
    if not is_current:
        manifest.complete(stage, [paths.config("extract")])


def _plan(config: ExtractConfig, survey: Survey, camera: "pycolmap.Camera | None") -> ExtractionPlan:
    segments = choose_frames(survey.qualities, config.rules, math.hypot(*survey.mask.shape))
    if not any(segment.kept for segment in segments):
        raise LumenError(f"{config.video}: {why_nothing_is_kept(segments, config.frames.min_segment_frames)}")
    if camera is None:
        return ExtractionPlan(segments, survey.mask, None, Calibration("uncalibrated"))
    undistortion = plan_undistortion(camera, survey.mask, config.max_fov_deg)
    file = config.frames.calibration if config.frames.record_path else None
    calibration = describe_calibration(file, camera, undistortion)
    return ExtractionPlan(segments, undistortion.mask(survey.mask), undistortion, calibration)


def _write(
    config: ExtractConfig,
    source: FrameSource,
    survey: Survey,
    plan: ExtractionPlan,
    sha256: str,
    paths: RunPaths,
    report: StageReport,
) -> list[str]:
    """Write the sequences and the contact sheet; return the sequences' names."""
    stride = config.frames.stride if config.fps is None else max(1, round(source.info.fps / config.fps))
    sequences = [paths.sequence(name) for name in plan.sequence_names(stride)]
    targets = {frame.index: path for path, segment in zip(sequences, plan.kept, strict=True) for frame in segment.kept}
    frame_format = FrameFormat(plan.mask, plan.undistortion, config.jpeg_quality)
    tiles = write_frames(source, targets, plan.tiles(), frame_format)
    facts = describe_source(source.info, survey, sha256, with_path=config.frames.record_path)
    for path, segment in zip(sequences, plan.kept, strict=True):
        write_sequence(path, segment, plan, facts, survey.margin_px, to_mapping(config.rules))
    sheet = draw_contact_sheet(tiles, summary_lines(report))
    write_image(paths.contact_sheet, sheet)
    return [path.root.name for path in sequences]


if __name__ == "__main__":
    sys.exit(run_command(ExtractConfig, run))
