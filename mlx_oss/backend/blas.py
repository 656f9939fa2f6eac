"""A fast BLAS for MLX's CPU backend, where the system has one.

On Linux MLX's wheels are linked with the reference BLAS, which multiplies float32 matrices some sixty times slower than
OpenBLAS on two cores. Libraries that are loaded globally before MLX come first when its symbols are looked up, so
loading OpenBLAS early is enough. Without one everything works, only slower. Knows nothing of MLX itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

# As Debian, Fedora and conda name them; all have the C interface (cblas_sgemm) with 32-bit sizes.
_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libblis.so.4")


@lru_cache(maxsize=1)
def prefer_fast_blas() -> str | None:
    """Loads the first fast BLAS found, for all that is loaded later; gives its name, or None.

    Does nothing on macOS, whose MLX uses Accelerate, nor once MLX is loaded: then it is too late.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    for name in (*_NAMES, *(str(Path(sys.prefix, "lib", name)) for name in _NAMES)):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:  # not there, or without a library that it needs
            continue
        if hasattr(library, "cblas_sgemm"):
            _on_one_core(library)
            return name
    return None


def _on_one_core(library: ctypes.CDLL) -> None:
    """Each product is computed on one core, as the model shares its products out among the cores: threads of the
    library's own would only wait for one another. A number in the environment is respected.
    """
    if "OPENBLAS_NUM_THREADS" not in os.environ and hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(1)
