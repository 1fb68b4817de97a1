"""Exhaustive search with CuPy: half-precision products on tensor cores, and a kernel that finds the maxima."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import Best
from descriptor.matching.engines.torch_search import TissueCells

# Rows and columns of a tile of products, 512 MiB in half precision; the kernels store both indices in 16 bits. With
# smaller tiles, Python is slower than the GPU.
_TILE = (16_384, 16_384)
# Tensor cores require rows of descriptors and products to start at multiples of 16 bytes.
_HALVES_TOGETHER = 8
_LANES, _ROWS_TOGETHER = 32, 8
# Threads per block of the column kernel, and rows that each thread processes.
_COLUMN_THREADS, _COLUMN_ROWS = 64, 128

# One warp processes one row. A half-precision number and its column are packed into one integer, so that larger numbers
# win, and lower columns win ties: the bit patterns of halves order like integers after inverting negative ones.
KERNEL = r"""
__device__ unsigned int ranked(unsigned int half_bits, unsigned int column)
{
    const unsigned int key = half_bits & 0x8000u ? ~half_bits & 0xFFFFu : half_bits | 0x8000u;
    return key << 16 | (0xFFFFu - column);
}

extern "C" __global__ void best_of_rows(
    const uint4* products,        // rows x columns halves, eight per element
    int rows,
    int columns,                  // a multiple of eight
    int filled,                   // columns from here on are padding
    unsigned int first_column,    // first column of the tile
    unsigned long long* best)     // best of each row so far: key of the half, and 0xFFFFFFFF minus its column
{
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const uint4* own = products + (long long)row * (columns / 8);
    unsigned int highest = 0;
    for (int eight = threadIdx.x; eight < columns / 8; eight += 32) {
        const uint4 loaded = own[eight];
        const unsigned int pairs[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
        #pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int column = 8 * eight + i;
            if (column < filled) highest = max(highest, ranked(pairs[i / 2] >> 16 * (i % 2) & 0xFFFFu, column));
        }
    }
    for (int lane = 16; lane > 0; lane /= 2) highest = max(highest, __shfl_xor_sync(0xFFFFFFFFu, highest, lane));
    if (threadIdx.x == 0) {
        const unsigned int column = first_column + 0xFFFFu - (highest & 0xFFFFu);
        best[row] = max(best[row], (unsigned long long)(highest >> 16) << 32 | (0xFFFFFFFFu - column));
    }
}

// The reverse direction: a thread processes eight columns over some of the rows.
extern "C" __global__ void best_of_columns(
    const uint4* products, int rows, int columns, int filled, int rows_each, unsigned int first_row,
    unsigned long long* best)
{
    const int eight = blockIdx.x * blockDim.x + threadIdx.x;
    if (eight >= columns / 8) return;
    const int first = blockIdx.y * rows_each, end = min(rows, first + rows_each);
    unsigned int highest[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int row = first; row < end; ++row) {
        const uint4 loaded = products[(long long)row * (columns / 8) + eight];
        const unsigned int pairs[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
        #pragma unroll
        for (int i = 0; i < 8; ++i)
            highest[i] = max(highest[i], ranked(pairs[i / 2] >> 16 * (i % 2) & 0xFFFFu, row));
    }
    for (int i = 0; i < 8; ++i) {
        if (8 * eight + i >= filled) continue;
        const unsigned int row = first_row + 0xFFFFu - (highest[i] & 0xFFFFu);
        atomicMax(best + 8 * eight + i, (unsigned long long)(highest[i] >> 16) << 32 | (0xFFFFFFFFu - row));
    }
}
"""


@dataclass(frozen=True)
class HalfCells:
    """The tissue cells of a map, in the layout of tensor cores.

    Attributes:
        values: (P', C') float16, one row per cell, zero-padded in both dimensions.
        cells: (P,) int64, cell indices.
        rows: (H, W) int64, row of each cell of the map; -1 for cells without tissue.
    """

    values: Tensor
    cells: Tensor
    rows: Tensor


class CupySearch:
    """Search in half precision on the GPU of the descriptors; the best cell and its neighbours in single precision.

    Args:
        cupy: the CuPy module.
    """

    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._best_of_rows = cupy.RawKernel(KERNEL, "best_of_rows")
        self._best_of_columns = cupy.RawKernel(KERNEL, "best_of_columns")

    def prepare(self, described: DescriptorMap) -> HalfCells:
        """See `SearchEngine.prepare`."""
        tissue = TissueCells.of_map(described)
        values = functional.pad(_in_half(tissue.values), (0, 0, 0, -len(tissue.cells) % _HALVES_TOGETHER))
        rows = torch.full(described.mask.shape, -1, device=values.device)
        rows.view(-1)[tissue.cells] = torch.arange(len(tissue.cells), device=values.device)
        return HalfCells(values.contiguous(), tissue.cells, rows)

    @torch.inference_mode()
    def best(self, wanted: Tensor, prepared: HalfCells) -> Best:
        """See `SearchEngine.best`."""
        values, cells = prepared.values, prepared.cells
        if not len(cells):
            missing = torch.full((len(wanted),), -1, device=values.device)
            return Best(missing, torch.full_like(missing, torch.nan, dtype=torch.float32))
        wanted = _in_half(wanted.to(values.device)).contiguous()
        if not len(wanted):
            return Best(cells[:0], torch.zeros(0, device=values.device))
        best = torch.zeros(len(wanted), dtype=torch.int64, device=values.device)
        self._search(wanted, values, len(cells), best)
        return _best_around(wanted, prepared, 0xFFFFFFFF - (best & 0xFFFFFFFF))

    @torch.inference_mode()
    def both_ways(self, first: HalfCells, second: HalfCells) -> tuple[Best, Best]:
        """Match every cell of each of two maps to the other, in little more than half the time of two searches.

        Args:
            first, second: maps from `prepare`.

        Returns:
            The best cell of the second map for each tissue cell of the first, in order; and the reverse.
        """
        counts = len(first.cells), len(second.cells)
        if not all(counts):
            return self.best(first.values[: counts[0]], second), self.best(second.values[: counts[1]], first)
        wanted = first.values[: counts[0]]
        best = [torch.zeros(count, dtype=torch.int64, device=wanted.device) for count in counts]
        self._search(wanted, second.values, counts[1], *best)
        rows = [0xFFFFFFFF - (each & 0xFFFFFFFF) for each in best]
        return _best_around(wanted, second, rows[0]), _best_around(second.values[: counts[1]], first, rows[1])

    def _search(self, wanted: Tensor, values: Tensor, filled: int, best: Tensor, back: Tensor | None = None) -> None:
        """Store the best of the first `filled` of `values` for each of `wanted` in `best`; the reverse in `back`."""
        cupy = self._cupy
        rows, columns = (min(most, len(each)) for most, each in zip(_TILE, (wanted, values), strict=True))
        products = torch.empty(rows * columns, dtype=torch.float16, device=values.device)
        with self._on_torchs_stream(values.device):
            first, second, into, highest = (cupy.from_dlpack(each) for each in (wanted, values, products, best))
            highest = highest.view(cupy.uint64)
            returned = None if back is None else cupy.from_dlpack(back).view(cupy.uint64)
            for top in range(0, len(wanted), rows):
                part = first[top : top + rows]
                blocks = (-(-len(part) // _ROWS_TOGETHER),)
                for left in range(0, len(values), columns):
                    other = second[left : left + columns]
                    tile = into[: len(part) * len(other)].reshape(len(part), len(other))
                    # cuBLAS accumulates half-precision products in single precision.
                    cupy.dot(part, other.T, out=tile)
                    counts = (len(part), len(other), min(filled - left, len(other)))
                    arguments = (tile, *map(cupy.int32, counts), cupy.uint32(left), highest[top : top + rows])
                    self._best_of_rows(blocks, (_LANES, _ROWS_TOGETHER), arguments)
                    if returned is not None:
                        grid = (-(-len(other) // 8 // _COLUMN_THREADS), -(-len(part) // _COLUMN_ROWS))
                        sizes = (*map(cupy.int32, (*counts, _COLUMN_ROWS)), cupy.uint32(top))
                        self._best_of_columns(grid, (_COLUMN_THREADS,), (tile, *sizes, returned[left:]))

    @contextlib.contextmanager
    def _on_torchs_stream(self, device: torch.device) -> Iterator[None]:
        """Run CuPy on PyTorch's current stream, so that the operations of both stay in order."""
        stream, cuda = torch.cuda.current_stream(device), self._cupy.cuda
        # CuPy 13, and PyTorch streams without the CUDA stream protocol, need the address.
        has_protocol = hasattr(cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__")
        own = cuda.Stream.from_external(stream) if has_protocol else cuda.ExternalStream(stream.cuda_stream)
        with cuda.Device(device.index), own:
            yield


def _in_half(values: Tensor) -> Tensor:
    """Descriptors (N, C) in half precision, zero-padded for tensor cores."""
    return functional.pad(values.half(), (0, -values.shape[1] % _HALVES_TOGETHER))


def _best_around(wanted: Tensor, prepared: HalfCells, row: Tensor) -> Best:
    """The best of each cell (K,), given by its row, and its eight neighbours, in single precision.

    With smooth descriptors, neighbours tie in half precision, and the upper left one would always win.
    """
    height, width = prepared.rows.shape
    cell, wanted = prepared.cells[row], wanted.float()
    score = torch.full((len(wanted),), -torch.inf, device=wanted.device)
    best = cell
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        y, x = cell // width + down, cell % width + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        near = prepared.rows[y.clamp(0, height - 1), x.clamp(0, width - 1)]
        product = (wanted * prepared.values[near.clamp(min=0)]).sum(dim=1)
        better = inside & (near >= 0) & (product > score)
        score, best = torch.where(better, product, score), torch.where(better, y * width + x, best)
    return Best(best, score)
