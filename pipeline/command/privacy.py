"""Remove from a text what identifies a patient, a person or a machine: paths, file names, user, home, host."""

import os
import platform
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

_ROOT = Path(__file__).resolve().parents[2]
# Names of folders and files that identify nobody. Messages also use these words with other meanings.
_COMMON_NAMES = """
home root users user usr tmp var mnt media opt srv etc private volumes work data dataset datasets video videos movie
clip frame frames image images mask masks sequence sequences input output out run runs result results project
projects desktop documents downloads test tests train localhost ubuntu admin python src lib bin build cache
checkpoint checkpoints model models sparse calibration config configs benchmarks docs tools reconstruct pipeline
data_prep descriptor sfm lumensfm
"""
_COMMON = frozenset(_COMMON_NAMES.split())
_OUTPUTS = frozenset({"output", "log_root", "cache_root", "render"})
_WORD_LENGTH = 4
_MOST_FILES = 20_000


def scrub(text: str, private: Mapping[str, str]) -> str:
    """Replace private strings by their placeholders, longest first, ignoring case.

    Args:
        text: any text.
        private: string → placeholder, from `private_strings`. A string of up to four characters is replaced only where
            it is a whole word.
    """
    lowered = text.lower()
    forms = {
        form.lower(): placeholder
        for string, placeholder in private.items()
        for form in _written_forms(string)
        if form.lower() in lowered
    }
    if not forms:
        return text
    pattern = "|".join(_pattern(form) for form in sorted(forms, key=len, reverse=True))
    return re.sub(pattern, lambda found: forms[found[0].lower()], text, flags=re.IGNORECASE)


def private_strings(named: Iterable[tuple[str, str | Path]]) -> dict[str, str]:
    """Strings that may identify somebody: string → placeholder, for `scrub`.

    Args:
        named: names and values of settings (`named_settings`, `named_arguments`). The placeholder of a value is its
            name, for example <video>. For a path, the resolved path, the file name and the folders are private too;
            for an input folder, also the names of the files in it.

    Returns:
        These strings, the working directory, home, user and machine. Paths of this tool's source become relative.
    """
    found: dict[str, str] = {}
    for name, value in named:
        if isinstance(value, Path):
            found |= _names_in_folder(name, value) | _parts(f"<{name}>", value)
        elif len(value) >= _WORD_LENGTH and not _is_common(value):
            found[value] = f"<{name}>"
    return found | _of_this_machine()


def named_settings(config: Any) -> Iterator[tuple[str, str | Path]]:
    """The name and value of each path and free text in a config dataclass. Choices are not free text."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name, None)
        for each in value if isinstance(value, list | tuple) else [value]:
            if is_dataclass(each):
                yield from named_settings(each)
            elif isinstance(each, Path) or (isinstance(each, str) and not _has_choices(hints[field.name])):
                yield field.name, each


def named_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The paths on a command line, each with the name of its flag, or "input" for a positional argument."""
    flag = "input"
    for argument in arguments:
        if argument.startswith("--"):
            flag, _, argument = argument[2:].partition("=")
        # Skips words, such as the name of a preset, and numbers.
        is_path = os.sep in argument or re.search(r"\.[^\W\d]\w*$", argument) or os.path.lexists(argument)
        if argument and is_path:
            yield flag, Path(argument)


def _has_choices(hint: Any) -> bool:
    return get_origin(hint) is Literal or any(_has_choices(each) for each in get_args(hint))


def _is_common(name: str) -> bool:
    """Whether a name, such as a part of a path, identifies nobody."""
    return name.lower() in _COMMON or name == ".." or len(name) < 2 or (name.isdigit() and len(name) <= _WORD_LENGTH)


def _parts(placeholder: str, path: Path) -> dict[str, str]:
    """The path as given, absolute and resolved, its name with and without suffix, and its folders."""
    found: dict[str, str] = {}
    for whole in {path, *_absolute(path)}:
        for folder in whole.parents:
            if not all(map(_is_common, folder.parts)):
                found |= {str(folder): "<folder>"} | ({} if _is_common(folder.name) else {folder.name: "<folder>"})
        found |= {name: placeholder for name in (whole.name, whole.stem) if not _is_common(name)}
        if not all(map(_is_common, whole.parts)):
            found[str(whole)] = placeholder
    return found


def _absolute(path: Path) -> set[Path]:
    """The absolute and the resolved path; empty if the working directory is gone or the path is invalid."""
    with suppress(OSError, ValueError):
        return {Path(os.path.abspath(path)), Path(os.path.realpath(path))}
    return set()


def _names_in_folder(name: str, path: Path) -> dict[str, str]:
    if name in _OUTPUTS or not os.path.isdir(path):
        return {}
    files = (file for _, _, names in os.walk(path) for file in names)
    names = {each for file in islice(files, _MOST_FILES) for each in (file, Path(file).stem)}
    return {each: f"<file of {name}>" for each in names if not _is_common(each)}


def _of_this_machine() -> dict[str, str]:
    found: dict[str, str] = {}
    with suppress(OSError):
        found |= _parts("<working directory>", Path.cwd())
    users = {os.environ.get(name, "") for name in ("USER", "LOGNAME")}
    homes = {os.path.expanduser("~"), os.environ.get("HOME", "")}
    with suppress(KeyError):
        account = pwd.getpwuid(os.getuid())
        users |= {account.pw_name, account.pw_gecos.split(",")[0]}
        homes |= {account.pw_dir}
    host = platform.node()
    found |= {home: "<home>" for home in homes if not _is_common(home) and home != "~" and home != "/root"}
    found |= {user: "<user>" for user in users if not _is_common(user)}
    found |= {name: "<host>" for name in (host, host.partition(".")[0]) if not _is_common(name)}
    return found | {f"{_ROOT}{os.sep}": ""}


def _written_forms(string: str) -> set[str]:
    """The string itself and the forms that Python's reprs give it."""
    return {string, repr(string)[1:-1], ascii(string)[1:-1]}


def _pattern(form: str) -> str:
    pattern = re.escape(form)
    return rf"(?<![^\W_]){pattern}(?![^\W_])" if len(form) <= _WORD_LENGTH else pattern
