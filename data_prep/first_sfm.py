"""The first SfM of each sequence of a video, for `reconstruct.py`: made where it is missing or out of date."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.bootstrap_video import bootstrap_video
from pipeline.command.config import setting_names, to_mapping
from pipeline.data.sequence import Sequence as SequenceFacts
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml
from pipeline.paths import BootstrapPaths, SequencePaths, TrainingPaths
from sfm.input_video import InputVideo
from sfm.mapping.config import MapConfig

logger = logging.getLogger(__name__)


def make_first_sfms(
    configs: Sequence[BootstrapConfig], *, are_own: bool, needs_model: bool
) -> dict[Path, list[str] | LumenError]:
    """Make sure that each sequence of a video has a camera, and training data where they are needed.

    Args:
        configs: the settings for each sequence.
        are_own: the run extracted the sequences, so a first SfM with other settings is made again. Otherwise the
            first SfM of the user is kept.
        needs_model: training data are needed, and not only a camera.

    Returns:
        For each sequence's folder, warnings for the report (how the settings of a first SfM that is kept differ), or
        why there is no first SfM although it is needed.
    """
    found: dict[Path, list[str] | LumenError] = {}
    wanted: list[BootstrapConfig] = []
    for settings in configs:
        folder = settings.sequence
        try:
            has_model = TrainingPaths(folder).motion.exists()
            reason = _reason_to_run(settings, has_model=has_model, is_own=are_own, needs_model=needs_model)
        except LumenError as error:
            found[folder] = error
            continue
        found[folder] = _differences(settings) if has_model and not are_own else []
        if reason is not None:
            logger.info("first SfM: %s", reason)
            wanted.append(settings)
        elif has_model:
            # Its camera is that of the video.
            wanted.append(replace(settings, overwrite=False))
    for video in _by_video(wanted):
        if any(each.overwrite for each in video):
            outcomes = bootstrap_video(video)
            found |= {folder: outcome for folder, outcome in outcomes.items() if isinstance(outcome, LumenError)}
    return found


def _by_video(configs: Sequence[BootstrapConfig]) -> list[list[BootstrapConfig]]:
    """The sequences of each video together: they were recorded by one camera."""
    groups: dict[str, list[BootstrapConfig]] = {}
    for config in configs:
        facts = SequenceFacts.load(SequencePaths(config.sequence).as_recorded.sequence)
        groups.setdefault(facts.source.sha256, []).append(config)
    return list(groups.values())


def _reason_to_run(settings: BootstrapConfig, *, has_model: bool, is_own: bool, needs_model: bool) -> str | None:
    """Why the first SfM of a sequence has to be made; None if it does not."""
    if has_model:
        return bootstrap.reason_to_run(settings) if is_own else None
    is_calibrated = InputVideo.read(settings.sequence, as_recorded=False).camera is not None
    return None if is_calibrated and not needs_model else "not run yet"


def _differences(wanted: BootstrapConfig) -> list[str]:
    """How the settings of a first SfM that is kept differ from those of this run."""
    path = BootstrapPaths.of(SequencePaths(wanted.sequence)).config
    made = read_yaml(path) if path.exists() else None
    if not isinstance(made, dict):
        return []
    settings = to_mapping(wanted)
    now = {name: settings[name] for name in ("points", "seed", *setting_names(MapConfig))}
    differing = [
        f"--{name} {made[name]} (now {value})" for name, value in now.items() if name in made and made[name] != value
    ]
    if not differing:
        return []
    return [
        f"the sequence's first SfM was made with {', '.join(differing)} and is kept: "
        "python data_prep/bootstrap.py SEQUENCE --overwrite makes it again"
    ]
