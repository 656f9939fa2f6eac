"""What the process that starts a jail passes to it, and what it is told. Knows nothing of how a jail works."""

from __future__ import annotations

from typing import TypedDict

TOO_MUCH_MEMORY, TOO_MANY_PROCESSES, NO_JAIL, UNWATCHED = 90, 91, 92, 93  # exit statuses of the jail
CALL_BEGINS = b"1"  # what the starting process writes to the pipe `calls`
CGROUP, WATCHED, DONE = b"cgroup\n", b"watched\n", b"done\n"  # lines for `status`: ready, by what memory is held; done


class Config(TypedDict):
    """How a program is to run."""

    namespaces: bool  # whether to isolate the program; otherwise it is only limited
    root: str  # an empty folder, where the new file system is built
    work: str  # the working directory, as the program sees it
    visible: list[str]  # the files, links and folders that the program can read in its own file system
    command: list[str]
    environment: dict[str, str]
    filter: str  # the seccomp filter in hexadecimal; empty if there is none for this machine
    ps: str  # the ps command; empty on Linux, where /proc has the usage
    ps_seconds: float  # for ps to answer
    interval: float  # seconds between two checks of the usage, at most
    requests: int  # file descriptor of the pipe through which the program gets code
    calls: int  # file descriptor of a pipe that says when a call begins; closed when the starting process is gone
    status: int  # file descriptor of a socket on which the supervisor passes the working directory and tells the state
    cgroup: list[str | int] | None  # the fields of a `cgroup.Cgroup`
    starter: int  # process id of the starting process
    memory_bytes: int
    file_bytes: int
    processes: int
