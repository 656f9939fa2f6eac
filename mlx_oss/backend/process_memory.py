"""The most memory that this process has used, as the system counts it. Knows nothing of MLX.

On a Mac this is the physical footprint, which Activity Monitor shows as "Memory". It includes what the GPU uses, unlike
the resident memory that getrusage(2) reports. Not tested on a Mac: if the call fails, the resident memory is returned.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_RUSAGE_INFO_V4 = 4
# struct rusage_info_v4 in sys/resource.h: a UUID of 16 bytes, then numbers of 64 bits.
_UUID_BYTES, _NUMBERS = 16, 35
_LIFETIME_MAX_PHYS_FOOTPRINT = 28  # index of ri_lifetime_max_phys_footprint among the numbers


class _RusageInfoV4(ctypes.Structure):
    _fields_ = (("uuid", ctypes.c_uint8 * _UUID_BYTES), ("numbers", ctypes.c_uint64 * _NUMBERS))


def peak_memory_bytes() -> int:
    """Peak memory of the process in bytes: the physical footprint on a Mac, the resident memory elsewhere."""
    if sys.platform == "darwin" and (footprint := _peak_footprint()):
        return footprint
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _peak_footprint() -> int | None:
    """The largest physical footprint since the process began, from proc_pid_rusage in libproc.h. None if that fails."""
    info = _RusageInfoV4()
    try:
        proc_pid_rusage = ctypes.CDLL("/usr/lib/libproc.dylib").proc_pid_rusage
    except (OSError, AttributeError):
        return None
    if proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V4, ctypes.byref(info)) != 0:
        return None
    return int(info.numbers[_LIFETIME_MAX_PHYS_FOOTPRINT])
