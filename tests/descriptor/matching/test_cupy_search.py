"""CuPy without a GPU: the kernel of its engine, and its error messages."""

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from descriptor.matching.engines import choice as engines
from descriptor.matching.engines.choice import choose_engine
from descriptor.matching.engines.cupy_search import KERNEL
from descriptor.matching.engines.torch_search import TorchSearch
from pipeline.errors import LumenError

CPU = torch.device("cpu")


def test_the_kernel_compiles_for_every_gpu_since_turing() -> None:
    nvrtc = _nvrtc()
    for architecture in (75, 80, 90, 120):
        program = ctypes.c_void_p()
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), KERNEL.encode(), b"kernel.cu", 0, None, None) == 0
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture=sm_{architecture}".encode())
        result = nvrtc.nvrtcCompileProgram(program, 1, options)
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert result == 0 and not log.value.strip(), log.value.decode()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        assert size.value > 0
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc() -> ctypes.CDLL:
    """NVIDIA's runtime compiler, which needs no GPU."""
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or [] if package else []:
        for library in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(library))
    pytest.skip("NVRTC is not installed (nvidia-cuda-nvrtc)")


def test_without_cupy_the_error_states_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        LumenError, match=r"--matcher cupy: CuPy is not installed: pip install .*cuda1.*--matcher torch"
    ):
        choose_engine("cupy", CPU)


def test_a_broken_cupy_is_distinguished_from_a_missing_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    message = "\n====\nFailed to import\n\nlibcuda.so.1: no such file\n==="
    (tmp_path / "cupy.py").write_text(f"raise ImportError({message!r})")
    with pytest.raises(LumenError, match=r"CuPy is installed but broken \(ImportError: libcuda.so.1: no such file\)"):
        choose_engine("cupy", CPU)
    (tmp_path / "cupy.py").write_text("import a_package_that_it_needs")
    with pytest.raises(LumenError, match="installed but broken .*a_package_that_it_needs"):
        choose_engine("cupy", CPU)


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cupy_without_a_gpu_is_reported() -> None:
    with pytest.raises(LumenError, match=r"--matcher cupy: CuPy \d+.* is installed but finds no GPU"):
        choose_engine("cupy", CPU)


def test_a_gpu_that_pytorch_does_not_use_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_gpu(monkeypatch)
    with pytest.raises(
        LumenError, match=r"CuPy finds a GPU, but PyTorch .* computes descriptors on the CPU.*--device cuda"
    ):
        choose_engine("cupy", CPU)


def test_auto_falls_back_to_torch_and_logs_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _pretend_gpu(monkeypatch)
    # Creating a kernel fails.
    assert isinstance(choose_engine("auto", torch.device("cuda", 0)), TorchSearch)
    assert "with torch on the GPU (CuPy 0 finds the GPU but is broken (AttributeError" in caplog.text
    assert isinstance(choose_engine("auto", CPU), TorchSearch)
    assert "with torch on the CPU" in caplog.text


def _pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    cupy = SimpleNamespace(__version__="0", cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(engines, "_import_cupy", lambda: cupy)
