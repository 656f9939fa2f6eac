"""A Python interpreter that cannot reach what lies outside it.

process.py      starts it, sends it code, reads its output, and stops it when it uses too much
jail.py         the script that isolates it: namespaces, mounts, limits, and the supervisor
interpreter.py  the script that runs the code
seccomp.py      the system-call filter on Linux
seatbelt.py     the sandbox profile on macOS
"""

from mlx_oss.tools.sandbox.process import (
    GUARANTEES,
    Ending,
    Isolation,
    Limits,
    Output,
    Sandbox,
    isolation_here,
)

__all__ = ["GUARANTEES", "Ending", "Isolation", "Limits", "Output", "Sandbox", "isolation_here"]
