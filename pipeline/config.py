"""One dataclass a stage is its config, its YAML preset and its command line.

tyro makes the command line from the dataclass, because it takes flags the way this field types them
(`--adjacent_range 1 50`, bare `--keep_all`), shows a field's docstring as its help and names the nearest flag for
an unknown one; jsonargparse wants `--adjacent_range "[1, 50]"` and `--keep_all true`. msgspec, which is
strict about types and says where one is wrong, checks the values of a YAML file against the same dataclass.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec
import tyro

from pipeline.errors import LumenError
from pipeline.files import read_yaml, write_yaml

Config = TypeVar("Config")


def parse_command_line(config_type: type[Config], arguments: Sequence[str], program: str) -> Config:
    """Make a config from the dataclass's defaults, then `--config FILE.yaml`, then the flags.

    Raises:
        LumenError: if the YAML file is missing, has an unknown key or a value of the wrong type.
        SystemExit: with status 2 and the usage if a flag is wrong, with 0 after `--help`.
    """
    preset, flags = _split_off_preset(list(arguments))
    # tyro takes None as "no default", though its type says otherwise.
    default: Config = load_config(config_type, preset, allow_missing=True) if preset else None  # type: ignore[assignment]
    description = f"{config_type.__doc__}\n\n--config FILE.yaml sets any of these by name; flags override it."
    return tyro.cli(
        config_type, prog=program, args=flags, default=default, description=description, use_underscores=True
    )


def load_config(config_type: type[Config], path: Path, *, allow_missing: bool = False) -> Config:
    """Read a YAML file into a config dataclass.

    Args:
        config_type: a dataclass; fields may be dataclasses again.
        path: the YAML file, a mapping from field names to values.
        allow_missing: leave required fields that the file lacks for the command line to fill.

    Raises:
        LumenError: naming the file, the key and the nearest right one, or the type that was expected.
    """
    content = read_yaml(path)
    if content is None:
        content = {}
    return from_mapping(config_type, content, str(path), allow_missing=allow_missing)


def from_mapping(config_type: type[Config], mapping: Any, source: str, *, allow_missing: bool = False) -> Config:
    """Build a dataclass from builtin types, strictly: no unknown keys, no wrong types, nothing missing.

    Args:
        config_type: the dataclass; fields may be dataclasses again.
        mapping: field names to values, as YAML or JSON gives them.
        source: what to call the place they came from in an error.
        allow_missing: see `load_config`.

    Raises:
        LumenError: naming source, key and the nearest right key, or the type that was expected.
    """
    if not isinstance(mapping, Mapping):
        raise LumenError(f"{source}: expected keys with values, found {type(mapping).__name__}")
    hints = get_type_hints(config_type)
    fields = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise LumenError(f"{source}: unknown key {key!r}{_nearest(str(key), list(fields))}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(mapping[name], hints[name], f"{source}: {name}", allow_missing)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if not allow_missing:
                raise LumenError(f"{source}: the key {name!r} is missing")
            values[name] = tyro.MISSING
    return config_type(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as builtin types that YAML and JSON can hold; `from_mapping` is its inverse."""
    return msgspec.to_builtins(config, enc_hook=_encode)


def save_config(config: Any, path: Path) -> None:
    """Write the resolved config, so that a result carries what made it."""
    write_yaml(path, to_mapping(config))


def _split_off_preset(arguments: list[str]) -> tuple[Path | None, list[str]]:
    preset = None
    rest = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            value = next(remaining, None)
            if value is None:
                raise LumenError("--config needs a YAML file")
            preset = Path(value)
        elif argument.startswith("--config="):
            preset = Path(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    return preset, rest


def _convert(value: Any, hint: Any, where: str, allow_missing: bool) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_mapping(hint, value, where, allow_missing=allow_missing)
    try:
        return msgspec.convert(value, hint, strict=not isinstance(value, str), dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise LumenError(f"{where}: {_plain(str(error))}, got {value!r}") from error


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the keys are {', '.join(names)}"


def _plain(message: str) -> str:
    return message.replace("`", "").replace(" - at $", " at ").partition(", got ")[0].lower()


def _decode(hint: type, value: Any) -> Any:
    if issubclass(hint, Path) and isinstance(value, str):
        return Path(value)
    raise msgspec.ValidationError(f"Expected {hint.__name__}")


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be saved in a config")
