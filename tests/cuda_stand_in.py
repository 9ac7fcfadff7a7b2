# SPDX-License-Identifier: Apache-2.0
"""A stand-in of the CUDA driver library: the functions that `vitedge.runtimes.cuda` calls, over the host's memory.

It has one GPU, ``Stand-in GPU`` of compute capability 8.6, and 1 MiB of memory. It counts what is not freed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vitedge.runtimes import cuda

SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static int blocks, streams, contexts, broken;
int left(void) { return blocks + streams + contexts; }
int fail_next(int code) { broken = code; return 0; }
int cuInit(unsigned flags) { return getenv("STAND_IN_NO_GPU") ? 100 : 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuGetErrorName(int code, const char **name) {
  *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 100 ? "CUDA_ERROR_NO_DEVICE" :
          code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : NULL;
  return *name ? 0 : 1;
}
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stand-in GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 6; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { contexts++; *context = &contexts; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { contexts--; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (size > 1 << 20) return 2;
  blocks++;
  *address = (uint64_t)(uintptr_t)malloc(size);
  return 0;
}
int cuMemFree_v2(uint64_t address) { blocks--; free((void *)(uintptr_t)address); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
  memcpy((void *)(uintptr_t)to, from, size);
  return stream == &streams ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
  memcpy(to, (void *)(uintptr_t)from, size);
  return stream == &streams ? 0 : 400;
}
int cuStreamCreate(void **stream, unsigned flags) {
  if (flags != 1) return 1;
  streams++;
  *stream = &streams;
  return 0;
}
int cuStreamSynchronize(void *stream) { int code = broken; broken = 0; return code; }
int cuStreamDestroy_v2(void *stream) { streams--; return 0; }
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compiles the stand-in and makes it this machine's driver library; skips the test without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of the CUDA driver: apt-get install gcc")
    source, library = folder / "cuda.c", folder / "libcuda_stand_in.so"
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(library), str(source)], check=True)
    monkeypatch.setattr(cuda.platform, "system", lambda: "Linux")
    monkeypatch.setattr(cuda, "LIBRARIES", {"Linux": ("libcuda_that_is_not_there.so", str(library))})
    return library
