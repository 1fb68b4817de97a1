"""Train a descriptor: python train.py --training_data_root DIR --log_root DIR."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import sys

from descriptor.commands import METHODS
from pipeline.command.run_command import run_variant

if __name__ == "__main__":
    sys.exit(run_variant("method", METHODS))
