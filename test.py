"""Evaluate a descriptor: python test.py --testing_data_root DIR --trained_model_path FILE --log_root DIR."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import sys

from descriptor.commands import TASKS
from pipeline.command.run_command import run_variant

if __name__ == "__main__":
    sys.exit(run_variant("task", TASKS))
