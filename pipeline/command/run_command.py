"""Run a command, and turn its outcome into an exit status and messages to the user."""

import io
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
from pipeline.command import exit_status
from pipeline.command.config import named_variant, parse_command_line
from pipeline.command.interruption import stop_request
from pipeline.command.messages import LINE_LIMIT, one_line
from pipeline.command.privacy import named_arguments, named_settings, private_strings, scrub
from pipeline.errors import LumenError, PartialSuccess
from pipeline.outputs.file_names import BYTES_OR_ESCAPES, printable

Config = TypeVar("Config")
# Name of a variant → its config dataclass and its function.
Variants = Mapping[str, tuple[type, Callable[[Any], Any]]]

_OURS = ("__main__", "pipeline", "data_prep", "descriptor", "sfm", "reconstruct")


def run_command(
    config_type: type[Config],
    run: Callable[[Config], Any],
    arguments: Sequence[str] | None = None,
    program: str | None = None,
) -> int:
    """Parse the command line into `config_type`, call `run` with it and print each path that it returns on a line.

    A command that called `watch_signals` ends here when a signal stops it (`pipeline.command.interruption`).

    Args:
        config_type: the stage's config dataclass.
        run: the stage; it returns the path, or a list of the paths, that it wrote.
        arguments: the command line without the program's name; `sys.argv` by default.
        program: how the command is called, for its usage; `python SCRIPT` by default.

    Returns:
        The exit status (`pipeline.command.exit_status`). A `LumenError` is printed as one line. For a bug, the
        traceback is printed with the path of a crash log, which names no paths, files, user or machine.
    """
    return _run(lambda given: (config_type, run), arguments, program)


def run_variant(
    flag: str, variants: Variants, arguments: Sequence[str] | None = None, program: str | None = None
) -> int:
    """Like `run_command`, for a command with several variants, each with its own config.

    Args:
        flag: the setting that selects the variant, on the command line or in the `--config` file. Each variant's
            config has it as a field.
        variants: the variants; the first is the default.
        arguments, program: see `run_command`.
    """
    return _run(lambda given: variants[named_variant(flag, list(variants), given)], arguments, program)


def _run(
    choose: Callable[[Sequence[str]], tuple[type, Callable[[Any], Any]]],
    arguments: Sequence[str] | None,
    program: str | None,
) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    command = _Command(program or f"python {sys.argv[0]}", given, _start_logging())
    _print_any_name()
    try:
        with stop_request.interrupting():
            config_type, run = choose(command.arguments)
            command.config = parse_command_line(config_type, command.arguments, command.program)
            _print_outputs(run(command.config))
    except KeyboardInterrupt as stop:
        return _stopped(str(stop))
    except Exception as error:
        # Native code may report an interruption by a signal as a failure.
        return _stopped() if stop_request else _failed(error, command)
    return 0


class _Command:
    """The data of the command that a crash log contains."""

    def __init__(self, program: str, arguments: Sequence[str], records: "_MemoryHandler") -> None:
        self.program, self.arguments, self.records = program, list(arguments), records
        self.config: Any = None


def _stopped(why: str = "") -> int:
    line = one_line(stop_request.line(why))
    if stop_request:
        stop_request.end(line)
    _say(line)
    return exit_status.INTERRUPTED


def _failed(error: Exception, command: _Command) -> int:
    if isinstance(error, PartialSuccess):
        try:
            _print_outputs(error.outputs)
        except BrokenPipeError as closed:
            return _failed(closed, command)
        _say(str(error))
        return exit_status.PARTIAL_SUCCESS
    if isinstance(error, LumenError):
        _say(f"error: {error}")
        return exit_status.LUMEN_ERROR
    if isinstance(error, BrokenPipeError):
        # stdout was closed (`| head`); keep Python's exit flush from failing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_status.BROKEN_PIPE
    traceback.print_exception(error)
    log = _write_crash_log(error, command)
    _say(f"this is a bug in LumenSfM; please report it with {log}", limit=None)
    return exit_status.BUG


def _print_outputs(outputs: Any) -> None:
    if outputs is None:
        return
    for output in outputs if isinstance(outputs, list | tuple) else [outputs]:
        try:
            # Flushed, so that a closed pipe raises its error here and not when Python exits.
            print(output, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise LumenError(f"cannot write to standard output: {error.strerror}; the outputs are complete") from error


def _print_any_name() -> None:
    """Let stdout print file names that are not valid text byte for byte, so that scripts can use them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=BYTES_OR_ESCAPES)


class _ConsoleHandler(logging.Handler):
    """Log lines on stderr that do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno > logging.INFO:
            message = one_line(f"{record.levelname.lower()}: {message}")
        # A full or closed standard error must not stop the work.
        with suppress(OSError, ValueError):
            tqdm.write(printable(message), file=sys.stderr)


class _MemoryHandler(logging.Handler):
    """The latest records of all loggers, kept for the crash log."""

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


def _write_crash_log(error: Exception, command: _Command) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"lumensfm-{Path(command.program.split()[-1]).stem}-crash-{stamp}.log"
    settings = [] if command.config is None else named_settings(command.config)
    private = private_strings([*named_arguments(command.arguments), *settings])
    text = "\n".join(
        [
            f"LumenSfM {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"arguments: {command.arguments}",
            *command.records.lines,
            *traceback.format_exception(error),
        ]
    )
    for find_folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):
            log = find_folder() / name
            log.write_text(scrub(text, private), encoding="utf-8", errors="backslashreplace")
            return log
    return Path("the lines above (no log could be written)")


def _say(line: str, limit: int | None = LINE_LIMIT) -> None:
    # A closed standard error must not change the exit status.
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            tqdm.write(printable(one_line(line, limit or len(line))), file=sys.stderr)
