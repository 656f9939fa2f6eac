"""The system call filter (seccomp, as a BPF program) for the sandbox on Linux.

It lists the calls that Python, numpy, matplotlib, subprocess, multiprocessing, asyncio and sqlite need, and refuses all
others. Of `socket`, `prctl` and `ioctl` it also lists arguments, and of `clone` and `mmap` it refuses some: those that
make namespaces, and memory that is attributed to no process and so cannot be counted. Limits, priority and processors
can be changed, but not those of the supervisor, which may have the same user. Setting the size of a socket's buffers
succeeds and does nothing, so that what they hold is known. The numbers for x86_64 have been tried; those for aarch64
and riscv64 come from the kernel's table and have not.

A refused call fails with EPERM. Calls that are newer than Linux 5.0 fail with ENOSYS, as on an older kernel: programs
then use older ones. One of them is clone3, which has its flags in memory, where a filter cannot read them.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Iterable

# Names and numbers: on x86_64, and in `asm-generic/unistd.h`, which aarch64 and riscv64 use.
_TABLE = """
accept 43 202  accept4 288 242  access 21 -  alarm 37 -  arch_prctl 158 -  bind 49 200  brk 12 214  capget 125 90
chdir 80 49  chmod 90 -  chown 92 -  clock_getres 229 114  clock_gettime 228 113  clock_nanosleep 230 115
clone 56 220  close 3 57  close_range 436 436  connect 42 203  copy_file_range 326 285  creat 85 -  dup 32 23
dup2 33 -  dup3 292 24  epoll_create 213 -  epoll_create1 291 20  epoll_ctl 233 21  epoll_pwait 281 22
epoll_pwait2 441 441  epoll_wait 232 -  eventfd 284 -  eventfd2 290 19  execve 59 221  execveat 322 281  exit 60 93
exit_group 231 94  faccessat 269 48  faccessat2 439 439  fadvise64 221 223  fallocate 285 47  fchdir 81 50
fchmod 91 52  fchmodat 268 53  fchmodat2 452 452  fchown 93 55  fchownat 260 54  fcntl 72 25  fdatasync 75 83
fgetxattr 193 10  flistxattr 196 13  flock 73 32  fork 57 -  fstat 5 80  fstatfs 138 44  fsync 74 82
ftruncate 77 46  futex 202 98  futex_waitv 449 449  futimesat 261 -  get_mempolicy 239 236  get_robust_list 274 100
getcpu 309 168  getcwd 79 17  getdents 78 -  getdents64 217 61  getegid 108 177  geteuid 107 175  getgid 104 176
getgroups 115 158  getitimer 36 102  getpeername 52 205  getpgid 121 155  getpgrp 111 -  getpid 39 172
getppid 110 173  getpriority 140 141  getrandom 318 278  getresgid 120 150  getresuid 118 148  getrlimit 97 163
getrusage 98 165  getsid 124 156  getsockname 51 204  getsockopt 55 209  gettid 186 178  gettimeofday 96 169
getuid 102 174  getxattr 191 8  ioctl 16 29  kill 62 129  lchown 94 -  lgetxattr 192 9  link 86 -  linkat 265 37
listen 50 201  listxattr 194 11  llistxattr 195 12  lseek 8 62  lstat 6 -  madvise 28 233  map_shadow_stack 453 453
membarrier 324 283  mincore 27 232  mkdir 83 -  mkdirat 258 34  mknod 133 -  mknodat 259 33  mmap 9 222
mprotect 10 226  mremap 25 216  msync 26 227  munmap 11 215  nanosleep 35 101  newfstatat 262 79  open 2 -
openat 257 56  pause 34 -  pidfd_open 434 434  pidfd_send_signal 424 424  pipe 22 -  pipe2 293 59  poll 7 -
ppoll 271 73  prctl 157 167  pread64 17 67  preadv 295 69  preadv2 327 286  prlimit64 302 261  pselect6 270 72
pwrite64 18 68  pwritev 296 70  pwritev2 328 287  read 0 63  readahead 187 213  readlink 89 -  readlinkat 267 78
readv 19 65  recvfrom 45 207  recvmmsg 299 243  recvmsg 47 212  rename 82 -  renameat 264 38  renameat2 316 276
restart_syscall 219 128  rmdir 84 -  rseq 334 293  rt_sigaction 13 134  rt_sigpending 127 136  rt_sigprocmask 14 135
rt_sigqueueinfo 129 138  rt_sigreturn 15 139  rt_sigsuspend 130 133  rt_sigtimedwait 128 137
rt_tgsigqueueinfo 297 240  sched_get_priority_max 146 125  sched_get_priority_min 147 126  sched_getaffinity 204 123
sched_getattr 315 275  sched_getparam 143 121  sched_getscheduler 145 120  sched_rr_get_interval 148 127
sched_setaffinity 203 122  sched_yield 24 124  select 23 -  sendfile 40 71  sendmmsg 307 269  sendmsg 46 211
sendto 44 206  set_robust_list 273 99  set_tid_address 218 96  setitimer 38 103  setpgid 109 154
setpriority 141 140  setrlimit 160 164  setsid 112 157  setsockopt 54 208  shutdown 48 210  sigaltstack 131 132
signalfd 282 -  signalfd4 289 74  socket 41 198  socketpair 53 199  stat 4 -  statfs 137 43  statx 332 291
symlink 88 -  symlinkat 266 36  sync_file_range 277 84  sysinfo 99 179  tgkill 234 131  time 201 -
timer_create 222 107  timer_delete 226 111  timer_getoverrun 225 109  timer_gettime 224 108  timer_settime 223 110
timerfd_create 283 85  timerfd_gettime 287 87  timerfd_settime 286 86  times 100 153  tkill 200 130  truncate 76 45
umask 95 166  uname 63 160  unlink 87 -  unlinkat 263 35  utime 132 -  utimensat 280 88  utimes 235 -  vfork 58 -
wait4 61 260  waitid 247 95  write 1 64  writev 20 66
"""
# By machine: its AUDIT_ARCH number in `linux/audit.h`, its column in the table, and calls that only it has. All are
# 64-bit and little-endian. Those of riscv64 are riscv_hwprobe and riscv_flush_icache.
_MACHINES: dict[str, tuple[int, int, dict[str, int]]] = {
    "x86_64": (0xC000003E, 1, {}),
    "aarch64": (0xC00000B7, 2, {}),
    "riscv64": (0xC00000F3, 2, {"riscv_hwprobe": 258, "riscv_flush_icache": 259}),
}
_FIRST_AFTER_5_0 = 424  # on every machine
_FIRST_OF_X32 = 0x40000000  # call numbers from here on belong to x32, another ABI of x86_64

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16  # socket families
_PROTOCOLS = (0, 1, 6, 17, 58)  # default, ICMP, TCP, UDP, ICMPv6; the kernel would load modules for others
_SOL_SOCKET, _BUFFER_SIZES = 1, (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and the forms with privileges
_NETLINK_ROUTE = 0  # lists the network interfaces
# Name, signal at the parent's death, whether privileges can be gained, huge pages, names of mappings.
_PRCTL = (1, 2, 3, 15, 16, 21, 23, 30, 37, 38, 39, 40, 41, 42, 51, 0x53564D41)
# Terminals (TCGETS to TCSETSF, their later forms, session, group, size), pipes and sockets (FIONREAD, FIONBIO, FIOCLEX,
# FIONCLEX), pseudo-terminals (TIOCGPTN, TIOCSPTLCK), network interfaces (SIOCGIFNAME to SIOCGIFINDEX).
_IOCTL: tuple[int, ...] = (
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x802C542A,
    0x402C542B,
    0x402C542C,
    0x402C542D,
    0x540E,
    0x540F,
    0x5410,
    0x5413,
)
_IOCTL += (0x5414, 0x541B, 0x5421, 0x5451, 0x5450, 0x80045430, 0x40045431, 0x8910, 0x8912, 0x8913, 0x8915, 0x8933)
_SUPERVISOR = 1  # its process id in the namespace
_NAMESPACES = 0x7E020000  # the flags of `clone` for new namespaces
_SHARED_ANONYMOUS, _HUGE = 0x01 | 0x20, 0x40000  # MAP_SHARED | MAP_ANONYMOUS, MAP_HUGETLB

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _MACHINE = 0, 4  # offsets in `struct seccomp_data`
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000


def program(machine: str) -> bytes:
    """Returns the filter for a machine type as `os.uname` names it; empty if its call numbers are not known."""
    if machine not in _MACHINES:
        return b""
    audit_arch, _, _ = _MACHINES[machine]
    numbers = call_numbers(machine)
    steps = [_step(_LOAD, _MACHINE), _step(_EQUAL, audit_arch, skip=1), _refuse(errno.EPERM), _step(_LOAD, _NUMBER)]
    for name, checks in _checked_calls().items():
        steps += [_step(_EQUAL, numbers[name], skip_else=len(checks)), *checks]
    actions = {0: _REFUSE | errno.EPERM, _FIRST_AFTER_5_0: _REFUSE | errno.ENOSYS, _FIRST_OF_X32: _REFUSE | errno.EPERM}
    for number in sorted(numbers.values(), reverse=True):
        after = actions.get(number + 1) or (_REFUSE | (errno.EPERM if number + 1 < _FIRST_AFTER_5_0 else errno.ENOSYS))
        actions |= {number + 1: after, number: _ALLOW}
    starts = sorted(actions)
    for start, end in itertools.pairwise(starts):
        if actions[start] != actions[end]:
            steps += [_step(_AT_LEAST, end, skip=1), _step(_RETURN, actions[start])]
    return b"".join([*steps, _step(_RETURN, actions[starts[-1]])])


def call_numbers(machine: str) -> dict[str, int]:
    """The calls that the filter for a machine type permits, some only with certain arguments: numbers by name."""
    _, column, own = _MACHINES[machine]
    words = _TABLE.split()
    rows = zip(words[::3], words[1::3], words[2::3], strict=True)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"} | own


def _checked_calls() -> dict[str, list[bytes]]:
    """By name of a call, the instructions that look at its arguments. They end with an answer."""
    family, allow = _argument(0), [_step(_RETURN, _ALLOW)]
    internet = [_argument(2), *_one_of(_PROTOCOLS), _refuse(errno.EPROTONOSUPPORT)]
    netlink = [_argument(2), *_one_of([_NETLINK_ROUTE]), _refuse(errno.EPROTONOSUPPORT)]
    socket = [family, *_one_of([_UNIX])]
    for number, then in ((_INET, internet), (_INET6, internet), (_NETLINK, netlink)):
        socket += [_step(_EQUAL, number, skip_else=len(then)), *then]
    socket.append(_refuse(errno.EAFNOSUPPORT))
    shared = [_argument(3), _step(_AND, _SHARED_ANONYMOUS), _step(_EQUAL, _SHARED_ANONYMOUS, skip_else=1)]
    huge = [_argument(3), _step(_AND, _HUGE), _step(_EQUAL, 0, skip=1)]
    sizes = [step for size in _BUFFER_SIZES for step in (_step(_EQUAL, size, skip_else=1), _refuse(0))]
    of_socket = [_argument(2), *sizes]
    return {
        "setsockopt": [_argument(1), _step(_EQUAL, _SOL_SOCKET, skip_else=len(of_socket)), *of_socket, *allow],
        "socket": socket,
        "socketpair": socket,
        "prlimit64": [_argument(0), *_one_of([0]), _refuse(errno.EPERM)],
        "setpriority": [_argument(0), _step(_EQUAL, 0, skip_else=3), _argument(1), *_one_of([0]), _refuse(errno.EPERM)],
        "sched_setaffinity": [_argument(0), _step(_EQUAL, _SUPERVISOR, skip_else=1), _refuse(errno.EPERM), *allow],
        "prctl": [_argument(0), *_one_of(_PRCTL), _refuse(errno.EINVAL)],
        "ioctl": [_argument(1), *_one_of(_IOCTL), _refuse(errno.ENOTTY)],
        "clone": [_argument(0), _step(_AND, _NAMESPACES), _step(_EQUAL, 0, skip=1), _refuse(errno.EPERM), *allow],
        "mmap": [*shared, _refuse(errno.EPERM), *huge, _refuse(errno.EPERM), *allow],
    }


def _one_of(values: Iterable[int]) -> list[bytes]:
    """Allows the call if what was loaded is one of these values; otherwise goes on."""
    return [step for value in values for step in (_step(_EQUAL, value, skip_else=1), _step(_RETURN, _ALLOW))]


def _argument(index: int) -> bytes:
    """Loads the lower half of an argument. The kernel ignores the upper half of those that are looked at."""
    return _step(_LOAD, 16 + 8 * index)


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _REFUSE | error)


def _step(code: int, value: int, skip: int = 0, skip_else: int = 0) -> bytes:
    """One instruction (`struct sock_filter`). A comparison skips `skip` steps if true, `skip_else` steps if false."""
    return struct.pack("<HBBI", code, skip, skip_else, value)
