"""A Python interpreter that runs code in isolation from the rest of the machine.

process.py      starts the interpreter, sends it code, reads its output, and stops it when it exceeds a limit
jail.py         the script that isolates it: namespaces, mounts, limits, and the supervisor
interpreter.py  the script that runs the code
seccomp.py      the system call filter on Linux
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
