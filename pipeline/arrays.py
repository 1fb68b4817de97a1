"""Names for the array types of the project; docstrings give the shapes and units."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Pixel coordinates that are stored or passed to OpenCV and torch; descriptors.
Float32s = npt.NDArray[np.float32]
# Geometry and statistics: poses, points, intrinsics, residuals.
Float64s = npt.NDArray[np.float64]
# Floating point of any precision; the result has the precision of the argument.
AnyFloats = npt.NDArray[np.floating]
# Indices, rows, counts: int64.
Ints = npt.NDArray[np.int64]
# Selections: one flag for each element.
Bools = npt.NDArray[np.bool_]
# Images, masks and colours: uint8.
Bytes = npt.NDArray[np.uint8]
# Elements of any type.
AnyArray = npt.NDArray[Any]
