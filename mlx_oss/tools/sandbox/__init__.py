"""A Python interpreter that runs code in isolation from the rest of the machine.

process.py      starts the interpreter, sends it code, reads its output, and stops it when it exceeds a limit
output.py       what the code may use, and what comes of it
written.py      reads the files that the code has written
guarantees.py   what is promised, for each kind of isolation
jail/           the process that isolates and supervises it
interpreter.py  the script that runs the code
private_folder.py  its folder in the temporary folder
seccomp.py      the system call filter on Linux
seatbelt.py     the sandbox profile on macOS
this_python.py  the files that the interpreter needs
trial.py        tries out what is promised
"""

from mlx_oss.tools.sandbox.guarantees import GUARANTEES, Isolation
from mlx_oss.tools.sandbox.output import Ending, Limits, Output
from mlx_oss.tools.sandbox.process import Sandbox, guarantees, isolation_here

__all__ = ["GUARANTEES", "Ending", "Isolation", "Limits", "Output", "Sandbox", "guarantees", "isolation_here"]
