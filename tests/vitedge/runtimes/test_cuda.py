# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_stand_in import install
from vitedge.errors import DeviceFailed, MissingBackend
from vitedge.runtimes import cuda
from vitedge.runtimes.cuda import Gpu, Stream, gpu


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    return ctypes.CDLL(str(install(tmp_path, monkeypatch)))


def test_the_gpu_is_named_with_its_capability(driver: ctypes.CDLL) -> None:
    assert gpu() == Gpu("Stand-in GPU", "SM86", "12.4")
    assert driver.left() == 0


def test_an_array_goes_to_the_device_and_back(driver: ctypes.CDLL) -> None:
    there = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    back = np.zeros_like(there)
    with Stream() as stream:
        address = stream.memory("x", there.nbytes)
        stream.to_device(address, there)
        stream.to_host(back, address)
        stream.synchronize()
        assert driver.left() == 3  # block, stream and context
    np.testing.assert_array_equal(back, there)
    assert driver.left() == 0


def test_a_block_is_kept_until_it_is_too_small(driver: ctypes.CDLL) -> None:
    with Stream() as stream:
        first = stream.memory("x", 100)
        assert stream.memory("x", 100) == stream.memory("x", 10) == first
        assert stream.memory("y", 0) != 0
        stream.memory("x", 200)
        assert driver.left() == 4  # two blocks: the smaller one was freed
    assert driver.left() == 0


def test_an_error_of_the_gpu_has_its_name_and_frees_everything(driver: ctypes.CDLL) -> None:
    with pytest.raises(DeviceFailed, match=r"cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY\.$") as caught, Stream() as stream:
        stream.memory("x", 2 << 20)
    assert caught.value.exit_code == 5
    with pytest.raises(DeviceFailed, match=r"cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"), Stream() as stream:
        driver.fail_next(700)
        stream.synchronize()
    with pytest.raises(DeviceFailed, match=r"CUDA error 999"), Stream() as stream:
        driver.fail_next(999)
        stream.synchronize()
    assert driver.left() == 0


def test_a_stream_that_is_not_open_does_nothing(driver: ctypes.CDLL) -> None:
    with pytest.raises(RuntimeError, match="in a with statement"):
        Stream().memory("x", 1)


def test_a_driver_without_a_gpu_is_one_sentence(driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_NO_GPU", "1")
    for use in (gpu, Stream().__enter__):
        with pytest.raises(MissingBackend, match=r"no GPU that its driver can use \(CUDA_ERROR_NO_DEVICE\)") as caught:
            use()
        assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("system", "lack"),
    [
        ("Linux", r"no NVIDIA driver \(libcuda_not_there\.so\)"),
        ("Windows", r"no NVIDIA driver \(not_there\.dll\)"),
        ("Darwin", "no CUDA on its system"),
    ],
)
def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch, system: str, lack: str) -> None:
    monkeypatch.setattr(cuda.platform, "system", lambda: system)
    monkeypatch.setattr(cuda, "LIBRARIES", {"Linux": ("libcuda_not_there.so",), "Windows": ("not_there.dll",)})
    with pytest.raises(MissingBackend, match=lack):
        gpu()
