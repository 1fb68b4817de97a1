"""What a way of finding correspondences offers: `descriptor` implements it, `sfm` is handed one."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

# A frame's row, which (M,) of the given pixels were found in it, and where (M, 2) float32 px.
Found = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32]]
# Finds pixels (N, 2) float32, COLMAP's convention, of the frame in a given row in other frames.
Finder = Callable[[int, npt.NDArray[np.float32]], Iterator[Found]]
