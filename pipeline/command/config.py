"""Each stage has one dataclass that defines its config, its YAML keys and its command line.

tyro builds the command line from the dataclass. It accepts flags as researchers type them (`--adjacent_range 1 50`,
bare `--keep_all`), shows a field's docstring as its help and suggests the nearest flag for an unknown one;
jsonargparse needs `--adjacent_range "[1, 50]"` and `--keep_all true`. msgspec checks the values of a YAML file against
the same dataclass. It is strict about types and reports where a type is wrong.

A config that contains other configs marks them as `Flat[...]`: their settings become its own flags and keys.
"""

import dataclasses
import difflib
import functools
import inspect
import io
import os
import reprlib
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import tyro

from pipeline.command import exit_status
from pipeline.command.messages import shorten_box
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml, write_yaml
from pipeline.paths import AnyPath

Config = TypeVar("Config")
Part = TypeVar("Part")
# A config inside another one, without a prefix of its own.
Flat = Annotated[Part, tyro.conf.OmitArgPrefixes]


def parse_command_line(config_type: type[Config], arguments: Sequence[str], program: str) -> Config:
    """Create a config from the dataclass's defaults, then `--preset NAME`, then `--config FILE.yaml`, then the flags.

    Presets are the YAML files in the folder `PRESETS` of the dataclass, if it has one.

    Raises:
        LumenError: if the YAML file is missing, has an unknown key or a value of the wrong type.
        SystemExit: with status 2 and the usage if a flag is wrong, with 0 after `--help`.
    """
    _refuse_empty(arguments)
    name, flags = _split_off("--preset", list(arguments)) if _presets(config_type) else (None, list(arguments))
    file, flags = _split_off("--config", flags)
    files = [*([_preset(config_type, name)] if name else []), *([_expanded(Path(file))] if file else [])]
    # tyro takes None as "no default", though its type says otherwise.
    default: Config = _load_layers(config_type, files) if files else None  # type: ignore[assignment]
    description = f"{inspect.getdoc(config_type)}\n\n{_layers_help(config_type)}"
    usage_error = io.StringIO()
    try:
        with redirect_stderr(usage_error):
            config = tyro.cli(
                config_type, prog=program, args=flags, default=default, description=description, use_underscores=True
            )
    except SystemExit as end:
        if end.code:
            print(shorten_box(usage_error.getvalue()), file=sys.stderr)
        elif {"-h", "--help"} & set(flags):
            print(exit_status.HELP, end="", flush=True)
        raise
    return _with_home(config)


def named_variant(name: str, choices: Sequence[str], arguments: Sequence[str]) -> str:
    """The variant of a command that a command line selects: `--name CHOICE`, or the key in the `--config` file.

    The first choice is the default.

    Raises:
        LumenError: if the variant is not among the choices, or the file cannot be read.
    """
    given, rest = _split_off(f"--{name}", list(arguments))
    where = f"--{name}"
    file, _ = _split_off("--config", rest)
    if given is None and file:
        content = read_yaml(_expanded(Path(file)))
        given = content.get(name) if isinstance(content, Mapping) else None
        where = f"{file}: {name}"
    if given is None:
        return choices[0]
    if given not in choices:
        raise LumenError(f"{where} {given}: there is none of that name{_nearest(str(given), choices, name + 's')}")
    return str(given)


def load_config(config_type: type[Config], path: AnyPath, *, allow_missing: bool = False) -> Config:
    """Read a YAML file into a config dataclass.

    Args:
        config_type: a dataclass; its fields may be dataclasses.
        path: the YAML file, a mapping from field names to values.
        allow_missing: accept a file without required fields. The command line adds them, and `__post_init__` then
            checks the complete config.

    Raises:
        LumenError: naming the file, the key and the nearest valid key or the expected type.
    """
    content = read_yaml(Path(path))
    if content is None:
        content = {}
    return from_mapping(config_type, content, str(path), allow_missing=allow_missing)


def from_mapping(config_type: type[Config], mapping: Any, source: str, *, allow_missing: bool = False) -> Config:
    """Build a dataclass from builtin types. Unknown keys, wrong types and missing keys are errors.

    Args:
        config_type: the dataclass; its fields may be dataclasses.
        mapping: field names to values, as YAML or JSON gives them.
        source: where the values come from, for errors.
        allow_missing: see `load_config`.

    Raises:
        LumenError: naming the source, the key and the nearest valid key or the expected type.
    """
    if not isinstance(mapping, Mapping):
        raise LumenError(f"{source}: expected keys with values, found {type(mapping).__name__}")
    known = setting_names(config_type)
    for key in mapping:
        if key not in known:
            raise LumenError(f"{source}: unknown key {key!r}{_nearest(str(key), known, 'keys')}")
    return _from_known(config_type, mapping, source, allow_missing)


def configure(config_type: type[Config], *positional: Any, **settings: Any) -> Config:
    """Build a config from settings named like its flags. Each one goes to the nested config that defines it.

    Args:
        config_type: the dataclass.
        positional: values of its first settings.
        settings: the others by name; the defaults where left out.

    Raises:
        TypeError: if a name is not a setting.
        LumenError: if a value is not allowed.
    """
    known = setting_names(config_type)
    if len(positional) > len(known):
        raise TypeError(f"{config_type.__name__} has {len(known)} settings, got {len(positional)} values")
    settings = dict(zip(known, positional, strict=False)) | settings
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise TypeError(
            f"{config_type.__name__} has no setting {unknown[0]!r}{_nearest(unknown[0], known, 'settings')}"
        )
    values: dict[str, Any] = {}
    for name, hint in _hints(config_type).items():  # type: ignore[arg-type]
        part = _flat_part(config_type, name)
        if part:
            own = {each: settings[each] for each in setting_names(part) if each in settings}
            values[name] = configure(part, **own)
        elif name in settings:
            values[name] = _checked(settings[name], hint, name)
    return config_type(**values)


def preset_settings(config_type: type, name: str) -> dict[str, Any]:
    """The settings of a preset by the names of their flags.

    Raises:
        LumenError: if there is no preset of that name.
    """
    settings: dict[str, Any] = read_yaml(_preset(config_type, name)) or {}
    return settings


def _checked(value: Any, hint: Any, name: str) -> Any:
    """A value of a setting in Python, checked like one in a YAML file; paths may be text or path-like."""
    if Path in _alternatives(hint) and isinstance(value, str | os.PathLike):
        return _expanded(Path(value))
    return _convert(value, hint, name, False)


def setting_names(config_type: type) -> list[str]:
    """The names of the flags of a config, including those of its flat configs."""
    names: list[str] = []
    for field in dataclasses.fields(config_type):
        part = _flat_part(config_type, field.name)
        names += setting_names(part) if part else [field.name]
    return names


def _from_known(config_type: type[Config], mapping: Mapping[str, Any], source: str, allow_missing: bool) -> Config:
    hints = _hints(config_type)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
        part = _flat_part(config_type, field.name)
        if part:
            own = {name: mapping[name] for name in setting_names(part) if name in mapping}
            values[field.name] = _from_known(part, own, source, allow_missing)
        elif field.name in mapping:
            where = f"{source}: {field.name}"
            values[field.name] = _convert(mapping[field.name], hints[field.name], where, allow_missing)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if not allow_missing:
                raise LumenError(f"{source}: the key {field.name!r} is missing")
            values[field.name] = tyro.MISSING
    return _with_holes(config_type, values) if allow_missing else config_type(**values)


def to_mapping(config: Any) -> Any:
    """A dataclass as builtin types that YAML and JSON can hold; `from_mapping` is its inverse."""
    if not is_dataclass(config) or isinstance(config, type):
        return msgspec.to_builtins(config, enc_hook=_encode)
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = to_mapping(getattr(config, field.name))
        plain |= value if _flat_part(type(config), field.name) else {field.name: value}
    return plain


def save_config(config: Any, path: AnyPath) -> None:
    """Write the resolved config, so that a result is stored with its settings."""
    write_yaml(Path(path), to_mapping(config))


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Reject empty arguments, because an empty path means the current folder.

    Raises:
        LumenError: if there is one.
    """
    for before, argument in zip(["the first argument", *arguments], arguments, strict=False):
        flag, is_assigned, value = argument.partition("=")
        if not argument or (flag.startswith("--") and is_assigned and not value):
            raise LumenError(f"{flag or before} is empty: is a shell variable unset?")


def _with_home(value: Any) -> Any:
    """Replace `~` by the home folder in all paths of a value. A shell does not expand it in `--output=~/x`."""
    if isinstance(value, Path):
        return _expanded(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_with_home, value))
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        expanded = {name: _with_home(each) for name, each in changed.items()}
        return dataclasses.replace(value, **expanded) if expanded != changed else value
    return value


def _expanded(path: Path) -> Path:
    """The path with `~` replaced by the home folder. Like a shell, it keeps `~name` if there is no such user.

    Raises:
        LumenError: if the home folder is unknown.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        if path.parts[0] == "~":
            raise LumenError(f"{path}: it is not known where the home folder is: write the whole path") from error
        return path


def _split_off(name: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of a flag that may be given once, and the other arguments."""
    found = None
    rest = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, is_assigned, value = argument.partition("=")
        if flag != name:
            rest.append(argument)
            continue
        value = value if is_assigned else next(remaining, "")
        if not value:
            raise LumenError(f"{name} needs a {'YAML file' if name == '--config' else 'name'}")
        if found:
            raise LumenError(f"{name} may be given once")
        found = value
    return found, rest


def _presets(config_type: type) -> dict[str, Path]:
    """The path of each preset of a config, by name."""
    folder = getattr(config_type, "PRESETS", None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def _preset(config_type: type, name: str) -> Path:
    presets = _presets(config_type)
    if name not in presets:
        raise LumenError(f"--preset {name}: there is none of that name{_nearest(name, list(presets), 'presets')}")
    return presets[name]


def _load_layers(config_type: type[Config], files: Sequence[Path]) -> Config:
    """Merge several YAML files; later files override earlier ones. Each file is checked on its own."""
    merged: dict[str, Any] = {}
    for file in files:
        load_config(config_type, file, allow_missing=True)
        merged |= read_yaml(file) or {}
    return from_mapping(config_type, merged, str(files[-1]), allow_missing=True)


def _layers_help(config_type: type) -> str:
    presets = ", ".join(_presets(config_type))
    text = "--config FILE.yaml sets any of these by name; flags override it."
    return f"--preset NAME chooses a set of them: {presets}. {text}" if presets else text


@functools.cache
def _hints(config_type: type) -> dict[str, Any]:
    hints = get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def _flat_part(config_type: type, name: str) -> type | None:
    """The type of a field marked `Flat`; None for a setting."""
    hint = _full_hints(config_type)[name]
    return get_args(hint)[0] if get_origin(hint) is Annotated and tyro.conf.OmitArgPrefixes in get_args(hint) else None


def path_settings(config_type: type) -> set[str]:
    """The names of the settings that are paths."""
    names: set[str] = set()
    for name, hint in _hints(config_type).items():
        part = _flat_part(config_type, name)
        names |= path_settings(part) if part else {name} if Path in _alternatives(hint) else set()
    return names


@functools.cache
def _full_hints(config_type: type) -> dict[str, Any]:
    return get_type_hints(config_type, include_extras=True)


def _with_holes(config_type: type[Config], values: dict[str, Any]) -> Config:
    """An incomplete instance for tyro to fill in, created without the checks of `__post_init__`."""
    config = object.__new__(config_type)
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
        if field.name not in values:
            factory = field.default_factory
            values[field.name] = field.default if factory is dataclasses.MISSING else factory()
        object.__setattr__(config, field.name, values[field.name])
    return config


def _convert(value: Any, hint: Any, where: str, allow_missing: bool) -> Any:
    config_type = _dataclass_in(hint)
    if config_type and isinstance(value, Mapping):
        return from_mapping(config_type, value, where, allow_missing=allow_missing)
    if get_origin(hint) is list and _dataclass_in(get_args(hint)[0]) and isinstance(value, list):
        return [_convert(item, get_args(hint)[0], f"{where}[{i}]", False) for i, item in enumerate(value)]
    try:
        return msgspec.convert(value, hint, dec_hook=_decode)
    except msgspec.ValidationError as error:
        choices = _choices_in(hint)
        if choices and isinstance(value, str):
            raise LumenError(f"{where}: {value!r} is no choice{_nearest(value, choices, 'choices')}") from error
        raise LumenError(f"{where}{_plain(str(error))}, got {reprlib.repr(value)}") from error


def _alternatives(hint: Any) -> Sequence[Any]:
    return get_args(hint) if isinstance(hint, types.UnionType) or get_origin(hint) is Union else [hint]


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass X in the types `X` and `X | None`; None for other types."""
    return next((each for each in _alternatives(hint) if isinstance(each, type) and is_dataclass(each)), None)


def _choices_in(hint: Any) -> list[str]:
    literals = [each for each in _alternatives(hint) if get_origin(each) is Literal]
    return [str(choice) for literal in literals for choice in get_args(literal)]


def _nearest(name: str, names: Sequence[str], called: str) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the {called} are {', '.join(names)}"


def _plain(message: str) -> str:
    """Rewrite msgspec's "Expected `array`, got `str` - at `$[1]`" as "[1]: expected list"."""
    expected, _, place = message.partition(" - at `$")
    expected = expected.partition(", got ")[0].replace("`", "")
    for term, ours in {"array": "list", "object": "keys with values", "null": "None"}.items():
        expected = expected.replace(term, ours)
    return f"{place.rstrip('`')}: {expected[:1].lower()}{expected[1:]}"


def _decode(hint: type, value: Any) -> Any:
    if issubclass(hint, Path) and isinstance(value, str):
        return _expanded(Path(value))
    raise msgspec.ValidationError(f"Expected {hint.__name__}")


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be saved in a config")
