"""The parts of CuPy that the search engine uses, on the CPU. The CUDA kernel runs as C++, one thread per warp lane.

The engine and its kernel are thus tested without a GPU. Only CuPy itself is not.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

COMPILER = shutil.which("g++")

_BEFORE = r"""
#include <algorithm>
#include <barrier>
#include <thread>
#include <vector>
using std::max;
#define __global__
#define __device__ static inline
struct uint4 { unsigned int x, y, z, w; };
struct Place { int x, y; };
static unsigned long long atomicMax(unsigned long long* place, unsigned long long value)
{
    const unsigned long long before = *place;
    *place = max(before, value);
    return before;
}
using std::min;
static Place blockIdx, blockDim;
static thread_local Place threadIdx;
static std::barrier<> warp(32);
static unsigned int exchanged[32];
static unsigned int __shfl_xor_sync(unsigned int, unsigned int value, int lane)
{
    exchanged[threadIdx.x] = value;
    warp.arrive_and_wait();
    value = exchanged[threadIdx.x ^ lane];
    warp.arrive_and_wait();
    return value;
}
"""
# Warps run one after the other. Each processes one row.
_AFTER = r"""
extern "C" void launch(
    int blocks, int rows_together, const uint4* products, int rows, int columns, int filled, unsigned int first_column,
    unsigned long long* best)
{
    blockDim = {32, rows_together};
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < 32; ++lane)
        lanes.emplace_back([=] {
            for (int warps = 0; warps < blocks * rows_together; ++warps) {
                warp.arrive_and_wait();
                if (lane == 0) blockIdx = {warps / rows_together, 0};
                threadIdx = {lane, warps % rows_together};
                warp.arrive_and_wait();
                best_of_rows(products, rows, columns, filled, first_column, best);
            }
        });
    for (auto& lane : lanes) lane.join();
}

extern "C" void launch_columns(
    int blocks_x, int blocks_y, int threads, const uint4* products, int rows, int columns, int filled, int rows_each,
    unsigned int first_row, unsigned long long* best)
{
    blockDim = {threads, 1};
    for (int y = 0; y < blocks_y; ++y)
        for (int x = 0; x < blocks_x; ++x)
            for (int thread = 0; thread < threads; ++thread) {
                blockIdx = {x, y};
                threadIdx = {thread, 0};
                best_of_columns(products, rows, columns, filled, rows_each, first_row, best);
            }
}
"""


def build(kernel: str, folder: Path) -> Any:
    """A replacement for the module cupy that can run only the kernels in `kernel`."""
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(_BEFORE + kernel + _AFTER)
    assert COMPILER is not None
    command = [COMPILER, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    built = ctypes.CDLL(str(library))

    def best_of_rows(grid: tuple[int], block: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        products, rows, columns, filled, first, best = arguments
        assert block[0] == 32 and grid[0] * block[1] >= rows and columns % 8 == 0
        built.launch(
            grid[0],
            block[1],
            ctypes.c_void_p(products.ctypes.data),
            int(rows),
            int(columns),
            int(filled),
            ctypes.c_uint(int(first)),
            ctypes.c_void_p(best.ctypes.data),
        )

    def best_of_columns(grid: tuple[int, int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
        products, rows, columns, filled, rows_each, first, best = arguments
        assert grid[0] * block[0] * 8 >= columns and grid[1] * rows_each >= rows and len(best) >= filled
        sizes = (int(rows), int(columns), int(filled), int(rows_each), ctypes.c_uint(int(first)))
        places = ctypes.c_void_p(products.ctypes.data), ctypes.c_void_p(best.ctypes.data)
        built.launch_columns(*grid, *block, places[0], *sizes, places[1])

    def dot(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
        assert out.flags.c_contiguous and first.dtype == second.dtype == out.dtype == np.float16
        out[:] = first.astype(np.float32) @ second.astype(np.float32)

    def raw_kernel(code: str, name: str) -> Any:
        assert code == kernel
        return {"best_of_rows": best_of_rows, "best_of_columns": best_of_columns}[name]

    return SimpleNamespace(
        from_dlpack=lambda tensor: _in_numpy(tensor),
        dot=dot,
        RawKernel=raw_kernel,
        int32=np.int32,
        uint32=np.uint32,
        uint64=np.uint64,
    )


def _in_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A writable array that shares the memory of the tensor."""
    return tensor.numpy()
