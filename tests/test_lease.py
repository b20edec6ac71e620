"""One run at a time in a folder, whatever became of the one before."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from conftest import Snakemake
from disks import NOBODY, open_folder

from looseleaf import lease
from looseleaf.errors import LooseleafError
from looseleaf.lease import FILE, Holder, Lease, leased, sweep
from looseleaf.servicex.request import NAMESPACE, is_request

HOLD = (
    "import sys, time; from pathlib import Path; from looseleaf.lease import Lease\n"
    "Lease(Path(sys.argv[1])).take(); print('held', flush=True); time.sleep(600)\n"
)


def holding(folder: Path) -> subprocess.Popen[str]:
    """Another process, which holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def elsewhere(folder: Path, renewals: int = 0) -> None:
    """A holder on another machine writes its file."""
    value = {"host": "elsewhere", "user": "alice", "process": "7:1.00", "since": time.time() - 7200}
    part = folder / "part"
    part.write_text(json.dumps({**value, "renewals": renewals}))
    part.replace(folder / FILE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "GONE_S", 1.0)


def test_a_folder_that_another_process_holds(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        holder = rf"user \S+, process {process.pid} on {socket.gethostname()}, for \d+ seconds"
        message = rf"another run uses it \({holder}\)"
        with pytest.raises(LooseleafError, match=message), leased(tmp_path):
            pass
        process.kill()
        process.wait()
        # what kill -9 left is taken over at once
        started = time.monotonic()
        with leased(tmp_path):
            assert time.monotonic() - started < lease.GONE_S / 2
            own = json.loads((tmp_path / FILE).read_text())["process"]
            assert own.startswith(f"{os.getpid()}:")
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    """The holder was killed, and its number belongs to a process that lives."""
    old = Holder(socket.gethostname(), "alice", f"{os.getpid()}:1.00", 0.0)
    (tmp_path / FILE).write_text(json.dumps(vars(old)))
    with leased(tmp_path):
        pass


def test_a_holder_on_another_machine_that_renews(tmp_path: Path, quick: None) -> None:
    elsewhere(tmp_path)
    ended = threading.Event()

    def renew() -> None:
        count = 0
        while not ended.wait(0.05):
            count += 1
            elsewhere(tmp_path, count)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(LooseleafError, match="user alice, process 7 on elsewhere, for 2 hours"):
            Lease(tmp_path).take()
    finally:
        ended.set()
        thread.join()


def test_a_holder_on_another_machine_that_has_gone(tmp_path: Path, quick: None) -> None:
    elsewhere(tmp_path)
    started = time.monotonic()
    with leased(tmp_path):
        assert time.monotonic() - started >= lease.GONE_S


def test_a_lease_is_renewed(tmp_path: Path, quick: None) -> None:
    with leased(tmp_path):
        seen = set()
        until = time.monotonic() + 20
        while len(seen) < 4 and time.monotonic() < until:
            seen.add(json.loads((tmp_path / FILE).read_text())["renewals"])
        assert len(seen) >= 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '{"a": 1}'])
def test_a_file_that_a_crash_damaged(tmp_path: Path, quick: None, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with leased(tmp_path):
        pass


@pytest.mark.slow
def test_of_several_that_find_it_left_one_takes_it(tmp_path: Path) -> None:
    old = Holder(socket.gethostname(), "alice", f"{os.getpid()}:1.00", 0.0)
    code = (
        "import sys, time; from pathlib import Path; from looseleaf.lease import Lease\n"
        "from looseleaf.errors import LooseleafError\n"
        "sys.stdin.readline()\n"
        "try:\n    Lease(Path(sys.argv[1])).take()\nexcept LooseleafError:\n    print('no')\n"
        "else:\n    print('yes', flush=True); time.sleep(3)\n"
    )
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        (folder / FILE).write_text(json.dumps(vars(old)))
        command = [sys.executable, "-c", code, str(folder)]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate()[0].strip() for process in processes]
        assert sorted(answers) == ["no"] * 5 + ["yes"]


def test_a_lease_that_another_run_took_over_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs find one that has gone; the slower one must not remove the faster one's file."""
    old = Holder(socket.gethostname(), "alice", f"{os.getpid()}:1.00", 0.0)
    (tmp_path / FILE).write_text(json.dumps(vars(old)))
    holders = []
    gone = Lease.gone

    def overtaken(self: Lease, other: Holder) -> bool:
        answer = gone(self, other)
        if not holders:
            (tmp_path / FILE).unlink()
            holders.append(holding(tmp_path))
        return answer

    monkeypatch.setattr(Lease, "gone", overtaken)
    try:
        with pytest.raises(LooseleafError, match="another run uses it") as caught:
            Lease(tmp_path).take()
        assert f"process {holders[0].pid} on " in str(caught.value)
        held = json.loads((tmp_path / FILE).read_text())["process"]
        assert held.startswith(f"{holders[0].pid}:")
    finally:
        holders[0].kill()
        holders[0].communicate()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_lease_that_is_lost_is_left_to_who_has_it(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """This machine stood still for so long that another one's run took over."""
    lease = Lease(tmp_path)
    lease.take()
    elsewhere(tmp_path)
    lease._renewing.join(20)
    assert not lease._renewing.is_alive()
    lease.release()
    assert json.loads((tmp_path / FILE).read_text())["host"] == "elsewhere"
    assert "warning: " in (told := capsys.readouterr().err)
    assert "another run has taken it over (user alice, process 7 on elsewhere" in told


def test_a_lease_can_be_read_whatever_the_umask(tmp_path: Path, quick: None) -> None:
    before = os.umask(0o077)
    try:
        with leased(tmp_path):
            until = time.monotonic() + 20
            renewed = False
            while not renewed and time.monotonic() < until:
                assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o644
                renewed = json.loads((tmp_path / FILE).read_text())["renewals"] > 0
            assert renewed
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_lease_that_can_not_be_read(quick: None) -> None:
    """Whose it is can't be told; it isn't taken to be left over."""
    with open_folder() as folder:
        (folder / FILE).touch(0o600)
        folder.chmod(0o777)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(LooseleafError, match="a run of the user root uses it"):
                Lease(folder).take()
        finally:
            os.seteuid(0)
        assert (folder / FILE).exists()


def test_parts_are_swept_but_for_requests_which_other_runs_may_hold(tmp_path: Path) -> None:
    request = uuid.uuid5(NAMESPACE, "request")
    parts = [
        tmp_path / folder / ".part-x.root"
        for folder in ("a", "volume/transforms", str(uuid.uuid4()))
    ]
    stay = [tmp_path / f"volume/{request}/.part-x.root", tmp_path / "a/whole.root"]
    for path in [*parts, *stay]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sweep(tmp_path, apart=is_request) == 3
    assert [path.exists() for path in [*parts, *stay]] == [False, False, False, True, True]


def test_two_runs_with_the_same_results(snakemake: Snakemake, tmp_path: Path) -> None:
    target = "results/samples/WJetsToLNu/catalogue.json"
    (tmp_path / "results/samples").mkdir(parents=True)
    part = tmp_path / "results/samples/.part-x.root"
    part.touch()
    with holding(tmp_path / "results") as process:
        run = snakemake(target)
        assert run.status != 0
        assert "results: another run uses it (user " in run.text
        assert f"process {process.pid} on " in run.text
        assert part.exists()
        process.kill()
        process.wait()
    run = snakemake(target)
    assert run.status == 0, run.text
    assert not part.exists()
    assert not (tmp_path / "results" / FILE).exists()
