"""python reconstruct.py VIDEO: camera poses and an extremely dense point cloud."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import sys

from pipeline.command.run_command import run_command
from reconstruction.config import ReconstructConfig
from reconstruction.run import reconstruct

if __name__ == "__main__":
    sys.exit(run_command(ReconstructConfig, reconstruct))
