# SPDX-License-Identifier: Apache-2.0
"""Memory and one stream of an NVIDIA GPU, through the CUDA driver library and ctypes.

The driver library is there wherever an engine can run; the CUDA runtime library, and PyTorch, need not be. It works in
the device's primary context, which TensorRT and PyTorch use too (CUDA Driver API, "Primary Context Management"), so an
address from here is good for both. Functions, types and error names are those of NVIDIA's CUDA Driver API.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitedge.errors import DeviceFailed, MissingBackend

LIBRARIES: Mapping[str, tuple[str, ...]] = {"Linux": ("libcuda.so.1", "libcuda.so"), "Windows": ("nvcuda.dll",)}
"""Value of ``platform.system()`` to the names of the driver library there."""

_FUNCTIONS: Mapping[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
}
_CAPABILITY = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that CUDA takes when no other is chosen: the first of ``CUDA_VISIBLE_DEVICES``."""

    name: str
    """NVIDIA's name, such as ``NVIDIA GeForce RTX 3080``."""
    capability: str
    """Compute capability, such as ``SM86``."""
    cuda: str
    """The newest version of CUDA that the driver knows, such as ``12.4``."""


def gpu() -> Gpu:
    """Returns the GPU of this machine; nothing is allocated there.

    Raises:
        MissingBackend: there is no NVIDIA driver, or no GPU that it can use.
    """
    driver = _Driver()
    name, version, major, minor = ctypes.create_string_buffer(256), c_int(), c_int(), c_int()
    driver.call("cuDeviceGetName", name, len(name), driver.device)
    driver.call("cuDriverGetVersion", ctypes.byref(version))
    for place, attribute in zip((major, minor), _CAPABILITY):
        driver.call("cuDeviceGetAttribute", ctypes.byref(place), attribute, driver.device)
    return Gpu(
        name.value.decode(),
        f"SM{major.value}{minor.value}",
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


class Stream:
    """A stream of the GPU and the memory that goes with it: ``with Stream() as stream: …`` frees both."""

    def __init__(self) -> None:
        self.handle = 0
        """The stream as TensorRT takes it, an integer."""
        self._blocks: dict[str, tuple[int, int]] = {}
        self._driver: _Driver | None = None

    def __enter__(self) -> Stream:
        """Retains the primary context, makes it this thread's, and creates the stream.

        Raises:
            MissingBackend: there is no NVIDIA driver, or no GPU that it can use.
            DeviceFailed: the GPU refused.
        """
        driver, context, handle = _Driver(), c_void_p(), c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), driver.device)
        self._driver = driver
        try:
            driver.call("cuCtxSetCurrent", context)
            driver.call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        except DeviceFailed:
            self.__exit__()
            raise
        self.handle = handle.value or 0
        return self

    def memory(self, name: str, size: int) -> int:
        """Returns the address of a block of device memory, the same one as long as it is large enough.

        Args:
            name: of the block.
            size: bytes that it has to hold.

        Raises:
            DeviceFailed: there is not enough memory.
        """
        address, there = self._blocks.get(name, (0, 0))
        if there < max(size, 1):
            self._free(name)
            found = c_uint64()
            self._call("cuMemAlloc_v2", ctypes.byref(found), max(size, 1))
            address = found.value
            self._blocks[name] = (address, max(size, 1))
        return address

    def to_device(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Starts copying a C-contiguous array to device memory; it has to stay as it is until `synchronize`."""
        self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.handle)

    def to_host(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Starts copying device memory to a C-contiguous array, which is filled after `synchronize`."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.handle)

    def synchronize(self) -> None:
        """Waits for all that was started.

        Raises:
            DeviceFailed: some of it failed.
        """
        self._call("cuStreamSynchronize", self.handle)

    def __exit__(self, *error: object) -> None:
        """Frees everything; a device that has died refuses that, and the first error is the one to be told."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        for address, _ in self._blocks.values():
            driver.attempt("cuMemFree_v2", address)
        self._blocks.clear()
        if self.handle:
            driver.attempt("cuStreamDestroy_v2", self.handle)
            self.handle = 0
        driver.attempt("cuDevicePrimaryCtxRelease_v2", driver.device)

    def _free(self, name: str) -> None:
        address, _ = self._blocks.pop(name, (0, 0))
        if address:
            self._call("cuMemFree_v2", address)

    def _call(self, function: str, *arguments: Any) -> None:
        if self._driver is None:
            raise RuntimeError("The stream is not open: use it in a with statement.")
        self._driver.call(function, *arguments)


class _Driver:
    """The driver library, initialized, and the number of the device."""

    def __init__(self) -> None:
        self._library = _library()
        self.device = 0
        code = self.attempt("cuInit", 0)
        if code == 0:
            device = c_int()
            code = self.attempt("cuDeviceGet", ctypes.byref(device), 0)
            self.device = device.value
        if code != 0:
            raise MissingBackend(_sentence(f"no GPU that its driver can use ({self._name(code)})"))

    def attempt(self, function: str, *arguments: Any) -> int:
        """Calls a function of the library and returns its code, 0 for success."""
        found = getattr(self._library, function)
        found.argtypes, found.restype = _FUNCTIONS[function], c_int
        return int(found(*arguments))

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a function of the library.

        Raises:
            DeviceFailed: it failed; the sentence has the name of the error.
        """
        code = self.attempt(function, *arguments)
        if code != 0:
            raise DeviceFailed(f"The GPU failed in {function.partition('_')[0]}: {self._name(code)}.")

    def _name(self, code: int) -> str:
        name = c_char_p()
        self.attempt("cuGetErrorName", code, ctypes.byref(name))
        return name.value.decode() if name.value else f"CUDA error {code}"


def _library() -> ctypes.CDLL:
    names = LIBRARIES.get(platform.system(), ())
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise MissingBackend(_sentence(f"no NVIDIA driver ({names[0]})" if names else "no CUDA on its system"))


def _sentence(lack: str) -> str:
    return f"This machine has {lack}: an engine runs where an NVIDIA GPU is, and its ONNX file in ONNX Runtime here."
