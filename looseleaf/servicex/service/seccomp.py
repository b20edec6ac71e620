"""The jail's filter of system calls, as a program for the kernel (seccomp), which bubblewrap loads.

It refuses what the jail's other limits don't reach: the kernel's keyrings, memory outside of a
process's address space, further processes, new namespaces, the memory of other processes, and
sockets of other kinds than Unix's. A call by another table of numbers (32 bits, x32) kills the
process, since these numbers mean something else there.

Sources: linux/seccomp.h, linux/filter.h, linux/audit.h, asm/unistd.h.
"""

import errno
import platform
import socket
import struct

# the audit number of each architecture, and the calls' numbers in the same order
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "io_uring_setup": (425, 425),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    # not needed by physics, and a way into many kernels
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    # the kernel's log
    "syslog": (103, 116),
}
# decided by their first argument, or by another error
SPECIAL = ("clone", "clone3", "socket", "socketpair")

# x32 has the numbers of x86_64 with this bit
X32 = 0x40000000
CLONE_THREAD = 0x10000
# offsets in struct seccomp_data; of the first argument, its lower half on little-endian machines
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16
LOAD, EQUAL, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, ERROR, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def number(call: str, machine: str | None = None) -> int | None:
    """A call's number on `machine` (default: this one); None if it doesn't exist there."""
    return CALLS[call][list(ARCHITECTURES).index(machine or platform.machine())]


def unsupported() -> str | None:
    """Why there is no filter for this machine; None if there is one."""
    machine = platform.machine()
    if machine in ARCHITECTURES:
        return None
    return f"its seccomp filter is for {' and '.join(ARCHITECTURES)}, and this machine is {machine}"


def program(machine: str | None = None) -> bytes:
    """The filter for `machine` (default: this one), an array of struct sock_filter."""
    machine = machine or platform.machine()
    lines = [
        _line(LOAD, ARCHITECTURE),
        _line(EQUAL, ARCHITECTURES[machine], 1, 0),
        _line(RETURN, KILL),
        _line(LOAD, NUMBER),
        _line(AT_LEAST, X32, 0, 1),
        _line(RETURN, KILL),
    ]
    for call in CALLS:
        if call not in SPECIAL:
            lines += _on(call, machine, [_line(RETURN, ERROR | errno.EPERM)])
    # as on a kernel without it, so that the C library takes clone
    lines += _on("clone3", machine, [_line(RETURN, ERROR | errno.ENOSYS)])
    thread = _unless(HAS_BIT, CLONE_THREAD, errno.EPERM)
    lines += _on("clone", machine, thread)
    for call in ("socket", "socketpair"):
        lines += _on(call, machine, _unless(EQUAL, int(socket.AF_UNIX), errno.EAFNOSUPPORT))
    return b"".join([*lines, _line(RETURN, ALLOW)])


def _line(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """One instruction; jumps count the instructions that are left out."""
    return struct.pack("=HBBI", code, if_so, if_not, value)


def _on(call: str, machine: str, then: list[bytes]) -> list[bytes]:
    """Instructions for one call, whose number is loaded."""
    its = number(call, machine)
    return [] if its is None else [_line(EQUAL, its, 0, len(then)), *then]


def _unless(test: int, value: int, error: int) -> list[bytes]:
    """Refuse a call with `error` unless its first argument passes `test`."""
    return [
        _line(LOAD, ARGUMENT),
        _line(test, value, 1, 0),
        _line(RETURN, ERROR | error),
        _line(RETURN, ALLOW),
    ]
