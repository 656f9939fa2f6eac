"""A Python interpreter that runs code in isolation from the rest of the machine.

process.py      starts the interpreter, sends it code, reads its output, and stops it when it exceeds a limit
jail.py         the script that isolates it: namespaces, mounts, limits, and the supervisor
interpreter.py  the script that runs the code
cgroup.py       what holds the memory on Linux, where it is permitted
private_folder.py  its folder in the temporary folder
seccomp.py      the system call filter on Linux
seatbelt.py     the sandbox profile on macOS
this_python.py  the files that the interpreter needs
trial.py        tries out what is promised
"""

from mlx_oss.tools.sandbox.process import (
    GUARANTEES,
    Ending,
    Isolation,
    Limits,
    Output,
    Sandbox,
    guarantees,
    isolation_here,
)

__all__ = ["GUARANTEES", "Ending", "Isolation", "Limits", "Output", "Sandbox", "guarantees", "isolation_here"]
