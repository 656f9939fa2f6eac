"""Isolates a program, starts it and supervises it.

`process.py` starts `main.py` in a Python process of its own, with `-I -S`. So the files of this package import only
each other and the standard library.

config.py       what the starting process passes, and what it is told
main.py         isolates the process, starts the program, and leaves the rest to the supervisor
linux.py        system calls of Linux that Python has no functions for
namespaces.py   a file system, processes and a network of its own, on Linux
cgroup.py       what holds the memory on Linux, where it is permitted
program.py      the program's limits, user and filter
supervisor.py   waits for the ends of calls, and for limits that are exceeded
processes.py    finds, stops and kills the program's processes
usage.py        what they use, from /proc
ps.py           what they use, from the ps command, where there is no /proc
"""
