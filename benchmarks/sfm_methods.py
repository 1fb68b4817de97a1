"""COLMAP with its defaults and our first SfM, each in a process of its own."""

import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pycolmap
from measurement import timed

from data_prep.bootstrap import BootstrapConfig, run
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml
from pipeline.paths import BootstrapPaths, SequencePaths, TrainingPaths
from pipeline.report import peak_memory_mb
from sfm.input_video import InputVideo

COLMAP = "COLMAP"


@dataclass(frozen=True)
class Attempt:
    """The result of a method.

    Attributes:
        method: its name.
        models: COLMAP models, the largest first.
        focal_px: the focal length.
        seconds, cpu_s: wall and CPU seconds.
        peak_mb: peak memory, MiB.
        failure: why there is no model; empty if there is one.
    """

    method: str
    models: tuple[Path, ...] = ()
    focal_px: float = float("nan")
    seconds: float = float("nan")
    cpu_s: float = float("nan")
    peak_mb: float = float("nan")
    failure: str = ""


def run_alone(method: str, sequence: Path, work: Path) -> Attempt:
    """Run a method in a new process, so that its time and peak memory are its own. Its files go to `work`."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(attempt, method, sequence, work).result()
    except BrokenProcessPool:
        return Attempt(method, failure="the process crashed or was killed")


def attempt(method: str, sequence: Path, work: Path) -> Attempt:
    """Run a method in this process; its log and files go to `work`."""
    work.mkdir(parents=True)
    with (work / "log.txt").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    copy = work / "sequence"
    if method != COLMAP:
        shutil.copytree(sequence, copy, ignore=shutil.ignore_patterns("colmap"), copy_function=link)
    with timed() as cost:
        try:
            result = run_colmap(sequence, work) if method == COLMAP else run_ours(copy, method)
        except LumenError as error:
            result = Attempt(method, failure=str(error))
    return replace(result, seconds=cost.wall_s, cpu_s=cost.cpu_s, peak_mb=peak_memory_mb())


def link(source: str, target: str) -> None:
    """Link a file, or copy it if the target is on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def run_ours(sequence: Path, method: Any) -> Attempt:
    """Run our first SfM on a copy of a sequence; it changes the copy."""
    run(BootstrapConfig(sequence, method=method))
    paths = SequencePaths(sequence)
    counts = read_yaml(BootstrapPaths.of(paths).report)["counts"]
    models = tuple(TrainingPaths(sequence, number=number).model for number in range(len(counts["models"])))
    width, height = InputVideo.read(sequence).size
    camera = pycolmap.Camera(**counts["camera"], width=width, height=height)
    return Attempt(method, models, camera.mean_focal_length())


def run_colmap(sequence: Path, work: Path) -> Attempt:
    """Run COLMAP with its defaults, except that known intrinsics are fixed."""
    video = InputVideo.read(sequence)
    reader, options = pycolmap.ImageReaderOptions(), pycolmap.IncrementalPipelineOptions()
    if video.source.frame_masks.exists():
        reader.mask_path = video.source.frame_masks
    if video.camera is not None:
        reader.camera_model = video.camera.model_name
        reader.camera_params = ",".join(repr(float(value)) for value in video.camera.params)
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    database, images, models = work / "colmap.db", video.source.images, work / "models"
    models.mkdir()
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
    pycolmap.match_sequential(database)
    models_found = pycolmap.incremental_mapping(database, images, models, options)
    if not models_found:
        raise LumenError("no model")
    order = sorted(models_found, key=lambda number: models_found[number].num_reg_images(), reverse=True)
    camera = next(iter(models_found[order[0]].cameras.values()))
    return Attempt(COLMAP, tuple(models / str(number) for number in order), camera.mean_focal_length())
