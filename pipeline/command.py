"""The one place where a command's outcome becomes an exit status and what the user reads."""

import logging
import os
import platform
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from pipeline import __version__
from pipeline.config import named_variant, parse_command_line
from pipeline.errors import LumenError

Config = TypeVar("Config")
# A kind's name → its config dataclass and what runs it.
Variants = Mapping[str, tuple[type, Callable[[Any], Any]]]

EXIT_LUMEN_ERROR = 1
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_OURS = ("__main__", "pipeline", "data_prep", "descriptor", "reconstruction", "sfm")


def run_command(config_type: type[Config], run: Callable[[Config], Any], arguments: Sequence[str] | None = None) -> int:
    """Parse the command line into `config_type`, call `run` with it, print what it returns, one line each.

    Args:
        config_type: the stage's config dataclass.
        run: the stage; it returns the path, or a list of the paths, of what it wrote.
        arguments: the command line without the program's name; `sys.argv` by default.

    Returns:
        The exit status: 0; 1 for a `LumenError`, printed as one line; 130 when interrupted; 141 when nobody reads what
        it prints; 70 for a bug, whose traceback is shown together with the path of a log that holds everything needed
        to report it.
    """
    return _run(lambda given, program: run(parse_command_line(config_type, given, program)), arguments)


def run_variant(flag: str, variants: Variants, arguments: Sequence[str] | None = None) -> int:
    """As `run_command`, for a command of several kinds with settings of their own.

    Args:
        flag: the setting that names the kind, on the command line or in the file of `--config`; each kind's config has
            it as a field.
        variants: the kinds; the first by default.
        arguments: see `run_command`.
    """

    def choose(given: Sequence[str], program: str) -> Any:
        name = named_variant(flag, list(variants), given)
        config_type, run = variants[name]
        return run(parse_command_line(config_type, given, program))

    return _run(choose, arguments)


def _run(parse_and_run: Callable[[Sequence[str], str], Any], arguments: Sequence[str] | None) -> int:
    program = sys.argv[0]
    arguments = sys.argv[1:] if arguments is None else arguments
    records = _start_logging()
    try:
        _print_outputs(parse_and_run(arguments, f"python {program}"))
    except LumenError as error:
        _say(f"error: {error}")
        return EXIT_LUMEN_ERROR
    except BrokenPipeError:
        # Whoever read what is printed has gone, as `| head` does; Python must not find so once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        _say("interrupted: nothing half-done was put in place; run the same command again")
        return EXIT_INTERRUPTED
    except Exception:
        traceback.print_exc()
        log = _write_crash_log(program, arguments, records)
        _say(f"this is a bug in LumenSfM; please report it with {log}")
        return EXIT_BUG
    return 0


def _print_outputs(outputs: Any) -> None:
    if outputs is None:
        return
    for output in outputs if isinstance(outputs, list | tuple) else [outputs]:
        print(output)


class _ConsoleHandler(logging.Handler):
    """Lines for a person on stderr, which do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(f"{level}{record.getMessage()}", file=sys.stderr)


class _MemoryHandler(logging.Handler):
    """The latest records of everything, kept for the crash log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: deque[str] = deque(maxlen=10_000)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _start_logging() -> _MemoryHandler:
    console = _ConsoleHandler(logging.INFO)
    console.addFilter(lambda record: record.name.partition(".")[0] in _OURS or record.levelno >= logging.ERROR)
    memory = _MemoryHandler()
    logging.basicConfig(level=logging.INFO, handlers=[console, memory], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    return memory


def _write_crash_log(program: str, arguments: Sequence[str], records: _MemoryHandler) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"lumensfm-{Path(program).stem}-crash-{stamp}.log"
    text = "\n".join(
        [
            f"LumenSfM {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"arguments: {list(arguments)}",
            *records.lines,
            traceback.format_exc(),
        ]
    )
    for find_folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):
            log = find_folder() / name
            log.write_text(text, encoding="utf-8", errors="backslashreplace")
            return log
    return Path("the lines above (no log could be written)")


def _say(line: str) -> None:
    tqdm.write(" ".join(part.strip() for part in line.splitlines()), file=sys.stderr)
