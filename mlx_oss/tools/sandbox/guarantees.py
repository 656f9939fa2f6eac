"""What each kind of isolation guarantees, in English sentences. Knows nothing of how it is done."""

from __future__ import annotations

from typing import Literal

Isolation = Literal["namespaces", "seatbelt", "limits"]
Memory = Literal["cgroup", "watched"]

GUARANTEES: dict[Isolation, str] = {
    "namespaces": """\
Isolated with Linux user, mount, process and network namespaces, and with a filter that permits only the system calls
that Python and its libraries need. The code has no network, not even to this machine, and opens sockets only of the
families UNIX, INET, INET6 and NETLINK. It sees only the files of the system libraries and of Python itself (executable,
standard library, shared libraries, packages), not what lies beside them, and cannot write them. Its working directory,
/tmp and /dev/shm are in memory, each is limited in size, and they are deleted afterwards. It sees no other processes,
and not the caller's keyring. Time, the number of its processes, and the memory that they use together, including shared
memory, are limited. Memory that is not attributed to any process is refused (memfd, System V, shared mappings without a
file, huge pages). A call ends when the interpreter stops itself; only the supervisor can say so. Then everything that
the code started is stopped, and between calls nothing of it runs, also no thread.""",
    "seatbelt": """\
Isolated with sandbox-exec of macOS. The code has no network. It can write only to a private working directory. It can
read and list nothing in homes (/Users, yours, root's), on other volumes (/Volumes, /Network) and in temporary folders,
except for that directory and for Python's own files, and reads from no terminal; it can find out whether a path exists
in those places. It can read all other files and run all programs that you can, and see your processes with their
arguments and environment. POSIX and System V shared memory is refused. Memory in RAM and number of the processes in
its process group are checked twice a second while code runs and once when a call ends; time and the size of a file are
limited. A process that leaves the group is neither counted nor stopped. Between calls the interpreter is stopped, with
all of its threads; processes that the code has started run on, and can continue it. Not tested on a Mac.""",
    "limits": """\
Not isolated, only limited: time, memory, number of processes, and the size of files. On systems other than Linux,
memory and processes are checked twice a second while code runs and once when a call ends, and only processes in the
process group count and are stopped. The code can use the network, and can read and write everything that you can. Files
on a file system in memory, such as /dev/shm, count as memory only while they are mapped. On Linux the same system calls
are refused as in isolation. Between calls the interpreter is stopped; other processes run on.""",
}
MEMORY: dict[Memory, str] = {
    "cgroup": """\
A cgroup holds the memory: all processes together cannot exceed the limit, and the kernel's buffers count too.""",
    "watched": """\
No cgroup may be made here, so the memory is not held but watched: it is read up to 500 times a second, and above the
limit everything is stopped to count precisely. Many processes that allocate at once can exceed the limit for moments,
before all are killed. The address space of one process is three quarters of the limit. In namespaces
a socket counts as much as can wait in it; other buffers of the kernel are not counted.""",
}
