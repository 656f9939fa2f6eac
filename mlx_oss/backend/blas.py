"""Loads a fast BLAS for MLX's CPU backend if the system has one.

On Linux, MLX's wheels are linked with the reference BLAS, which multiplies float32 matrices about sixty times slower
than OpenBLAS on two cores. The dynamic linker looks up MLX's BLAS symbols first in libraries that were loaded globally
before MLX, so loading OpenBLAS early is enough. Without a fast BLAS everything works, only slower. Knows nothing of MLX
itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

# File names used by Debian, Fedora and conda. All of them have the C interface (cblas_sgemm) with 32-bit sizes.
_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libblis.so.4")


@lru_cache(maxsize=1)
def prefer_fast_blas() -> str | None:
    """Loads the first fast BLAS found, so that libraries loaded later use it.

    Does nothing on macOS, where MLX uses Accelerate, or if MLX is already loaded, because then it is too late.

    Returns:
        The name of the library, or None if none was loaded.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    for name in (*_NAMES, *(str(Path(sys.prefix, "lib", name)) for name in _NAMES)):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:  # the library, or one that it needs, is missing
            continue
        if hasattr(library, "cblas_sgemm"):
            _use_one_thread(library)
            return name
    return None


def _use_one_thread(library: ctypes.CDLL) -> None:
    """Makes the library compute each product on one core, unless OPENBLAS_NUM_THREADS is set.

    The model already divides its products among the cores, so the library's own threads would only wait for each other.
    """
    if "OPENBLAS_NUM_THREADS" not in os.environ and hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(1)
