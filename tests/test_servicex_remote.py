"""The remote backend: a ServiceX's results are those of the embedded backend, also after kills."""

import asyncio
import base64
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import pytest
import uproot
import yaml
from conftest import Snakemake
from disks import disk
from samples import qcd, sample, skimmed
from service import Service, run

from looseleaf.errors import ConfigError, ServiceXFailed, Shortfall
from looseleaf.files import read_json
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.formats import ORIGINAL
from looseleaf.servicex.remote import Remote
from looseleaf.servicex.request import REFERENCE, Request, request_from_das
from looseleaf.servicex.submission import FIRST_WAIT, LONGEST_WAIT_HERE, transform

pytestmark = pytest.mark.slow

COLUMNS = ["run", "luminosityBlock", "event", "genWeight", "Muon_pt", "Muon_charge", "MET_pt|PFMET"]
CUT = "(nMuon > 0) & (MET_pt > 5)"


@pytest.fixture(scope="module")
def das(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A looked-up dataset of four files."""
    folder = tmp_path_factory.mktemp("input")
    skimmed(folder, "q", {"q": qcd(4000, files=4)}, COLUMNS, None)
    return folder / "q.das.json"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with Service(tmp_path / "service") as it:
        # the client looks for servicex.yaml from the working folder upwards
        monkeypatch.chdir(it.state)
        yield it


def take_for_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a service is asked as one that has no code generator of ours."""
    monkeypatch.setattr("looseleaf.servicex.submission.OWN", "not there")


def wanted(
    das: Path,
    cut: str | None = CUT,
    columns: list[str] = COLUMNS,
    output_format: str = "root-file",
) -> Request:
    return request_from_das(das, columns, cut, output_format, "test", [])


def mounted(service: Service) -> Remote:
    return Remote(mount=service.volume / "transforms")


def asked(request: Request, folder: Path, backend: Remote) -> dict[str, Any]:
    transform(request, folder / "volume", "sub", folder / "out.json", backend, "q")
    return read_json(folder / "out.json")


def test_a_full_disk_for_what_is_downloaded(service: Service, das: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "volume") as small:
        # room for the lease, and for the word on whose results use the request
        with small.full(3 * 4096), pytest.raises(OSError, match="/downloads/") as caught:
            asked(wanted(das), tmp_path, Remote())
        assert caught.value.errno == errno.ENOSPC
        assert [name for name in small.content() if "/.used-by-" not in name] == []
        assert not (tmp_path / "out.json").exists()
        assert asked(wanted(das), tmp_path, Remote())["totals"]["files"] == 4


# what says when, where and in which try a file was made, and which bytes its compression took
CIRCUMSTANCES = ("bytes", "adler32", "uuid", "cost", "source_uuid")


def plainly(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key not in CIRCUMSTANCES}


def columns_of(path: Path) -> dict[str, Any]:
    """Every column of a result's trees in its order: type, length and bytes, exactly."""
    # what it is, whatever it is called
    if path.read_bytes()[:4] == b"PAR1":
        trees = {"Events": ak.from_parquet(path)}
    else:
        with uproot.open(path) as file:
            there = file.keys(cycle=False)
            trees = {name: file[name].arrays() for name in there if name != ORIGINAL}
    found = {}
    for tree, arrays in trees.items():
        for name in arrays.fields:
            column = ak.to_packed(arrays[name])
            _, length, buffers = ak.to_buffers(column, byteorder="<")
            parts = [buffers[key].tobytes() for key in sorted(buffers)]
            found[f"{tree}/{name}"] = (str(column.type.content), length, parts)
    return found


def content(manifest: dict[str, Any]) -> Any:
    """What a request came to, apart from when and where it was carried out."""
    told = [plainly(file) for file in manifest["files"]]
    paths = [Path(manifest["folder"]) / file["output"] for file in manifest["files"]]
    return told, plainly(manifest["totals"]), list(map(columns_of, paths))


def undisturbed(request: Request, folder: Path) -> Any:
    transform(request, folder / "embedded", "sub", folder / "embedded.json", Embedded(1), "q")
    return content(read_json(folder / "embedded.json"))


@pytest.mark.parametrize("codegen", ["looseleaf", "uproot-raw"])
@pytest.mark.parametrize("destination", ["volume", "object-store"])
def test_remote_and_embedded_come_to_the_same(
    service: Service,
    das: Path,
    tmp_path: Path,
    destination: str,
    codegen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm = undisturbed(wanted(das), tmp_path)
    if codegen == "uproot-raw":
        take_for_upstream(monkeypatch)
    endpoint = mounted(service) if destination == "volume" else Remote()
    manifest = asked(wanted(das), tmp_path, endpoint)
    assert content(manifest) == calm
    assert manifest["backend"] == "remote"
    assert manifest["request_id"] == wanted(das).id
    (only,) = run(service.adapter.get_transforms())
    assert only.result_destination == destination
    assert isinstance(json.loads(only.selection), dict if codegen == "looseleaf" else list)
    names = {path.name for path in Path(manifest["folder"]).iterdir()}
    names -= {path.name for path in Path(manifest["folder"]).glob(f"{REFERENCE}*")}
    outputs = {file["output"] for file in manifest["files"]}
    assert names == outputs | {f"{name}.json" for name in outputs} | {"manifest.json"}


def test_nothing_selected_keeps_the_normalisation(
    service: Service, das: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = undisturbed(wanted(das, "MET_pt < 0"), tmp_path)
    take_for_upstream(monkeypatch)
    manifest = asked(wanted(das, "MET_pt < 0"), tmp_path, mounted(service))
    assert manifest["totals"]["events_out"] == 0
    assert content(manifest) == calm


def test_luminosity_sections_eft_and_theory_sums_travel(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [*COLUMNS, "EFTfitCoefficients", "PSWeight"]
    declared = {"e": sample("eft", 900, files=1, wc_names=["a"])}
    skimmed(tmp_path / "eft", "e", declared, columns, None)
    request = wanted(tmp_path / "eft/e.das.json", CUT, columns)
    calm = undisturbed(request, tmp_path)
    take_for_upstream(monkeypatch)
    manifest = asked(request, tmp_path, mounted(service))
    assert len(manifest["files"][0]["eft_sums_in"]) == 3
    assert len(manifest["files"][0]["theory_sums_in"]["PSWeight"]) == 4
    assert content(manifest) == calm
    # nor are they forgotten where nobody asks for them
    unasked = asked(wanted(tmp_path / "eft/e.das.json", CUT, COLUMNS), tmp_path, mounted(service))
    assert unasked["files"][0]["eft_sums_in"] == []


def test_a_complete_request_is_not_asked_again(service: Service, das: Path, tmp_path: Path) -> None:
    first = asked(wanted(das), tmp_path, mounted(service))
    service.kill()
    assert asked(wanted(das), tmp_path, mounted(service)) == first


def test_another_destination_is_another_request(
    service: Service, das: Path, tmp_path: Path
) -> None:
    first = asked(wanted(das), tmp_path / "first", mounted(service))
    again = asked(wanted(das), tmp_path / "again", mounted(service))
    # what the service has is taken up for a folder that has nothing
    assert len(run(service.adapter.get_transforms())) == 1
    other = asked(wanted(das), tmp_path / "other", Remote())
    destinations = [s.result_destination for s in run(service.adapter.get_transforms())]
    assert destinations == ["volume", "object-store"]
    assert content(first) == content(again) == content(other)


def test_a_service_of_this_machine_is_asked_often(
    service: Service, das: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float, *more: Any) -> Any:
        waits.append(seconds)
        return await sleep(seconds, *more)

    monkeypatch.setattr(asyncio, "sleep", noted)
    asked(wanted(das), tmp_path, mounted(service))
    assert waits[0] == FIRST_WAIT == 0.1
    assert max(waits) <= LONGEST_WAIT_HERE == 0.5


@pytest.mark.parametrize("destination", ["volume", "object-store"])
def test_a_file_without_result_is_named_and_the_rest_is_kept(
    service: Service, das: Path, tmp_path: Path, destination: str
) -> None:
    request = wanted(das)
    backend = mounted(service) if destination == "volume" else Remote()
    gone = Path(request.sources[2].urls[0])
    aside = gone.rename(tmp_path / "aside.root")
    try:
        with pytest.raises(
            Shortfall, match=f"no result for 1 of 4 files: .*{gone.name}: no such file"
        ):
            asked(request, tmp_path, backend)
        assert not (tmp_path / "out.json").exists()
    finally:
        aside.rename(gone)
    manifest = asked(request, tmp_path, backend)
    assert content(manifest) == undisturbed(request, tmp_path)
    transforms = run(service.adapter.get_transforms())
    assert [status.files for status in transforms] == [4, 1]


def test_results_that_have_gone_are_asked_for_again(
    service: Service, das: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("looseleaf.servicex.submission.VISIBLE", 0.0)
    request = wanted(das)
    elsewhere = Remote(mount=tmp_path / "elsewhere")
    with pytest.raises(Shortfall, match=r"elsewhere \(servicex\.mount\)"):
        asked(request, tmp_path, elsewhere)
    asked(request, tmp_path, mounted(service))
    assert len(run(service.adapter.get_transforms())) == 2


def test_flat_names_of_upstream_come_with_a_warning(
    service: Service,
    das: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = wanted(das)
    calm = undisturbed(request, tmp_path)
    take_for_upstream(monkeypatch)
    asked(request, tmp_path / "first", mounted(service))
    flat = tmp_path / "flat"
    flat.mkdir()
    (made,) = (service.volume / "transforms").iterdir()
    for path in made.glob("*.root"):
        path.rename(flat / path.name)
    again = asked(request, tmp_path / "second", Remote(mount=flat))
    assert "keeps no folder for each request" in capsys.readouterr().err
    assert content(again) == calm


def test_what_is_the_matter_with_an_endpoint(
    service: Service, das: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"servicex\.endpoint: 'other' is not in .*: looseleaf"):
        asked(wanted(das), tmp_path, Remote("other"))
    value = yaml.safe_load(service.client_config.read_text())
    value["api_endpoints"][0]["token"] = "wrong"
    (tmp_path / "servicex.yaml").write_text(yaml.safe_dump(value))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServiceXFailed, match="the token was refused"):
        asked(wanted(das), tmp_path, Remote())


def test_a_canceled_request_is_told_and_asked_again(
    service: Service, das: Path, tmp_path: Path
) -> None:
    title = f"looseleaf {wanted(das).id} volume"
    old = service.submit(
        file_list=[str(das.parent / "a.root")], selection='[{"treename": "x"}]', title=title
    )
    run(service.adapter.cancel_transform(old))
    manifest = asked(wanted(das), tmp_path, mounted(service))
    assert content(manifest) == undisturbed(wanted(das), tmp_path)


CLIENT = """
import signal
import sys
from pathlib import Path
from looseleaf.servicex.remote import Remote
from looseleaf.servicex.request import request_from_das
from looseleaf.servicex.submission import transform
# what is started in the background of a shell ignores Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
das, folder, mount, output_format, cut, *columns = sys.argv[1:]
request = request_from_das(das, columns, cut, output_format, "test", [])
backend = Remote(mount=Path(mount))
transform(request, f"{folder}/volume", "sub", f"{folder}/out.json", backend, "q")
"""


def client(
    das: Path, folder: Path, service: Service, output_format: str = "root-file"
) -> "subprocess.Popen[bytes]":
    mount = str(service.volume / "transforms")
    arguments = [str(das), str(folder), mount, output_format, CUT, *COLUMNS]
    return subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], cwd=service.state)


def strike(service: Service, victim: str, asking: "subprocess.Popen[bytes]") -> None:
    """kill -9 the service (and start it again), one of its workers, or the client."""
    if victim == "service":
        service.kill()
        service.start()
    elif victim == "client":
        asking.kill()
    else:
        for pid in service.workers()[:1]:
            os.kill(pid, signal.SIGKILL)


SELECTION = json.dumps(
    [{"treename": "Events", "filter_name": ["Muon_*", "MET_*"], "cut": CUT}, {"treename": "Runs"}]
)


def on_volume(service: Service, das: Path, output_format: str, disturb: Any) -> Any:
    """What a request for results on the service's own volume comes to, `disturb` being called
    when it is submitted."""
    files = [source.urls[0] for source in wanted(das).sources]
    selection = json.dumps(json.loads(SELECTION)[: 1 if output_format == "parquet" else 2])
    request = service.submit(file_list=files, selection=selection, result_format=output_format)
    disturb(request)
    assert service.finished(request).files_completed == len(files)
    folder = service.folder(request)
    manifest = read_json(folder / "manifest.json")
    entries = [{**e, "tries": None, "result": plainly(e["result"])} for e in manifest["files"]]
    outputs = [entry["result"]["output"] for entry in entries]
    assert {path.name for path in folder.iterdir()} == {*outputs, "manifest.json"}
    return manifest["request"], entries, [columns_of(folder / output) for output in outputs]


def calm(das: Path, folder: Path, output_format: str) -> Any:
    """What both requests of `disturbed` come to when nothing is killed."""
    with Service(folder / "calm") as service:
        found = on_volume(service, das, output_format, lambda request: None)
    return undisturbed(wanted(das, output_format=output_format), folder), found


def disturbed(
    das: Path, folder: Path, service: Service, output_format: str, seed: int
) -> tuple[Any, int]:
    """What two requests come to, one of the remote backend and one for the service's volume, while
    service, worker and client are killed once each, in random order at random moments; and how
    many of the kills struck before both were done."""
    chance = random.Random(seed)
    victims = chance.sample(["service", "worker", "client"], 3)
    asking = client(das, folder, service, output_format)
    struck = 0

    def disturb(request: str) -> None:
        nonlocal asking, struck
        for victim in victims:
            # a moment of a run that takes a few seconds; not a wait for something
            threading.Event().wait(chance.uniform(0, 1.5))
            done = (service.folder(request) / "manifest.json").exists()
            struck += asking.poll() is None or not done
            strike(service, victim, asking)
            if victim == "client":
                asking.wait()
            if asking.poll() is not None:
                asking = client(das, folder, service, output_format)

    found = on_volume(service, das, output_format, disturb)
    # what was under way when a kill struck may fail with it; the next one has nothing to fear
    if asking.wait(300) != 0:
        asking = client(das, folder, service, output_format)
        assert asking.wait(300) == 0
    return (content(read_json(folder / "out.json")), found), struck


@pytest.mark.parametrize("output_format", ["root-file", "root-rntuple", "parquet"])
def test_kills_at_random_change_nothing(
    service: Service, das: Path, tmp_path: Path, output_format: str
) -> None:
    found, _ = disturbed(das, tmp_path, service, output_format, seed=1)
    assert found == calm(das, tmp_path, output_format)
    assert not list(tmp_path.rglob(".part-*"))


@pytest.mark.parametrize("victim", ["service", "worker", "client"])
def test_a_kill_while_files_are_written(
    service: Service, das: Path, tmp_path: Path, victim: str
) -> None:
    asking = client(das, tmp_path, service)
    # as soon as the service has taken the request in
    while not list((service.volume / "transforms").glob("*-*")):
        assert asking.poll() is None
    strike(service, victim, asking)
    if victim == "client":
        asking.wait()
        asking = client(das, tmp_path, service)
    assert asking.wait(300) == 0
    assert content(read_json(tmp_path / "out.json")) == undisturbed(wanted(das), tmp_path)
    # taken up, not asked for twice
    assert len(run(service.adapter.get_transforms())) == 1


def test_interrupting_the_client_cancels(service: Service, das: Path, tmp_path: Path) -> None:
    # the only way to a request that is surely not done yet: its workers have something else to do
    body = "def run_query(path):\n    import time; time.sleep(600)"
    busy = [wanted(das).sources[0].urls[0], wanted(das).sources[1].urls[0]]
    source = base64.b64encode(body.encode()).decode()
    service.submit(file_list=busy, codegen="python", selection=source)
    asking = client(das, tmp_path, service)
    while len(run(service.adapter.get_transforms())) < 2:
        assert asking.poll() is None
    asking.send_signal(signal.SIGINT)
    assert asking.wait(60) != 0
    statuses = [status.status for status in run(service.adapter.get_transforms())]
    # not what others have asked for
    assert statuses == ["Running", "Canceled"]


def test_the_workflow_asks_a_remote_servicex(
    service: Service, snakemake: Snakemake, tmp_path: Path
) -> None:
    (tmp_path / "servicex.yaml").write_text(service.client_config.read_text())
    skim = {"backend": "remote", "mount": str(service.volume / "transforms")}
    override = {"samples": {"scale": 0.01}, "servicex": skim}
    target = "results/servicex/WJetsToLNu.json"
    done = snakemake("--cores", "1", target, override=override)
    assert done.status == 0, done.text
    manifest = read_json(tmp_path / target)
    assert manifest["backend"] == "remote"
    assert manifest["totals"]["events_in"] > manifest["totals"]["events_out"] > 0
    # who carries it out is no reason to make it again
    again = snakemake("-n", target, override={"samples": {"scale": 0.01}})
    assert "Nothing to be done" in again.text
