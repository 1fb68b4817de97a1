"""The exit statuses of all commands."""

LUMEN_ERROR = 1
USAGE = 2
PARTIAL_SUCCESS = 3
BUG = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

HELP = """\
exit status:
  0    success
  1    an error that you can correct; it is printed as one line
  2    an invalid flag or value on the command line
  3    partial success: some outputs were written, others could not be
  70   a bug in LumenSfM; a log for the bug report is written
  141  standard output was closed (128 + SIGPIPE)
  128 + signal  stopped: 130 by Ctrl-C (SIGINT), 143 by SIGTERM, 129 by SIGHUP
"""


def of_signal(number: int) -> int:
    """The status of a command that a signal stopped: 128 + signal, as in shells."""
    return 128 + number
