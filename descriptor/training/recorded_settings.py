"""Settings recorded in outputs: without names of patients, people or machines, unless the user requests them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pipeline.command.config import to_mapping
from pipeline.outputs.files import write_yaml


def recorded(config: Any) -> dict[str, Any]:
    """The settings of a config as builtin types, for checkpoints and other outputs.

    Args:
        config: a dataclass; unless its field `record_path` is set, the fields of `private_names` are omitted.
    """
    private = () if config.record_path else private_names(type(config))
    return {name: value for name, value in to_mapping(config).items() if name not in private}


def private_names(config_type: type) -> set[str]:
    """The fields that hold paths, and the fields listed as `PRIVATE` by the class."""
    hints = get_type_hints(config_type)
    return {name for name, hint in hints.items() if _holds_path(hint)} | set(getattr(config_type, "PRIVATE", ()))


def save_recorded(config: Any, path: Path) -> None:
    """Write the recorded settings as YAML, with a comment that lists the omitted ones.

    Raises:
        LumenError: if the file cannot be written.
    """
    settings = recorded(config)
    left_out = [name for name, value in to_mapping(config).items() if name not in settings and value]
    comment = f"Not recorded: {', '.join(left_out)}. Give them again to use this with --config." if left_out else None
    write_yaml(path, settings, comment)


def numbered(names: Sequence[str]) -> list[str]:
    """Unique names: repeated names get a number, as in gift, gift_2."""
    earlier = [list(names[:place]).count(name) for place, name in enumerate(names)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def _holds_path(hint: Any) -> bool:
    return hint is Path or any(_holds_path(each) for each in get_args(hint))
