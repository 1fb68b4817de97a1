"""The settings that outputs record: none that may name a patient, a person or a machine, unless the user wants them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pipeline.command.config import to_mapping
from pipeline.outputs.files import write_yaml


def recorded(config: Any) -> dict[str, Any]:
    """The settings of a config as builtin types, for checkpoints and the like.

    Args:
        config: a dataclass; without its field `record_path`, the fields that `private_names` gives are left out.
    """
    private = () if config.record_path else private_names(type(config))
    return {name: value for name, value in to_mapping(config).items() if name not in private}


def private_names(config_type: type) -> set[str]:
    """The fields that hold paths, and those that the class lists as `PRIVATE`."""
    hints = get_type_hints(config_type)
    return {name for name, hint in hints.items() if _holds_path(hint)} | set(getattr(config_type, "PRIVATE", ()))


def save_recorded(config: Any, path: Path) -> None:
    """Write the recorded settings as YAML, with a comment that lists those that were given and left out.

    Raises:
        LumenError: if it cannot be written.
    """
    settings = recorded(config)
    left_out = [name for name, value in to_mapping(config).items() if name not in settings and value]
    comment = f"Not recorded: {', '.join(left_out)}. To use this with --config, give them again." if left_out else None
    write_yaml(path, settings, comment)


def numbered(names: Sequence[str]) -> list[str]:
    """Names that differ: those that come again get a number, as in gift, gift_2."""
    earlier = [list(names[:place]).count(name) for place, name in enumerate(names)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def _holds_path(hint: Any) -> bool:
    return hint is Path or any(_holds_path(each) for each in get_args(hint))
