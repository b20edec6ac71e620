"""The jail in which Python queries run, made by bubblewrap.

It has the system's programs and libraries, this Python and looseleaf, read-only; the input file,
read-only; an empty /tmp in memory, of limited size; and the output file. It has no network, no
other processes, no keyrings, no capabilities and no way to gain rights. If the service runs as
root, the query runs as nobody. Each jail is entered through `entrance`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import looseleaf
from looseleaf.servicex.service.entrance import MODULE, NOBODY, SCRATCH
from looseleaf.servicex.service.seccomp import unsupported

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
# the parts of /etc that the dynamic linker and the clock need; none of them is secret
SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
ALONE = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
# names and owners of the kernel's keys
KEYS = ("/proc/keys", "/proc/key-users")
# files in /tmp are memory too: a quarter of what a query may use
TMP_SHARE = 4


def visible() -> list[Path]:
    """The folders that a query sees in addition to the system's: Python's, and looseleaf itself."""
    package = Path(looseleaf.__file__).parent
    return list(dict.fromkeys([Path(sys.base_prefix), Path(sys.prefix), package]))


def jailed(command: Sequence[str], reads: Sequence[Path], writes: Path, memory: int) -> list[str]:
    """A command that runs `command` in the jail; its /tmp holds a part of `memory`, in bytes."""
    options = ["bwrap", *ALONE, "--die-with-parent"]
    if os.geteuid() == 0:
        # needed by `give_up_rights`, which drops it
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    # first, since Python or looseleaf may be below /tmp
    options += ["--bind", SCRATCH, "/tmp"]
    for place in (*SYSTEM, *SETTINGS):
        options += [*_way_to(Path(place)), "--ro-bind-try", place, place]
    for folder in visible():
        options += [*_way_to(folder), "--ro-bind", str(folder), str(folder)]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for place in filter(os.path.exists, KEYS):
        options += ["--ro-bind", "/dev/null", place]
    # bubblewrap's own process, which ends the query, is of the query's user
    options += ["--tmpfs", "/proc/1", "--remount-ro", "/proc/1"]
    for path in reads:
        options += [*_way_to(path), "--ro-bind", str(path), str(path)]
    options += _way_to(writes)
    options += ["--bind", str(writes), str(writes), "--chdir", "/tmp", "--setenv", "HOME", "/tmp"]
    options += ["--remount-ro", "/dev", "--remount-ro", "/", *command]
    return [sys.executable, "-I", "-m", MODULE, str(memory // TMP_SHARE), *options]


def _way_to(path: Path) -> list[str]:
    """The folders that lead to a place in the jail, accessible to every user in it."""
    above = list(path.parents)[-2::-1]
    return [word for folder in above for word in ("--dir", str(folder))]


def hand_over(*paths: Path) -> None:
    """Give files to the user as whom a query runs."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY)


def give_up_rights() -> None:
    """In the jail, drop rights before any of the user's code runs."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def missing() -> str | None:
    """Why no jail can be made on this machine; None if one can."""
    if (no_filter := unsupported()) is not None:
        return no_filter
    if shutil.which("bwrap") is None:
        return "the program bwrap (bubblewrap) is not installed"
    try:
        command = jailed([sys.executable, "-I", "-c", ""], [], Path("/dev/null"), 1 << 20)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"bwrap: {problem}"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else "bwrap doesn't work")
