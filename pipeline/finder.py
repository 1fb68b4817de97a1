"""The interface of correspondence finders. `descriptor` implements them; callers pass them to `sfm`."""

from collections.abc import Callable, Iterator

from pipeline.arrays import Float32s, Ints

# The row of a frame, which of the query pixels were found in it (M,), and where: (M, 2) float32 px.
Found = tuple[int, Ints, Float32s]
# Called with the row of a frame and query pixels (N, 2) float32 px in it, COLMAP's convention; searches other frames.
Finder = Callable[[int, Float32s], Iterator[Found]]
