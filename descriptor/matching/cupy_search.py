"""The exhaustive search on CuPy: half-precision products on a GPU's tensor cores, and a kernel that keeps the best."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.search import Best
from descriptor.matching.torch_search import TissueCells

# Rows and columns of a tile of products, 64 MiB in half precision; columns are told apart by 16 bits.
_TILE = (4096, 8192)
# Tensor cores want rows of descriptors, and of products, that begin at multiples of 16 bytes.
_HALVES_TOGETHER = 8
_LANES, _ROWS_TOGETHER = 32, 8

# One warp takes one row. A half and its column become one integer that is greater for greater halves, and for equal
# ones for lower columns: the bits of halves order as integers do once those of negative ones are turned about.
KERNEL = r"""
__device__ unsigned int ranked(unsigned int half_bits, unsigned int column)
{
    const unsigned int key = half_bits & 0x8000u ? ~half_bits & 0xFFFFu : half_bits | 0x8000u;
    return key << 16 | (0xFFFFu - column);
}

extern "C" __global__ void best_of_rows(
    const uint4* products,        // rows x columns halves, eight in each
    int rows,
    int columns,                  // a multiple of eight
    int filled,                   // those beyond are padding
    unsigned int first_column,    // of the tile among all
    unsigned long long* best)     // of each row so far: the half's key, and 0xFFFFFFFF less its column
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
"""


@dataclass(frozen=True)
class HalfCells:
    """The cells of a map that show tissue, as tensor cores want them.

    Attributes:
        values: (P', C') float16, a row for each, and padding with zeros behind both.
        cells: (P,) int64, which they are.
    """

    values: Tensor
    cells: Tensor


class CupySearch:
    """On the GPU that the descriptors are on, in half precision: cells whose products differ by less than 0.001 tie.

    Args:
        cupy: the module.
    """

    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._best_of_rows = cupy.RawKernel(KERNEL, "best_of_rows")

    def prepare(self, described: DescriptorMap) -> HalfCells:
        """See `SearchEngine.prepare`."""
        tissue = TissueCells.of_map(described)
        values = functional.pad(_in_half(tissue.values), (0, 0, 0, -len(tissue.cells) % _HALVES_TOGETHER))
        return HalfCells(values.contiguous(), tissue.cells)

    @torch.inference_mode()
    def best(self, wanted: Tensor, prepared: HalfCells) -> Best:
        """See `SearchEngine.best`."""
        values, cells = prepared.values, prepared.cells
        if not len(cells):
            missing = torch.full((len(wanted),), -1, device=values.device)
            return Best(missing, torch.full_like(missing, torch.nan, dtype=torch.float32))
        wanted = _in_half(wanted.to(values.device)).contiguous()
        best = torch.zeros(len(wanted), dtype=torch.int64, device=values.device)
        rows, columns = (max(1, min(most, len(each))) for most, each in zip(_TILE, (wanted, values), strict=True))
        products = torch.empty(rows * columns, dtype=torch.float16, device=values.device)
        with self._on_torchs_stream(values.device):
            for top in range(0, len(wanted), rows):
                for left in range(0, len(values), columns):
                    part = slice(top, top + rows)
                    self._search_tile(
                        wanted[part], values[left : left + columns], len(cells) - left, left, products, best[part]
                    )
        column, score = _decoded(best)
        return Best(cells[column], score)

    def _search_tile(
        self, wanted: Tensor, values: Tensor, filled: int, first_column: int, products: Tensor, best: Tensor
    ) -> None:
        cupy, rows, columns = self._cupy, len(wanted), len(values)
        own, other, into, highest = (cupy.from_dlpack(each) for each in (wanted, values, products, best))
        into = into[: rows * columns].reshape(rows, columns)
        # In half precision cuBLAS adds up in single precision.
        cupy.dot(own, other.T, out=into)
        blocks = -(-rows // _ROWS_TOGETHER)
        arguments = (into, cupy.int32(rows), cupy.int32(columns), cupy.int32(min(filled, columns)))
        self._best_of_rows(
            (blocks,), (_LANES, _ROWS_TOGETHER), (*arguments, cupy.uint32(first_column), highest.view(cupy.uint64))
        )

    @contextlib.contextmanager
    def _on_torchs_stream(self, device: torch.device) -> Iterator[None]:
        """What CuPy does comes after what PyTorch was asked for before, and before what it is asked for next."""
        stream = torch.cuda.current_stream(device)
        with self._cupy.cuda.Device(device.index), self._cupy.cuda.ExternalStream(stream.cuda_stream):
            yield


def _in_half(values: Tensor) -> Tensor:
    """Descriptors (N, C) in half precision, and as many zeros behind each as tensor cores want."""
    return functional.pad(values.half(), (0, -values.shape[1] % _HALVES_TOGETHER))


def _decoded(best: Tensor) -> tuple[Tensor, Tensor]:
    """Column (K,) int64 and product (K,) float32 from what the kernel keeps of each row."""
    column = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    key = best >> 32
    bits = torch.where(key >= 0x8000, key - 0x8000, 0xFFFF - key)
    signed = torch.where(bits >= 0x8000, bits - 0x10000, bits)
    return column, signed.to(torch.int16).view(torch.float16).float()
