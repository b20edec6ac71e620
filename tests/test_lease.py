"""One run at a time in a folder, whatever became of the one before."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import Snakemake

from looseleaf import lease
from looseleaf.errors import LooseleafError
from looseleaf.lease import FILE, Holder, Lease, leased, sweep

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


def test_parts_are_swept_but_for_a_folder_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/.part-x.root", "volume/.part-y.root", "a/whole.root")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert sweep(tmp_path, apart=tmp_path / "volume") == 1
    assert [path.exists() for path in paths] == [False, True, True]


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
