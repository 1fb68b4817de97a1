"""The video of a phantom in which the camera stops several times and only rotates."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pycolmap

from data_prep import phantom
from data_prep.phantom import PhantomConfig, build_phantom
from data_prep.simulation.motion import Timeline
from data_prep.simulation.truth import frame_truths, write_truth
from pipeline.data.phantom_files import PhantomPaths

_AXIS = np.array([0.5, 0.8, 0.15])


def render_turning_phantom(
    config: PhantomConfig, moving: Sequence[int], turning: int, *, turned_rad: float = 0.6
) -> PhantomPaths:
    """Render a video in which the camera stops several times to rotate to either side and back.

    Args:
        config: settings of the phantom; `moving` replaces its number of frames.
        moving: number of frames of each part in which the camera moves.
        turning: number of frames of each stop.
        turned_rad: the largest rotation to either side.
    """
    flight = build_phantom(replace(config, frames=sum(moving)))
    shown = flight.truth.cam_from_world
    source, angles = [np.zeros(0, np.int64)], [np.zeros(0)]
    for part in np.split(np.arange(len(shown)), np.cumsum(moving)[:-1]):
        source += [part, np.repeat(part[-1:], turning)]
        turn = turned_rad * np.sin(2 * np.pi * np.arange(1, turning + 1) / (turning + 1))
        angles += [np.zeros(len(part)), turn]
    rows, turned = (np.concatenate(parts)[: len(shown) + turning * (len(moving) - 1)] for parts in (source, angles))
    poses = np.array(
        [pycolmap.Rotation3d(angle * _AXIS).matrix() @ shown[row] for row, angle in zip(rows, turned, strict=True)]
    )
    frames = frame_truths(
        Timeline(np.zeros(len(rows), np.int64), np.arange(len(rows)), np.zeros(len(rows), np.bool_)),
        np.arange(len(rows)) / config.fps,
        np.array([flight.truth.frames[row].exposure_gain for row in rows]),
    )
    settings = flight.truth.config | {"frames": len(rows)}
    truth = replace(flight.truth, cam_from_world=poses, frames=frames, config=settings)
    paths = PhantomPaths(config.output)
    paths.root.mkdir(parents=True)
    write_truth(paths, truth)
    phantom._write_frames(replace(flight, config=replace(flight.config, frames=len(rows)), truth=truth), paths)
    return paths
