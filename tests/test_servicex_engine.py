"""The service's queue with workers in its own threads: what becomes of files, parts and requests
when work is cut off, fails, is canceled, or was begun by an earlier service."""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from disks import disk

from looseleaf.errors import RemoteReadFailed
from looseleaf.files import adler32, read_json
from looseleaf.servicex.request import OWN
from looseleaf.servicex.service.engine import Engine, TransformLimits
from looseleaf.servicex.service.python import work_folder
from looseleaf.servicex.service.state import CANCELED, COMPLETE, FATAL, IN_MEMORY, RUNNING, State
from looseleaf.servicex.service.workers import Batch
from looseleaf.servicex.transform import FileResult
from looseleaf.stage_files import FileRecord

Outcomes = Iterator[tuple[int, FileResult | Exception]]
SKIM = json.dumps({"columns": ["MET_pt"], "cut": "MET_pt > 15", "software": "1"})


class Here:
    """A worker in the thread that gives it work, which does as `turn` says."""

    def __init__(self, turn: Callable[["Here", Batch], Outcomes]) -> None:
        self.turn = turn
        self.batches: list[Batch] = []
        self.killed: list[str] = []
        self.ended = threading.Event()
        self.closed = self.at_work = False

    def carry_out(self, batch: Batch, seconds: float) -> Outcomes:
        self.batches.append(batch)
        self.at_work = True
        yield from self.turn(self, batch)
        self.at_work = False

    def kill(self, batch: str) -> None:
        self.killed.append(batch)
        self.ended.set()

    def close(self) -> None:
        self.closed = True
        self.ended.set()


class Crew:
    """Such workers, and batches that workers of an earlier service are still at."""

    def __init__(self, *workers: Here, most: int = 1, **standing: Sequence[int]) -> None:
        self.workers, self.most = workers, most
        self._standing = standing
        self.dropped: list[str] = []

    def standing(self) -> Mapping[str, Sequence[int]]:
        return self._standing

    def drop(self, batch: str) -> None:
        self.dropped.append(batch)


def properly(worker: Here, batch: Batch) -> Outcomes:
    for job in batch.jobs:
        try:
            yield job.number, job.function(job.task)
        except Exception as problem:
            yield job.number, problem


def until_ended(worker: Here, batch: Batch) -> Outcomes:
    """Writes a part, and is at it until it is killed, which takes a moment."""
    batch.folder.mkdir(parents=True, exist_ok=True)
    (batch.folder / ".part-1").write_text("half")
    assert worker.ended.wait(60)
    time.sleep(0.2)
    (batch.folder / ".part-2").write_text("some more")
    yield from ()


@contextmanager
def running(
    folder: Path,
    crew: Crew,
    state: State | None = None,
    records: Mapping[str, FileRecord] | None = None,
    **limits: Any,
) -> Iterator[Engine]:
    engine = Engine(
        state or State(IN_MEMORY), folder / "volume", "sub", crew, TransformLimits(**limits),
        records or {},
    )  # fmt: skip
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def request(**more: str) -> dict[str, str | None]:
    plain = {
        "title": "t", "did": "d", "selection": SKIM, "codegen": OWN, "destination": "volume",
        "format": "root-file",
    }  # fmt: skip
    return {**plain, **more}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Files of 3, 4, 5 and 6 events."""
    paths = []
    for events in range(3, 7):
        path = tmp_path / f"input/{events}.root"
        path.parent.mkdir(exist_ok=True)
        with uproot.recreate(path) as file:
            file["Events"] = {
                "run": np.ones(events, "u4"), "luminosityBlock": np.ones(events, "u4"),
                "event": np.arange(events, dtype="u8"),
                "MET_pt": np.arange(events, dtype="f4") * 10,
            }  # fmt: skip
        paths.append(str(path))
    return paths


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def until_threads_end() -> None:
    """Until the threads of services that were stopped have ended."""
    for thread in threading.enumerate():
        if "_serve" in thread.name:
            thread.join(20)
            assert not thread.is_alive()


def ended(engine: Engine, request_id: str) -> list[dict[str, Any]]:
    """The entries of a request's manifest, once it is complete."""
    wait_for(lambda: engine.state.request(request_id)["status"] != RUNNING)
    assert engine.state.request(request_id)["status"] == COMPLETE
    entries: list[dict[str, Any]] = read_json(engine.folder(request_id) / "manifest.json")["files"]
    return entries


def test_every_result_stands_with_its_record(tmp_path: Path, files: list[str]) -> None:
    with running(tmp_path, Crew(Here(properly), Here(properly))) as engine:
        mine, raw = engine.submit(request(), files), None
        raw = engine.submit(
            request(codegen="uproot-raw", selection='[{"treename": "Events"}]'), files[:1]
        )
        entries = ended(engine, mine)
        assert [entry["result"]["events_in"] for entry in entries] == [3, 4, 5, 6]
        assert [entry["result"]["events_out"] for entry in entries] == [1, 2, 3, 4]
        assert [(entry["status"], entry["tries"]) for entry in entries] == [("success", 1)] * 4
        outputs = [entry["result"]["output"] for entry in entries]
        names = {path.name for path in engine.folder(mine).iterdir()}
        assert names == {*outputs, *(f"{name}.json" for name in outputs), "manifest.json"}
        # others' selections have no such records
        (entry,) = ended(engine, raw)
        names = {path.name for path in engine.folder(raw).iterdir()}
        assert names == {entry["result"]["output"], "manifest.json"}


def test_batches_are_shared_between_workers(tmp_path: Path, files: list[str]) -> None:
    workers = [Here(properly), Here(properly)]
    with running(tmp_path, Crew(*workers, most=3)) as engine:
        ended(engine, engine.submit(request(), files))
    sizes = [len(batch.jobs) for worker in workers for batch in worker.batches]
    assert sorted(sizes) == [1, 1, 2]


def test_files_that_a_worker_left_out_are_begun_again(tmp_path: Path, files: list[str]) -> None:
    def only_the_first(worker: Here, batch: Batch) -> Outcomes:
        yield next(properly(worker, batch))

    worker = Here(only_the_first)
    with running(tmp_path, Crew(worker, most=4)) as engine:
        entries = ended(engine, engine.submit(request(), files))
    assert [entry["tries"] for entry in entries] == [1, 1, 1, 1]
    assert [len(batch.jobs) for batch in worker.batches] == [4, 3, 2, 1]


def test_a_failure_that_may_pass(tmp_path: Path, files: list[str]) -> None:
    """It is tried again under another name, with growing pauses; what it was isn't told then."""
    times: list[float] = []

    def at_last(worker: Here, batch: Batch) -> Outcomes:
        times.append(time.monotonic())
        if len(worker.batches) < 3:
            yield batch.jobs[0].number, RemoteReadFailed("no answer")
        else:
            yield from properly(worker, batch)

    worker = Here(at_last)
    with running(tmp_path, Crew(worker), tries=3, backoff=0.2) as engine:
        (entry,) = ended(engine, engine.submit(request(), files[:1]))
    assert (entry["status"], entry["tries"], entry["error"]) == ("success", 3, None)
    assert len({batch.name for batch in worker.batches}) == 3
    first, second = np.diff(times)
    assert 0.2 <= first < 0.39
    assert 0.4 <= second < 2


def test_a_failure_that_stays(tmp_path: Path, files: list[str]) -> None:
    worker = Here(lambda _, batch: iter([(batch.jobs[0].number, RemoteReadFailed("no answer"))]))
    with running(tmp_path, Crew(worker), tries=3, backoff=0.01) as engine:
        (entry,) = ended(engine, engine.submit(request(), files[:1]))
        assert (entry["status"], entry["tries"]) == ("failure", 3)
        assert entry["error"] == "no answer"
        # what doesn't pass isn't tried twice
        worker.turn = properly
        (entry,) = ended(engine, engine.submit(request(), ["/nowhere/a.root"]))
        assert (entry["status"], entry["tries"]) == ("failure", 1)
        assert entry["error"].startswith("/nowhere/a.root: no such file")


def test_a_defect_ends_the_files_and_not_the_service(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(worker: Here, batch: Batch) -> Outcomes:
        yield next(properly(worker, batch))
        raise AssertionError("a defect")

    worker = Here(broken)
    with running(tmp_path, Crew(worker, most=4)) as engine:
        entries = ended(engine, engine.submit(request(), files))
        assert [entry["status"] for entry in entries] == ["success", *["failure"] * 3]
        assert {entry["error"] for entry in entries[1:]} == {"the service failed; its log says how"}
        assert "AssertionError: a defect" in capsys.readouterr().err
        worker.turn = properly
        assert len(ended(engine, engine.submit(request(), files))) == 4


def test_files_are_held_to_what_is_known_of_them(tmp_path: Path, files: list[str]) -> None:
    size = [Path(path).stat().st_size for path in files]
    sums = [adler32(path) for path in files]
    known = [
        FileRecord("/store/3.root", size[0], 3, sums[0]),
        FileRecord("/store/4.root", size[1] + 1, 4, sums[1]),
        FileRecord("/store/5.root", size[2], 6, sums[2]),
        FileRecord("/store/6.root", size[3], 6, "00000000"),
    ]
    records = dict(zip(files, known, strict=True))
    with running(tmp_path, Crew(Here(properly)), records=records) as engine:
        good, *bad = ended(engine, engine.submit(request(), files))
        assert good["result"]["source"] == "/store/3.root"
        for entry, told in zip(
            bad, ("bytes, but", "5 events, but the lookup said 6", "as its adler32"), strict=True
        ):
            assert told in entry["error"]
        # checksums of the request itself count more
        selection = json.dumps({**json.loads(SKIM), "checksums": {files[0]: "11111111"}})
        (entry,) = ended(engine, engine.submit(request(selection=selection), files[:1]))
        assert "as its adler32, but the lookup said 11111111" in entry["error"]


def test_the_same_work_has_the_same_name(tmp_path: Path, files: list[str]) -> None:
    other = SKIM.replace("15", "16")
    with running(tmp_path, Crew(Here(properly))) as engine:
        found = [
            ended(engine, engine.submit(request(selection=text), files[:1]))[0]["result"]["uuid"]
            for text in (SKIM, other, SKIM)
        ]
    assert found[0] == found[2] != found[1]


def test_the_next_address_is_tried(tmp_path: Path, files: list[str]) -> None:
    with running(tmp_path, Crew(Here(properly))) as engine:
        (entry,) = ended(engine, engine.submit(request(), [f"/nowhere/a.root,{files[0]}"]))
    assert entry["result"]["source_url"] == files[0]
    assert len(entry["result"]["passed_over"]) == 1


def test_canceling_ends_the_work_and_leaves_results(tmp_path: Path, files: list[str]) -> None:
    def second_never_ends(worker: Here, batch: Batch) -> Outcomes:
        yield next(properly(worker, batch))
        yield from until_ended(worker, batch)

    worker = Here(second_never_ends)
    with running(tmp_path, Crew(worker, most=2)) as engine:
        mine = engine.submit(request(), files)
        theirs = engine.submit(request(), files[:1])
        wait_for(lambda: list(engine.folder(mine).glob(".part-1")))
        engine.cancel(mine)
        assert worker.killed == [worker.batches[0].name]
        assert [f.status for f in engine.state.files(mine)] == ["success", *["canceled"] * 3]
        assert engine.state.request(mine)["status"] == CANCELED
        output = engine.state.files(mine)[0].output
        assert {path.name for path in engine.folder(mine).iterdir()} == {output, f"{output}.json"}
        # the worker goes on with what others asked for
        assert len(ended(engine, theirs)) == 1
        engine.delete(mine)
        assert engine.state.request(mine) is None
        assert not engine.folder(mine).exists()
        # also what is under way
        worker.ended.clear()
        worker.turn = until_ended
        again = engine.submit(request(), files)
        wait_for(lambda: list(engine.folder(again).glob(".part-1")))
        engine.delete(again)
        assert not worker.at_work
        assert not engine.folder(again).exists()
        worker.turn = properly
        assert len(ended(engine, engine.submit(request(), files))) == 4


def test_a_result_that_comes_after_the_end_is_removed(tmp_path: Path, files: list[str]) -> None:
    written, canceled = threading.Event(), threading.Event()

    def late(worker: Here, batch: Batch) -> Outcomes:
        outcomes = list(properly(worker, batch))
        written.set()
        assert canceled.wait(60)
        yield from outcomes

    with running(tmp_path, Crew(Here(late))) as engine:
        mine = engine.submit(request(), files[:1])
        assert written.wait(60)
        engine.state.cancel(mine)
        canceled.set()
        wait_for(lambda: not list(engine.folder(mine).iterdir()))


def test_parts_are_cleared_and_links_not_followed(tmp_path: Path, files: list[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")

    homes: list[Path] = []
    left: list[Path] = []

    def untidy(worker: Here, batch: Batch) -> Outcomes:
        left.extend(home for home in homes if home.exists())
        outcome = next(properly(worker, batch))
        (batch.folder / ".part-file").write_text("x")
        (batch.folder / ".part-folder/in it").mkdir(parents=True, exist_ok=True)
        (batch.folder / ".part-link").unlink(missing_ok=True)
        (batch.folder / ".part-link").symlink_to(elsewhere)
        # where a killed worker's query was at home
        homes.append(work_folder(Path(batch.jobs[0].task.output)))
        homes[-1].mkdir()
        yield outcome

    with running(tmp_path, Crew(Here(untidy))) as engine:
        mine = engine.submit(request(), files[:2])
        outputs = [entry["result"]["output"] for entry in ended(engine, mine)]
        names = {path.name for path in engine.folder(mine).iterdir()}
        assert names == {*outputs, *(f"{output}.json" for output in outputs), "manifest.json"}
    # not only at the request's end: it may have many files
    assert len(homes) == 2
    assert left == []
    assert (elsewhere / "precious").exists()


def test_what_stops_with_the_service_is_continued_by_the_next(
    tmp_path: Path, files: list[str]
) -> None:
    def goes_on(worker: Here, batch: Batch) -> Outcomes:
        yield from until_ended(worker, batch)
        # of a worker that is closed while it answers
        yield batch.jobs[0].number, RuntimeError("it was closed")

    state = State(tmp_path / "state.sqlite")
    first = Here(goes_on)
    with running(tmp_path, Crew(first), state) as engine:
        mine = engine.submit(request(), files)
        wait_for(lambda: list(engine.folder(mine).glob(".part-1")))
    assert first.closed
    until_threads_end()
    assert [f.status for f in state.files(mine)] == ["running", *["waiting"] * 3]
    with running(tmp_path, Crew(Here(properly)), state) as engine:
        entries = ended(engine, mine)
    assert [(entry["status"], entry["tries"]) for entry in entries] == [("success", 1)] * 4


def test_a_service_that_ends_while_its_state_has_no_room(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so in one line, and the next service does the file again."""
    made, full = threading.Event(), threading.Event()
    told: list[str] = []

    def waits(worker: Here, batch: Batch) -> Outcomes:
        outcomes = list(properly(worker, batch))
        made.set()
        assert full.wait(60)
        yield from outcomes

    def waiting() -> bool:
        told.append(capsys.readouterr().err)
        return "waiting for room" in "".join(told)

    with disk(tmp_path / "state") as small:
        state = State(tmp_path / "state/state.sqlite")
        with ExitStack() as spoilt:
            with running(tmp_path, Crew(Here(waits)), state) as engine:
                mine = engine.submit(request(), files[:1])
                assert made.wait(60)
                spoilt.enter_context(small.full())
                full.set()
                wait_for(waiting)
            until_threads_end()
        told.append(capsys.readouterr().err)
        assert re.fullmatch(r".*/state\.sqlite: .*: waiting for room\n", "".join(told))
        assert [file.status for file in state.files(mine)] == ["running"]
        with running(tmp_path, Crew(Here(properly)), state) as engine:
            (entry,) = ended(engine, mine)
        assert (entry["status"], entry["tries"]) == ("success", 1)
        until_threads_end()
        state.close()


def test_batches_of_an_earlier_service_go_on(tmp_path: Path, files: list[str]) -> None:
    state = State(tmp_path / "state.sqlite")
    before = Engine(
        state, tmp_path / "volume", "sub", Crew(Here(properly)), TransformLimits(), {}
    )  # fmt: skip
    first, second = (before.submit(request(), files) for _ in range(2))
    numbers = [file.number for file in state.claim(2)]
    # nobody works on the parts of the other request
    for one in (first, second):
        before.folder(one).mkdir(parents=True)
        (before.folder(one) / ".part-1").write_text("half")
    seen: list[bool] = []

    def looks(worker: Here, batch: Batch) -> Outcomes:
        parts = [(before.folder(one) / ".part-1").exists() for one in (first, second)]
        seen.extend(parts if not seen else [])
        yield from properly(worker, batch)

    worker = Here(looks)
    crew = Crew(worker, most=4, earlier=numbers, of_nobody=[4711])
    with running(tmp_path, crew, state) as engine:
        assert len(ended(engine, first)) == len(ended(engine, second)) == 4
        assert not list(engine.folder(first).glob(".part-*"))
    assert crew.dropped == ["of_nobody"]
    names = [batch.name for batch in worker.batches]
    assert names[0] == "earlier"
    assert names.count("earlier") == 1
    assert [job.number for job in worker.batches[0].jobs] == numbers
    assert [entry.tries for entry in state.files(first)] == [1] * 4
    assert seen == [True, False]


def test_a_request_whose_end_was_not_written_down(tmp_path: Path, files: list[str]) -> None:
    """The service was killed between its last file and its manifest."""
    state = State(tmp_path / "state.sqlite")
    crew = Crew(Here(properly))
    before = Engine(state, tmp_path / "volume", "sub", crew, TransformLimits(), {})
    mine = before.submit(request(), files[:1])
    state.done(state.claim()[0].number, None, "bad")
    before.folder(mine).mkdir(parents=True)
    with running(tmp_path, crew, state) as engine:
        (entry,) = ended(engine, mine)
    assert (entry["status"], entry["error"]) == ("failure", "bad")


def test_requests_that_ended_are_left_as_they_are(tmp_path: Path, files: list[str]) -> None:
    state = State(tmp_path / "state.sqlite")
    with running(tmp_path, Crew(Here(properly)), state) as engine:
        complete = engine.submit(request(), files)
        ended(engine, complete)
        manifest = engine.folder(complete) / "manifest.json"
        before = manifest.stat().st_mtime_ns
    until_threads_end()
    canceled = engine.submit(request(), files)
    engine.cancel(canceled)
    with running(tmp_path, Crew(Here(properly)), state) as engine:
        assert manifest.stat().st_mtime_ns == before
        assert not (engine.folder(canceled) / "manifest.json").exists()
        assert engine.state.request(canceled)["status"] == CANCELED


def test_a_python_query_is_held_to_the_limits(tmp_path: Path, files: list[str]) -> None:
    worker = Here(lambda _, batch: iter([(batch.jobs[0].number, ValueError("not today"))]))
    limits = {"memory": 1 << 29, "seconds": 77, "confined": False}
    source = base64.b64encode(b"def run_query(path):\n    return {}\n").decode()
    asked = request(codegen="python", selection=source)
    with running(tmp_path, Crew(worker), **limits) as engine:
        ended(engine, engine.submit(asked, files[:1]))
    (job,) = worker.batches[0].jobs
    assert {name: getattr(job.task, name) for name in limits} == limits


def test_what_can_not_be_written_is_no_success(tmp_path: Path, files: list[str]) -> None:
    def records_place_taken(worker: Here, batch: Batch) -> Outcomes:
        outcome = next(properly(worker, batch))
        Path(f"{batch.jobs[0].task.output}.json").mkdir()
        yield outcome

    worker = Here(records_place_taken)
    with running(tmp_path, Crew(worker)) as engine:
        (entry,) = ended(engine, engine.submit(request(), files[:1]))
        assert (entry["status"], entry["result"]) == ("failure", None)

        def manifests_place_taken(worker: Here, batch: Batch) -> Outcomes:
            (batch.folder / "manifest.json").mkdir(parents=True)
            yield from properly(worker, batch)

        worker.turn = manifests_place_taken
        mine = engine.submit(request(), files[:1])
        wait_for(lambda: engine.state.request(mine)["status"] != RUNNING)
        assert engine.state.request(mine)["status"] == FATAL
