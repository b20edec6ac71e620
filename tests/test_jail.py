"""Attacks on the jail of Python queries, by code that runs in it."""

import base64
import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import uproot
from service import NO_JAIL, Service, run, selection

from looseleaf.files import read_json
from looseleaf.servicex.service import seccomp
from looseleaf.servicex.service.jail import TMP_SHARE

pytestmark = pytest.mark.slow
jailed_only = pytest.mark.skipif(NO_JAIL is not None, reason=f"no jail here: {NO_JAIL}")

MEMORY = 2 << 30
KEY = "looseleaf_test_ticket"
# runs one query, with a Kerberos ticket in the kernel's keyring; says what it raised
ASK = """
import ctypes, json, os, sys
from looseleaf.errors import DataFileError
from looseleaf.servicex.service.python import PythonTask, run_python
from looseleaf.servicex.service.seccomp import number

asked = json.load(sys.stdin)
libc = ctypes.CDLL(None)
libc.syscall(number("keyctl"), 1, b"of the operator")
ticket = libc.syscall(number("add_key"), b"user", asked["key"].encode(), b"secret", 6, -3)
source = asked["source"].replace("TICKET", str(ticket))
url, output = asked["url"], asked["output"]
try:
    run_python(PythonTask(url, (url,), source, output, "root-file", asked["memory"], 60))
except DataFileError as problem:
    print(problem)
"""
AS_USER = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


def _as_user() -> list[Any]:
    """This user, and for root an ordinary one too, for whom jails are made in another way."""
    if os.geteuid() != 0:
        return [pytest.param([], id="this user")]
    there = subprocess.run([*AS_USER, "true"], capture_output=True, check=False).returncode == 0
    mark = pytest.mark.skipif(not there, reason="unshare can't make an ordinary user here")
    return [pytest.param([], id="root"), pytest.param(AS_USER, id="a user", marks=mark)]


@pytest.fixture(scope="module", params=_as_user())
def ask(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """Gives a function that runs code in the jail, and returns the error of the query."""
    folder = tmp_path_factory.mktemp("jail")
    url = str(folder / "in.root")
    with uproot.recreate(url) as file:
        file["Events"] = {"event": np.arange(10)}

    def of(body: str) -> str:
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        source = f"def run_query(path):\n{lines}"
        asked = {"url": url, "output": str(folder / "r.root"), "memory": MEMORY, "key": KEY}
        done = subprocess.run(
            [*request.param, sys.executable, "-c", ASK],
            input=json.dumps({**asked, "source": source}),
            capture_output=True,
            text=True,
            check=True,
        )
        assert [path.name for path in folder.glob(".part-*")] == []
        return done.stdout.strip()

    return of


# what a query tries, and how it is refused: the name of an error number, or what it got
TRIES = """
import ctypes, errno, json, mmap, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
from looseleaf.servicex.service.seccomp import number
found = {}
def attempt(what, action):
    try:
        found[what] = str(action())
    except OSError as problem:
        found[what] = errno.errorcode[problem.errno]
def call(name, *values):
    status = libc.syscall(number(name), *values)
    if status < 0:
        raise OSError(ctypes.get_errno(), name)
    return status
def secret(key):
    text = ctypes.create_string_buffer(100)
    return text.raw[: call("keyctl", 11, key, text, 100)]
def found_in(ring):
    return secret(call("keyctl", 10, ring, b"user", b"KEY", 0))
def fill(limit):
    written = 0
    try:
        for file in range(6):
            with open(f"/tmp/{file}", "wb", buffering=0) as out:
                for _ in range(limit >> 20):
                    written += out.write(bytes(1 << 20))
    except OSError as problem:
        assert problem.errno == errno.ENOSPC
    for file in range(6):
        if os.path.exists(f"/tmp/{file}"):
            os.unlink(f"/tmp/{file}")
    return written
def many_files():
    for count in range(50_000):
        try:
            os.mkdir(f"/tmp/{count}")
        except OSError as problem:
            assert problem.errno == errno.ENOSPC
            return count
def writable():
    with open("/proc/self/mountinfo") as mounts:
        places = [line.split()[4] for line in mounts]
    found = []
    for place in filter(os.path.isdir, places):
        try:
            open(place + "/new", "wb").close()
            found.append(place)
        except OSError:
            pass
    return found

attempt("session keyring", lambda: found_in(-3))
attempt("user keyring", lambda: found_in(-4))
attempt("key by number", lambda: secret(TICKET))
attempt("request_key", lambda: call("request_key", b"user", b"KEY", None, 0))
attempt("add_key", lambda: call("add_key", b"user", b"mine", b"x", 1, -4))
attempt("names of keys", lambda: open("/proc/keys").read(9))
attempt("users of keys", lambda: open("/proc/key-users").read(9))
attempt("memfd", lambda: os.memfd_create("x"))
attempt("shared memory", lambda: call("shmget", 0, 1 << 20, 0o1600))
attempt("message queue", lambda: call("msgget", 0, 0o1600))
attempt("/dev/shm", lambda: open("/dev/shm/x", "wb"))
attempt("shared mapping", lambda: mmap.mmap(-1, 3 << 30))
attempt("io_uring", lambda: call("io_uring_setup", 8, ctypes.create_string_buffer(120)))
attempt("fork", lambda: os.fork() or os._exit(0))
attempt("program", lambda: subprocess.run(["true"]))
attempt("namespace", lambda: call("unshare", 0x10000000))
attempt("internet", lambda: socket.socket(socket.AF_INET))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK))
attempt("vsock", lambda: socket.socket(socket.AF_VSOCK))
attempt("socket pair", lambda: len(socket.socketpair()))
attempt("bubblewrap's memory", lambda: open("/proc/1/mem", "r+b"))
attempt("trace bubblewrap", lambda: call("ptrace", 16, 1, 0, 0))
attempt("files", many_files)
for name in filter(str.isdecimal, os.listdir("/tmp")):
    os.rmdir("/tmp/" + name)
attempt("disk", lambda: fill(900 << 20))
attempt("writable", writable)
raise RuntimeError(json.dumps(found))
""".replace("KEY", KEY)


@pytest.fixture(scope="module")
def found(ask: Callable[[str], str]) -> dict[str, str]:
    """What became of each of the quick attempts."""
    text = ask(TRIES)
    assert "{" in text, text
    told: dict[str, str] = json.loads(text[text.index("{") :])
    return told


@jailed_only
@pytest.mark.parametrize(
    "attempt", ["session keyring", "user keyring", "key by number", "request_key", "add_key"]
)
def test_a_query_reaches_no_key(found: dict[str, str], attempt: str) -> None:
    assert found[attempt] == "EPERM"


@jailed_only
def test_a_query_learns_no_names_of_keys(found: dict[str, str]) -> None:
    # a kernel without keys has no such file
    assert {found["names of keys"], found["users of keys"]} <= {"EACCES", "ENOENT"}


@jailed_only
@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("memfd", "EPERM"),
        ("shared memory", "EPERM"),
        ("message queue", "EPERM"),
        ("io_uring", "EPERM"),
        ("/dev/shm", "EROFS"),
        ("shared mapping", "ENOMEM"),
    ],
)
def test_no_memory_is_outside_of_the_limit(found: dict[str, str], attempt: str, error: str) -> None:
    assert found[attempt] == error


@jailed_only
def test_the_only_writable_folder_is_small(found: dict[str, str]) -> None:
    assert found["writable"] == "['/tmp']"
    room = MEMORY // TMP_SHARE
    # the rest is folders on the way to Python or the input
    assert 0.99 * room < int(found["disk"]) <= room
    assert 9_900 < int(found["files"]) < 10_000


@jailed_only
@pytest.mark.parametrize("attempt", ["fork", "program", "namespace", "trace bubblewrap"])
def test_a_query_is_one_process_and_stays_in_its_namespaces(
    found: dict[str, str], attempt: str
) -> None:
    assert found[attempt] == "EPERM"


@jailed_only
def test_the_process_that_ends_a_query_is_out_of_its_reach(found: dict[str, str]) -> None:
    assert found["bubblewrap's memory"] == "ENOENT"


@jailed_only
def test_sockets_lead_nowhere(found: dict[str, str]) -> None:
    assert {found[kind] for kind in ("internet", "netlink", "vsock")} == {"EAFNOSUPPORT"}
    assert found["socket pair"] == "2"


@jailed_only
def test_a_query_has_threads_but_not_any_number(
    ask: Callable[[str], str], request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["ask"] == AS_USER:
        pytest.skip("outside of its namespace this user is root, whose threads no limit counts")
    text = ask("""
import ctypes, threading, time
# small stacks and one heap, so that it isn't memory that ends it
threading.stack_size(64 << 10)
ctypes.CDLL(None).mallopt(-8, 1)
threads = 0
try:
    for _ in range(1000):
        threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        threads += 1
except RuntimeError as problem:
    raise ValueError(threads, problem)
""")
    assert "ValueError: (" in text, text
    count = int(text.partition("ValueError: (")[2].partition(",")[0])
    assert 100 < count < 256
    assert "can't start new thread" in text


@jailed_only
def test_calls_by_another_table_of_numbers_end_a_query(ask: Callable[[str], str]) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is of x86_64")
    # x32's getpid
    text = ask("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39); raise KeyError('on')")
    assert "it ended with status" in text


@jailed_only
def test_endless_output_is_not_kept(ask: Callable[[str], str]) -> None:
    # more than the limit on files: it isn't one
    text = ask("""
import os
block = b"x" * (1 << 20)
for _ in range(3 << 10):
    os.write(2, block)
raise KeyError("still there")
""")
    assert text.endswith("KeyError: 'still there'")


# in place of bubblewrap: what it is started with
INHERITED = """#!{python}
import ctypes, os, sys
from looseleaf.servicex.service.seccomp import number, program
libc = ctypes.CDLL(None)
print(libc.syscall(number("keyctl"), 10, -3, b"user", b"{key}", 0))
print(os.read(int(sys.argv[2]), 1 << 16) == program(), os.listdir("/sys"))
"""


@jailed_only
def test_bubblewrap_itself_has_no_ticket(tmp_path: Path) -> None:
    stand_in = tmp_path / "bwrap"
    stand_in.write_text(INHERITED.format(python=sys.executable, key=KEY))
    stand_in.chmod(0o755)
    code = (
        "import ctypes, os, sys; from looseleaf.servicex.service.seccomp import number\n"
        "libc = ctypes.CDLL(None); libc.syscall(number('keyctl'), 1, b'of the operator')\n"
        f"libc.syscall(number('add_key'), b'user', b'{KEY}', b'secret', 6, -3)\n"
        f"print(libc.syscall(number('keyctl'), 10, -3, b'user', b'{KEY}', 0), flush=True)\n"
        "m = 'looseleaf.servicex.service.entrance'\n"
        f"os.execv(sys.executable, [sys.executable, '-m', m, '4096', {str(stand_in)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, handed = done.stdout.splitlines()
    assert int(before) > 0
    assert after == "-1"
    assert handed == "True []"


def decided(program: bytes, machine: int, call: int, argument: int = 0) -> int:
    """What the kernel does with a system call: a machine of its own for the few instructions."""
    data = {0: call, 4: machine, 16: argument}
    lines = list(struct.iter_unpack("=HBBI", program))
    loaded = place = 0
    while True:
        code, if_so, if_not, value = lines[place]
        place += 1
        match code:
            case 0x06:
                return int(value)
            case 0x20:
                loaded = data[value]
            case 0x15:
                place += if_so if loaded == value else if_not
            case 0x35:
                place += if_so if loaded >= value else if_not
            case 0x45:
                place += if_so if loaded & value else if_not
            case _:
                raise AssertionError(code)


X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
ALLOWED, KILLED, REFUSED = 0x7FFF0000, 0x80000000, 0x00050000


@pytest.mark.parametrize(
    ("machine", "call", "argument", "decision"),
    [
        # numbers of asm/unistd_64.h and asm-generic/unistd.h: read, then the refused ones
        ("x86_64", 0, 0, ALLOWED),
        ("x86_64", 57, 0, REFUSED | errno.EPERM),
        ("x86_64", 250, 0, REFUSED | errno.EPERM),
        ("x86_64", 319, 0, REFUSED | errno.EPERM),
        ("x86_64", 435, 0, REFUSED | errno.ENOSYS),
        ("x86_64", 56, 0x3D0F00, ALLOWED),
        ("x86_64", 56, 0x1200011, REFUSED | errno.EPERM),
        ("x86_64", 41, 1, ALLOWED),
        ("x86_64", 41, 16, REFUSED | errno.EAFNOSUPPORT),
        ("x86_64", 53, 30, REFUSED | errno.EAFNOSUPPORT),
        ("aarch64", 63, 0, ALLOWED),
        ("aarch64", 57, 0, ALLOWED),
        ("aarch64", 219, 0, REFUSED | errno.EPERM),
        ("aarch64", 217, 0, REFUSED | errno.EPERM),
        ("aarch64", 218, 0, REFUSED | errno.EPERM),
        ("aarch64", 279, 0, REFUSED | errno.EPERM),
        ("aarch64", 194, 0, REFUSED | errno.EPERM),
        ("aarch64", 97, 0, REFUSED | errno.EPERM),
        ("aarch64", 117, 0, REFUSED | errno.EPERM),
        ("aarch64", 220, 0x3D0F00, ALLOWED),
        ("aarch64", 220, 0x4111, REFUSED | errno.EPERM),
        ("aarch64", 198, 2, REFUSED | errno.EAFNOSUPPORT),
    ],
)
def test_the_filter_of_each_architecture(
    machine: str, call: int, argument: int, decision: int
) -> None:
    own, other = (X86_64, AARCH64) if machine == "x86_64" else (AARCH64, X86_64)
    program = seccomp.program(machine)
    assert decided(program, own, call, argument) == decision
    assert decided(program, own, call | 0x40000000, argument) == KILLED
    assert decided(program, other, call, argument) == KILLED
    assert decided(program, I386, call, argument) == KILLED


def test_another_architecture_has_no_jail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "ppc64le")
    assert seccomp.unsupported() == (
        "its seccomp filter is for x86_64 and aarch64, and this machine is ppc64le"
    )
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert seccomp.unsupported() is None


@pytest.fixture
def events(tmp_path: Path) -> str:
    path = str(tmp_path / "in.root")
    with uproot.recreate(path) as file:
        file["Events"] = {
            "event": np.arange(10),
            "Muon_pt": np.ones((10, 1)),
            "MET_pt": np.full(10, 20.0),
        }
    return path


def submitted(service: Service, path: str, body: str) -> str:
    source = "def run_query(path):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    text = base64.b64encode(source.encode()).decode()
    return str(service.submit(file_list=[path], codegen="python", selection=text))


def error_of(service: Service, request: str) -> str:
    (entry,) = read_json(service.folder(request) / "manifest.json")["files"]
    return str(entry["error"])


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def called(name: str) -> list[int]:
    """The processes of that name."""
    return [p.pid for p in psutil.process_iter(["name"]) if p.info["name"] == name]


@jailed_only
def test_a_fork_bomb_ends_in_a_sentence(ask: Callable[[str], str]) -> None:
    text = ask("import os, time\nend = time.time() + 10\nwhile time.time() < end: os.fork()")
    assert text.endswith(
        "the python query failed: PermissionError: [Errno 1] Operation not permitted; in its jail "
        "a query is one process, without network, keyrings or shared memory"
    )


@jailed_only
def test_a_stubborn_bomb_leaves_no_process_and_the_service_serves(
    tmp_path: Path, events: str
) -> None:
    name = uuid.uuid4().hex[:12]
    bomb = f"""import ctypes, os, threading, time
ctypes.CDLL(None).prctl(15, b"{name}")
def bomb():
    while True:
        for more in (os.fork, os.setsid, lambda: threading.Thread(target=bomb).start()):
            try:
                more()
            except (OSError, RuntimeError):
                time.sleep(0.1)
bomb()"""
    with Service(tmp_path / "a" / "b", workers=1) as service:
        request = submitted(service, events, bomb)
        until(lambda: bool(called(name)))
        time.sleep(2)
        assert len(called(name)) == 1
        # the answer comes when the worker has been replaced
        with suppress(httpx.ReadTimeout):
            run(service.adapter.cancel_transform(request))
        until(lambda: not called(name))
        plain = selection(filter_name=["MET_pt"], cut="MET_pt > 10")
        request = service.submit(file_list=[events], selection=plain)
        assert service.finished(request).files_completed == 1


SLOW = """import os, time
with open(os.environ['HOME'] + '/left', 'wb') as file: file.write(bytes(1 << 20))
time.sleep(600)"""


@pytest.mark.parametrize(
    "unconfined", [pytest.param(False, marks=jailed_only, id="jail"), pytest.param(True, id="none")]
)
def test_a_query_that_times_out_leaves_nothing(
    tmp_path: Path, events: str, unconfined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unix's sockets have short names only
    temporary = Path(mkdtemp())
    monkeypatch.setenv("TMPDIR", str(temporary))
    options = ["--seconds", "8", "--tries", "3", *(["--unconfined-python"] * unconfined)]
    with Service(tmp_path / "a" / "b", *options, workers=1) as service:
        request = submitted(service, events, SLOW)
        most = 0
        while run(service.adapter.get_transform_status(request)).status == "Running":
            most = max(most, len(list(service.folder(request).glob(".part-*"))))
            time.sleep(0.1)
        assert "not done within 8 s" in error_of(service, request)
        # each try's is gone before the next begins
        assert most == 1
        assert [path.name for path in service.folder(request).iterdir()] == ["manifest.json"]
        assert list(temporary.rglob("left")) == []
        assert list(temporary.glob("query-*")) == []
    rmtree(temporary)


def test_what_a_killed_service_left_goes_when_it_starts_again(tmp_path: Path, events: str) -> None:
    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in service.volume.rglob("left")]

    service = Service(tmp_path / "a" / "b", "--unconfined-python", workers=1)
    with service:
        submitted(service, events, SLOW)
        until(lambda: bool(times()))
        service.kill(signal.SIGKILL)
        (first,) = times()
    with service:
        until(lambda: first not in times())
