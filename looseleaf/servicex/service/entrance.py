"""The way into the jail: what bubblewrap doesn't do, done before it begins.

    python -m looseleaf.servicex.service.entrance BYTES bwrap OPTIONS... COMMAND...

The process gets a session keyring of its own, and in place of /sys, which no jail shows, a file
system in memory that holds BYTES and a limited number of files. It then becomes bubblewrap, which
is given the filter of system calls. bubblewrap's own `--size` came late (0.7), and sets no limit on
the number of files, whose inodes the kernel doesn't count as size.

Sources: keyctl(2), user_namespaces(7), tmpfs(5).
"""

import ctypes
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from looseleaf.servicex.service.seccomp import number, program

MODULE, SCRATCH, FILES = "looseleaf.servicex.service.entrance", "/sys", 10_000
NOBODY = 65534
JOIN_SESSION_KEYRING = 1
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x4000, 0x40000
# a kernel or a container without keyrings has none to read either
NO_KEYRINGS = (errno.ENOSYS, errno.EPERM)

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(status: int, what: str, *passed_over: int) -> None:
    if status < 0 and (problem := ctypes.get_errno()) not in passed_over:
        raise OSError(problem, f"{what}: {os.strerror(problem)}")


def _leave_keyring() -> None:
    """Join a new session keyring, without the operator's Kerberos tickets."""
    done = _libc.syscall(number("keyctl"), JOIN_SESSION_KEYRING, None)
    _checked(done, "a session keyring of its own", *NO_KEYRINGS)


def _own_mounts() -> None:
    """Enter a mount namespace, for which other users than root need a user namespace."""
    user, group = os.geteuid(), os.getegid()
    _checked(_libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)), "a mount namespace")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _checked(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")


def _mount_scratch(size: int) -> None:
    """Cover SCRATCH by an empty file system, for the user as whom a query runs."""
    user, group = (os.geteuid(), os.getegid()) if os.geteuid() else (NOBODY, NOBODY)
    options = f"size={size},nr_inodes={FILES},mode=700,uid={user},gid={group}".encode()
    done = _libc.mount(b"tmpfs", SCRATCH.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options)
    _checked(done, "a file system in memory")


def _filter() -> int:
    """A descriptor from which bubblewrap reads the filter; it has room for it all."""
    read, write = os.pipe()
    os.write(write, program())
    os.close(write)
    os.set_inheritable(read, True)
    return read


def main(size: int, command: Sequence[str]) -> None:
    try:
        _leave_keyring()
        _own_mounts()
        _mount_scratch(size)
        bwrap, *options = command
        os.execvp(bwrap, [bwrap, "--seccomp", str(_filter()), *options])
    except OSError as problem:
        sys.exit(f"the jail: {problem.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
