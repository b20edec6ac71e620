"""What becomes of a request at somebody else's ServiceX: it ends requests, breaks off, is slow, and
has requests of others."""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from hashlib import sha1
from pathlib import Path
from typing import Any
from uuid import uuid4

import awkward as ak
import httpx
import numpy as np
import pytest
import uproot
from servicex.models import ResultDestination, ResultFormat, Status, TransformRequest
from servicex.models import TransformStatus as Told
from servicex.servicex_adapter import ServiceXAdapter, ServiceXFile

from looseleaf.errors import ConfigError, DataFileError, ServiceXFailed, Shortfall
from looseleaf.files import read_json, write_json
from looseleaf.servicex.formats import create
from looseleaf.servicex.request import MANIFEST, OWN, Request, Source, request_folder
from looseleaf.servicex.service.queries import check
from looseleaf.servicex.submission import Endpoint, transform
from looseleaf.servicex.transform import FileTask, TreeQuery, collections_of, transform_file
from looseleaf.servicex.volume import account_name, result_name
from looseleaf.stage_files import FileRecord

LONGEST = 255


def upstream_name(path: str) -> str:
    """What ServiceX's own transformers make of a path (`hash_path` of its sidecar)."""
    name = path.replace("/", ":")
    if len(name) > LONGEST:
        digest = sha1(name.encode("utf-8")).hexdigest()
        return "".join(["_", digest, name[-1 * (LONGEST - len(digest) - 1) :]])
    return name


def hidden(path: Path) -> Path:
    """Where something is kept that the client's machine doesn't see yet."""
    place = path.parent.parent / "hidden" / path.name
    place.parent.mkdir(exist_ok=True)
    return place


@dataclass
class Asked:
    """A request at the service, and how far it is."""

    id: str
    request: TransformRequest
    status: Status = Status.running
    done: int = 0
    failed: int = 0


Turn = Callable[["Elsewhere", Asked], Awaitable[None]]


class Elsewhere(ServiceXAdapter):
    """A ServiceX without a network, as the client's adapter sees it; `turns` are what happens
    whenever a request's status is asked for, the last of them again and again."""

    def __init__(self, mount: Path, *turns: Turn, url: str = "https://servicex.example") -> None:
        super().__init__(url)
        self.mount, self.turns = mount, list(turns)
        self.asked: list[Asked] = []
        self.codegen = OWN
        # as upstream's list of results on a volume
        self.nameless = False

    async def get_code_generators_async(self) -> dict[str, str]:
        return {self.codegen: "an image"}

    async def get_transforms(self) -> list[Told]:
        return list(map(self._told, self.asked))

    async def submit_transform(self, transform_request: TransformRequest) -> str:
        self.asked.append(Asked(f"r{len(self.asked)}", transform_request))
        return self.asked[-1].id

    async def cancel_transform(self, transform_id: str | None = None) -> None:
        self._of(transform_id).status = Status.canceled

    async def get_transform_status(self, request_id: str) -> Told:
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        await turn(self, self._of(request_id))
        return self._told(self._of(request_id))

    async def get_transformation_results(
        self, request_id: str, later_than: Any = None
    ) -> list[ServiceXFile]:
        asked = self._of(request_id)
        outputs = [self.place(asked, number) for number in range(asked.done)]
        if self.nameless:
            return [ServiceXFile(None, "none", 0) for _ in outputs]
        return [ServiceXFile(None, path.name, self.size(path)) for path in outputs]

    def _of(self, request_id: str | None) -> Asked:
        (found,) = (asked for asked in self.asked if asked.id == request_id)
        return found

    def _told(self, asked: Asked) -> Told:
        request = asked.request
        return Told(**{
            "request_id": asked.id, "did": "", "did_id": 1, "title": request.title,
            "selection": request.selection, "tree-name": None, "image": "",
            "result-destination": request.result_destination,
            "result-format": request.result_format, "generated-code-cm": "",
            "status": asked.status, "app-version": "1", "files": len(request.file_list or []),
            "files-completed": asked.done, "files-failed": asked.failed,
        })  # fmt: skip

    def place(self, asked: Asked, number: int) -> Path:
        """Where the result of a file stands."""
        path = (asked.request.file_list or [])[number]
        name = result_name(path, ".root") if self.codegen == OWN else upstream_name(path)
        return self.mount / asked.id / name

    def size(self, path: Path) -> int:
        """How large the service says that a result is, wherever it can be seen."""
        return (hidden(path) if hidden(path).exists() else path).stat().st_size

    def finish(self, asked: Asked) -> Path:
        """One more file is done."""
        paths = (asked.request.file_list or [])[asked.done]
        output = self.place(asked, asked.done)
        output.parent.mkdir(parents=True, exist_ok=True)
        result = transform_file(FileTask(
            name=paths, urls=tuple(paths.split(",")), expected_bytes=None, expected_events=None,
            expected_adler32=None, queries=check(self.codegen, asked.request.selection),
            output=str(output), work="w",
        ))  # fmt: skip
        if self.codegen == OWN:
            write_json(output.with_name(account_name(output.name)), result.to_json())
        else:
            as_upstream_writes(output, asked.request.selection)
        asked.done += 1
        return output


def as_upstream_writes(path: Path, selection: str) -> None:
    """Make a result what another ServiceX writes: the branches that are asked for, each list with
    a counter of its own, and nothing on the original file."""
    queries = json.loads(selection)
    asked = {name: q["filter_name"] for q in queries for name in q["treename"].values()}
    with uproot.open(path) as file:
        trees = {name: file[name].arrays() for name in file.keys(cycle=False) if name in asked}
    with uproot.recreate(path) as plain:
        for name, arrays in trees.items():
            kept = [f for f in arrays.fields if any(fnmatch(f, p) for p in asked[name])]
            plain[name] = {f: arrays[f] for f in kept if f[0] != "n" or f[1:] not in kept}


async def all_done(service: Elsewhere, asked: Asked) -> None:
    while asked.done < len(asked.request.file_list or []):
        service.finish(asked)
    asked.status = Status.complete


async def one_more(service: Elsewhere, asked: Asked) -> None:
    service.finish(asked)


async def nothing_new(service: Elsewhere, asked: Asked) -> None:
    pass


async def breaks(service: Elsewhere, asked: Asked) -> None:
    raise RuntimeError("broken off")


@dataclass(frozen=True)
class At:
    """The backend that asks such a service."""

    adapter: Elsewhere
    mount: Path
    name = "remote"

    @contextmanager
    def service(self, request: Request, folder: Path) -> Iterator[Endpoint]:
        yield Endpoint(self.adapter, "elsewhere", self.mount)


COLUMNS = ("MET_pt", "genWeight")


def nanoaod(path: Path, events: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        file["Events"] = {
            "run": np.ones(events, "u4"), "luminosityBlock": np.ones(events, "u4"),
            "event": np.arange(events, dtype="u8"), "genWeight": np.ones(events, "f4"),
            "MET_pt": np.arange(events, dtype="f4") * 10,
        }  # fmt: skip
    return path


def source(path: Path, events: int | None) -> Source:
    return Source(FileRecord(f"/store/{path.name}", None, events, None), (str(path),))


@pytest.fixture
def request_of_three(tmp_path: Path) -> Request:
    """Files of four and six events, and a skim that has kept three of its five."""
    files = [nanoaod(tmp_path / f"input/{name}.root", n) for name, n in (("a", 4), ("b", 6))]
    skim = str(tmp_path / "input/c.root")
    original = str(nanoaod(tmp_path / "original.root", 5))
    query = TreeQuery(columns=COLUMNS, cut="MET_pt > 15")
    transform_file(FileTask("c", (original,), None, None, None, (query,), skim, "w"))
    sources = [*map(source, files, (4, 6)), source(Path(skim), 3)]
    return Request("/A/B/C", tuple(sources), COLUMNS, "MET_pt > 5", "root-file", "1")


Waits = list[float]


def ours() -> bool:
    """Whether the client under test asks, which runs in pytest's own thread."""
    return threading.current_thread() is threading.main_thread()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """The pauses of the client, which take no time here; what never comes is soon given up."""
    monkeypatch.setattr("looseleaf.servicex.submission.VISIBLE", 5.0)
    found: Waits = []
    sleep = asyncio.sleep

    async def noted(seconds: float, *more: Any) -> Any:
        # services of other tests run in threads
        if not ours():
            return await sleep(seconds, *more)
        found.append(seconds)
        return await sleep(0, *more)

    monkeypatch.setattr(asyncio, "sleep", noted)
    return found


def made(request: Request, folder: Path, service: Elsewhere) -> dict[str, Any]:
    backend = At(service, service.mount)
    transform(request, folder / "volume", "sub", folder / "out.json", backend, "q")
    return read_json(folder / "out.json")


def test_what_has_come_is_kept_and_what_runs_is_taken_up(
    request_of_three: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Elsewhere(tmp_path / "mount", nothing_new, one_more, breaks)
    with pytest.raises(ServiceXFailed, match="elsewhere: broken off"):
        made(request_of_three, tmp_path, service)
    assert "servicex q: 4 of 13 events" in capsys.readouterr().err
    folder = request_folder(tmp_path / "volume", "sub", request_of_three.id)
    (kept,) = folder.glob("*.root")
    before = kept.stat()
    service.turns = [all_done]
    manifest = made(request_of_three, tmp_path, service)
    assert [asked.status for asked in service.asked] == [Status.complete]
    assert kept.stat().st_ino == before.st_ino
    assert [file["events_in"] for file in manifest["files"]] == [4, 6, 5]
    assert [file["events_out"] for file in manifest["files"]] == [3, 5, 3]
    # the skim's own events, not those that it was made from
    assert "servicex q: 13 of 13 events" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codegen", "status", "told"),
    [
        (OWN, Status.canceled, "request r0 ended as Canceled"),
        ("uproot-raw", Status.fatal, "request r0 ended as Fatal"),
        (OWN, Status.fatal, "request r0 ended as Fatal: its volume is full, over quota or read-on"),
        (OWN, Status.bad_dataset, "request r0 ended as Bad Dataset"),
    ],
)
def test_a_request_that_ends_before_it_is_done(
    request_of_three: Request, tmp_path: Path, codegen: str, status: Status, told: str
) -> None:
    async def ends(service: Elsewhere, asked: Asked) -> None:
        service.finish(asked)
        asked.status = status

    service = Elsewhere(tmp_path / "mount", ends)
    service.codegen = codegen
    with pytest.raises(ServiceXFailed) as caught:
        made(request_of_three, tmp_path, service)
    said = str(caught.value).removeprefix("elsewhere: ")
    assert said.startswith(told)
    assert ("its volume" in said) == ("its volume" in told)
    # its only result is kept all the same, and what has ended isn't waited for again
    service.turns = [all_done]
    made(request_of_three, tmp_path, service)
    assert [len(asked.request.file_list or []) for asked in service.asked] == [3, 2]


@pytest.mark.parametrize(
    ("url", "longest"),
    [("http://127.0.0.1:5000", 0.5), ("http://localhost", 0.5), ("https://127.0.0.1.org", 10.0)],
)
def test_how_often_a_service_is_asked(
    request_of_three: Request, tmp_path: Path, waits: Waits, url: str, longest: float
) -> None:
    service = Elsewhere(tmp_path / "mount", *[nothing_new] * 20, all_done, url=url)
    made(request_of_three, tmp_path, service)
    assert len(waits) == 20
    assert waits[0] == 0.1
    assert waits == sorted(waits)
    assert waits[-1] == longest


def test_a_service_that_is_away_for_a_moment(request_of_three: Request, tmp_path: Path) -> None:
    """Also while it receives a request, so that the client can't know whether it was accepted."""

    class Away(Elsewhere):
        async def submit_transform(self, transform_request: TransformRequest) -> str:
            await super().submit_transform(transform_request)
            raise httpx.ReadError("the connection was cut")

    async def gone(service: Elsewhere, asked: Asked) -> None:
        raise httpx.ConnectError("no route")

    service = Away(tmp_path / "mount", one_more, gone, all_done)
    assert made(request_of_three, tmp_path, service)["totals"]["events_in"] == 15
    assert [asked.id for asked in service.asked] == ["r0"]


def test_a_service_that_stays_away(
    request_of_three: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("looseleaf.servicex.submission.PATIENCE", 0.5)

    async def gone(service: Elsewhere, asked: Asked) -> None:
        raise httpx.ConnectError("no route")

    with pytest.raises(ServiceXFailed, match=r"elsewhere: no answer for .* s \(ConnectError\)"):
        made(request_of_three, tmp_path, Elsewhere(tmp_path / "mount", gone))


def test_a_cancellation_that_the_clients_library_takes_for_a_failure(
    request_of_three: Request, tmp_path: Path
) -> None:
    async def interrupted(service: Elsewhere, asked: Asked) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    service = Elsewhere(tmp_path / "mount", nothing_new, interrupted, all_done)
    theirs = TransformRequest(
        title="theirs", file_list=["/x.root"], selection="", codegen=OWN,
        result_destination=ResultDestination.volume, result_format=ResultFormat.root_ttree,
    )  # fmt: skip
    asyncio.run(service.submit_transform(theirs))
    with pytest.raises(asyncio.CancelledError):
        made(request_of_three, tmp_path, service)
    assert [asked.status for asked in service.asked] == [Status.running, Status.canceled]


@pytest.mark.parametrize("seen", [0.0, 0.5])
def test_a_result_that_a_network_volume_shows_late(
    request_of_three: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: float
) -> None:
    """At first not at all, or half of it."""
    outputs: list[Path] = []

    async def not_seen(service: Elsewhere, asked: Asked) -> None:
        await all_done(service, asked)
        path = service.place(asked, 1)
        content = path.read_bytes()
        path.rename(hidden(path))
        if seen:
            path.write_bytes(content[: int(len(content) * seen)])
        outputs.append(path)

    paused, count = asyncio.sleep, 0

    async def seen_later(seconds: float, *more: Any) -> Any:
        nonlocal count
        count += ours()
        if ours() and count == 3:
            os.replace(hidden(outputs[0]), outputs[0])
        return await paused(seconds, *more)

    monkeypatch.setattr(asyncio, "sleep", seen_later)
    manifest = made(request_of_three, tmp_path, Elsewhere(tmp_path / "mount", not_seen))
    assert count == 3
    assert manifest["totals"]["events_in"] == 15


def test_a_result_is_taken_with_what_the_service_says_of_it(
    request_of_three: Request, tmp_path: Path
) -> None:
    """The record beside a result is written after it."""

    async def without_a_record(service: Elsewhere, asked: Asked) -> None:
        path = service.finish(asked)
        record = path.with_name(account_name(path.name))
        record.rename(hidden(record))

    async def with_it(service: Elsewhere, asked: Asked) -> None:
        path = service.place(asked, 0)
        record = path.with_name(account_name(path.name))
        hidden(record).rename(record)
        await all_done(service, asked)

    service = Elsewhere(tmp_path / "mount", without_a_record, with_it)
    assert made(request_of_three, tmp_path, service)["totals"]["events_in"] == 15


def test_every_request_that_came_to_nothing_is_remembered(
    request_of_three: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a service calls complete isn't there: neither is it waited for a second time."""
    monkeypatch.setattr("looseleaf.servicex.submission.VISIBLE", 0.0)

    async def lost(service: Elsewhere, asked: Asked) -> None:
        await all_done(service, asked)
        for number in range(asked.done - 2, asked.done):
            service.place(asked, number).rename(hidden(service.place(asked, number)))

    service = Elsewhere(tmp_path / "mount", lost)
    for number in range(3):
        of = 3 if number == 0 else 2
        with pytest.raises(
            Shortfall, match=f"r{number} has no result for 2 of {of} files in .*mou"
        ):
            made(request_of_three, tmp_path, service)
    service.turns = [all_done]
    made(request_of_three, tmp_path, service)
    assert len(service.asked) == 4


def test_results_under_upstreams_names(request_of_three: Request, tmp_path: Path) -> None:
    """Cut short where a file system would refuse them."""
    folder = tmp_path / ("d" * 100)
    lengths = (LONGEST - 1, LONGEST, LONGEST + 1)
    rooms = [length - len(f"{folder}/.root") for length in lengths]
    assert min(rooms) > 0
    sources = []
    for number, room in enumerate(rooms):
        path = nanoaod(folder / f"{'e' * room}.root", 4 + number)
        assert len(str(path)) == lengths[number]
        sources.append(source(path, 4 + number))
    request = Request("/A/B/C", tuple(sources), COLUMNS, "MET_pt > 15", "root-file", "1")
    service = Elsewhere(tmp_path / "mount", all_done)
    service.codegen = "uproot-raw"
    manifest = made(request, tmp_path, service)
    assert [file["events_in"] for file in manifest["files"]] == [4, 5, 6]
    assert [file["events_out"] for file in manifest["files"]] == [2, 3, 4]
    assert [file["source_url"] for file in manifest["files"]] == [s.urls[0] for s in sources]


def test_results_that_have_no_names(request_of_three: Request, tmp_path: Path) -> None:
    """They are looked for once all of them are done: nothing says which of them are whole."""

    async def one_and_a_half(service: Elsewhere, asked: Asked) -> None:
        service.finish(asked)
        half = service.finish(asked)
        content = half.read_bytes()
        half.write_bytes(content[: len(content) // 2])
        asked.done = 1

    service = Elsewhere(tmp_path / "mount", one_and_a_half, all_done)
    service.codegen, service.nameless = "uproot-raw", True
    manifest = made(request_of_three, tmp_path, service)
    assert [file["events_out"] for file in manifest["files"]] == [3, 5, 3]


def test_why_a_file_has_no_result(request_of_three: Request, tmp_path: Path) -> None:
    async def one_fails(service: Elsewhere, asked: Asked) -> None:
        service.finish(asked)
        asked.status, asked.failed = Status.complete, 2
        paths = (asked.request.file_list or [])[1:]
        errors = [{"paths": paths[0], "error": "it is damaged"}, {"paths": paths[1], "error": None}]
        write_json(service.mount / asked.id / MANIFEST, {"files": errors})

    with pytest.raises(Shortfall) as caught:
        made(request_of_three, tmp_path, Elsewhere(tmp_path / "mount", one_fails))
    assert str(caught.value) == (
        "elsewhere: request r0 has no result for 2 of 3 files: /store/b.root: it is damaged; "
        "/store/c.root"
    )


def test_every_file_is_held_to_its_own_checksum(
    request_of_three: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "input")
    records = [
        replace(source.record, adler32=f"0000000{number}")
        for number, source in enumerate(request_of_three.sources)
    ]
    sources = tuple(Source(record, (Path(record.name).name,)) for record in records)
    request = replace(request_of_three, sources=sources, verify=True)
    service = Elsewhere(tmp_path / "mount", all_done)
    made(request, tmp_path, service)
    (asked,) = service.asked
    assert json.loads(asked.request.selection)["checksums"] == {
        str(tmp_path / f"input/{name}.root"): f"0000000{n}" for n, name in enumerate("abc")
    }
    other = Elsewhere(tmp_path / "other", all_done)
    other.codegen = "uproot-raw"
    with pytest.raises(ConfigError, match=r"das\.verify: elsewhere isn't one of looseleaf's own"):
        made(request, tmp_path / "again", other)
    assert other.asked == []


def test_results_of_other_software_are_held_to_the_lookup(tmp_path: Path) -> None:
    path = nanoaod(tmp_path / "input/a.root", 4)
    request = Request("/A/B/C", (source(path, 5),), COLUMNS, None, "root-file", "1")
    service = Elsewhere(tmp_path / "mount", all_done)
    service.codegen = "uproot-raw"
    with pytest.raises(DataFileError, match="has 4 events, but the lookup said 5"):
        made(request, tmp_path, service)
    own = Elsewhere(tmp_path / "own/mount", all_done)
    with pytest.raises(DataFileError, match="has 4 events, but the lookup said 5"):
        made(request, tmp_path / "own", own)


def full(path: Path, simulated: bool) -> Path:
    """Ten events in two of the three sections that the file lists, with jets of two branches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jets = np.resize([2, 0, 1], 10)
    pt = ak.unflatten(np.arange(jets.sum(), dtype="f4") * 7, jets)
    events: dict[str, Any] = {
        "run": np.full(10, 7, "u4"), "luminosityBlock": np.repeat([1, 2], 5).astype("u4"),
        "event": np.arange(10, dtype="u8"), "MET_pt": np.arange(10, dtype="f4") * 10,
        "Jet_pt": pt, "Jet_eta": pt / 100, "HLT_A": np.arange(10) % 2 == 0,
    }  # fmt: skip
    if simulated:
        terms = np.arange(30, dtype="f4").reshape(10, 3)
        events |= {
            "genWeight": np.resize(np.array([1.5, -1, 2], "f4"), 10),
            "EFTfitCoefficients": ak.from_regular(terms),
            "PSWeight": ak.from_regular(terms[:, :2] / 8 + 1),
        }
    sections = {"run": np.full(3, 7, "u4"), "luminosityBlock": np.arange(1, 4, dtype="u4")}
    with create(path, "root-file", uuid4()) as file:
        for tree, columns in (("Events", events), ("LuminosityBlocks", sections)):
            arrays = ak.zip(columns, depth_limit=1)
            file.extend(tree, arrays, collections_of(arrays.fields, {*arrays.fields, "nJet"}))
    return path


# where and when something was made, and its bytes
CIRCUMSTANCES = {"source_uuid", "uuid", "bytes", "adler32", "cost"}


@pytest.mark.parametrize(("simulated", "eft"), [(True, True), (True, False), (False, False)])
def test_other_software_comes_to_the_same(tmp_path: Path, simulated: bool, eft: bool) -> None:
    """Columns, totals of the original file, its sections, sums of coefficients and theory."""
    path = full(tmp_path / "input/a.root", simulated)
    columns = ["MET_pt", "PFMET_pt|Jet_eta", "Jet_pt", "HLT_A|HLT_B"]
    columns += ["EFTfitCoefficients", "PSWeight"] if eft else []
    request = Request(
        "/A/B/C", (source(path, 10),), tuple(columns), "MET_pt > 35", "root-file", "1"
    )
    found = []
    for codegen in (OWN, "uproot-raw"):
        service = Elsewhere(tmp_path / codegen / "mount", all_done)
        service.codegen = codegen
        manifest = made(request, tmp_path / codegen, service)
        (file,) = manifest["files"]
        told = {key: value for key, value in file.items() if key not in CIRCUMSTANCES}
        with uproot.open(Path(manifest["folder"]) / file["output"]) as result:
            events = result["Events"].arrays()
            found.append((told, {name: events[name].to_list() for name in events.fields}))
    assert found[0] == found[1]
    told, events = found[0]
    assert (told["events_in"], told["events_out"]) == (10, 6)
    assert told["lumi_sections"] == (None if simulated else {"7": [[1, 3]]})
    assert told["eft_sums_in"] == ([135, 145, 155] if eft else [] if simulated else None)
    assert set(told["theory_sums_in"]) == ({"PSWeight"} if eft else set())
    assert {"Jet_pt", "Jet_eta", "nJet", "MET_pt", "HLT_A"} <= set(events)
