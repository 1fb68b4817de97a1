"""Flags of every command, with types and defaults. Scripts depend on them, so each change must be deliberate."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from data_prep.bootstrap import BootstrapConfig
from data_prep.calibrate import CalibrateConfig
from data_prep.convert import ConvertConfig
from data_prep.extract import ExtractConfig
from data_prep.phantom import PhantomConfig
from descriptor.clips.cache_root import default_cache_root
from descriptor.evaluation.sequences import TestConfig
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.frame_cache import FrameCacheConfig
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.keypoints.evaluation import KeypointConfig
from reconstruct import ReconstructConfig
from repository import ROOT
from sfm.evaluate import EvaluateConfig
from sfm.view import ViewConfig

RECORDED = Path(__file__).parent / "flags.json"
COMMANDS = {
    "bootstrap": BootstrapConfig,
    "calibrate": CalibrateConfig,
    "convert": ConvertConfig,
    "evaluate": EvaluateConfig,
    "extract": ExtractConfig,
    "frame_cache": FrameCacheConfig,
    "phantom": PhantomConfig,
    "reconstruct": ReconstructConfig,
    "test": TestConfig,
    "test hpatches": KeypointConfig,
    "train": TrainConfig,
    "train gift": GiftTrainConfig,
    "view": ViewConfig,
}


def type_name(hint: Any) -> str:
    """The name of a type without its bounds."""
    origin = get_origin(hint)
    if origin is Annotated:
        return type_name(get_args(hint)[0])
    if origin is Literal:
        return " ".join(map(str, get_args(hint)))
    if get_args(hint):
        joint = " or " if origin is Union or type(hint).__name__ == "UnionType" else " "
        return joint.join(type_name(each) for each in get_args(hint))
    return getattr(hint, "__name__", str(hint))


def flags_of(config_type: type) -> Iterator[tuple[str, list[str]]]:
    """Each flag of a command with its type and default, including the flags of nested configs."""
    hints = get_type_hints(config_type, include_extras=True)
    for each in fields(config_type):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        hint = hints[each.name]
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(inner, type) and is_dataclass(inner):
            yield from flags_of(inner)
        else:
            yield each.name, [type_name(hint), printed(default)]


def printed(default: Any) -> str:
    if default is MISSING:
        return "required"
    if isinstance(default, Path):
        if default == default_cache_root():
            return "the user's cache"
        return str(default.relative_to(ROOT)) if default.is_relative_to(ROOT) else str(default)
    return str(default)


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_and_defaults_are_those_on_record(command: str) -> None:
    assert dict(flags_of(COMMANDS[command])) == json.loads(RECORDED.read_text())[command]
