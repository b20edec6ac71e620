"""`looseleaf clean` shows what earlier runs left behind, and removes that and nothing else."""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import Snakemake
from test_lease import elsewhere, holding

from looseleaf import lease
from looseleaf.clean import Present, find_left
from looseleaf.command import main
from looseleaf.errors import LooseleafError
from looseleaf.removal import Left, Stays, remove
from looseleaf.scratch import OLD_S
from looseleaf.servicex.request import REFERENCE, refer

MINE = Path("my.yaml")
REQUESTS = Path("volume/transforms")
ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with results and a volume beside them, and a temporary folder of its own."""
    folder, temporary = tmp_path / "work", tmp_path / "tmp"
    temporary.mkdir()
    (folder / "results/servicex").mkdir(parents=True)
    (folder / REQUESTS).mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    configure()
    return folder


def configure(**more: Any) -> None:
    settings = {"analyses": ["config/analyses/muon.yaml"], "servicex": {"volume": "volume"}}
    MINE.write_text(yaml.safe_dump({**settings, **more}))


def made(path: Path, content: str = "x" * 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def request(manifest: Path | str | None = None, name: str = "") -> Path:
    """The folder of a request with one result, for results whose manifest stands at a path."""
    folder = (
        REQUESTS / (name or str(uuid.uuid5(uuid.NAMESPACE_URL, str(time.time_ns()))))
    ).resolve()
    made(folder / "a.root")
    if manifest is not None:
        refer(folder, manifest)
    return folder


def manifest(path: Path, named: str) -> None:
    made(path, json.dumps({"request_id": named}))


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A folder that another process holds, which is killed in the end."""
    with holding(folder) as process:
        try:
            yield process
        finally:
            process.kill()


def found() -> dict[Path, str]:
    return {left.path: left.why for left in find_left(Present.of([MINE])).left}


def remarks() -> str:
    return "\n".join(find_left(Present.of([MINE])).remarks)


def clean(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["clean", "--configfile", str(MINE), *arguments])


def test_a_request_that_no_results_refer_to(place: Path) -> None:
    target = place / "results/servicex/QCD.json"
    old, new = request(target), request(target)
    manifest(target, new.name)
    # a service's own request, and what isn't looseleaf's
    others = [request(name=str(uuid.uuid4())), request(name="mine")]
    assert found() == {
        old: "no results refer to this request, and the configuration doesn't make it"
    }
    for path in [*old.iterdir(), old]:
        os.utime(path, (time.time() - 3 * 86_400,) * 2)
    told = clean()
    assert told.exit_code == 0
    size = 1000 + next(old.glob(f"{REFERENCE}*")).stat().st_size
    assert f"{old}  {size / 1000:#.3g} kB, 3 days old: no results refer" in told.output
    assert "remove these 1 (" in told.output
    assert "--yes does it" in told.output
    assert old.is_dir()
    told = clean("--yes")
    assert (told.exit_code, "removed 1 of 1" in told.output) == (0, True)
    assert not old.exists()
    assert all((folder / "a.root").is_file() for folder in [new, *others])
    assert clean("--yes").output == "nothing to remove\n"


def test_requests_that_other_results_use(place: Path, tmp_path: Path) -> None:
    (tmp_path / "other/results/servicex").mkdir(parents=True)
    of_others = tmp_path / "other/results/servicex"
    used, replaced = request(of_others / "A.json"), request(of_others / "B.json")
    interrupted, gone = request(of_others / "C.json"), request(tmp_path / "gone/servicex/D.json")
    manifest(of_others / "A.json", used.name)
    manifest(of_others / "B.json", used.name)
    unknown, elsewhere = request(), request(tmp_path / "gone/servicex/E.json")
    (reference,) = elsewhere.glob(f"{REFERENCE}*")
    value = json.loads(reference.read_text())
    assert value["host"] == socket.gethostname()
    reference.write_text(json.dumps({**value, "host": "elsewhere"}))
    assert set(found()) == {replaced, gone}
    told = remarks()
    assert f"{used}: {of_others}/A.json refers to it, so it stays" in told
    assert f"{interrupted}: {of_others.parent} may still come to need it, so it stays" in told
    assert f"{unknown}: it isn't written there which results use it, so it stays" in told
    assert f"{elsewhere}: {value['manifest']} on elsewhere may refer to it, so it stays" in told


def test_a_volume_within_the_results_is_theirs_alone(place: Path) -> None:
    configure(servicex={"volume": "results/volume"})
    folder = place / "results/volume/transforms" / str(uuid.uuid5(uuid.NAMESPACE_URL, "a"))
    made(folder / "a.root")
    made(folder / ".part-a.root")
    assert set(found()) == {folder}


@pytest.mark.parametrize("what", ["request", "results"])
def test_what_a_run_holds_stays(place: Path, what: str) -> None:
    folder = request(place / "results/servicex/QCD.json")
    part, in_request = made(place / "results/.part-a.json"), made(folder / ".part-b.root")
    with held(folder if what == "request" else place / "results") as process:
        assert set(found()) == ({part} if what == "request" else set())
        assert f"a run uses it (user {lease.Holder.this().user}, process {process.pid}" in remarks()
        clean("--yes")
        assert in_request.exists()
        assert part.exists() == (what == "results")
    # what kill -9 left is held by nobody
    assert clean("--yes").exit_code == 0
    assert not folder.exists()
    assert not part.exists()


def test_a_run_that_begins_after_the_question(place: Path) -> None:
    folder = request(place / "results/servicex/QCD.json")
    (left,) = find_left(Present.of([MINE])).left
    with held(folder), pytest.raises(LooseleafError, match="another run uses it"):
        remove(left)
    assert (folder / "a.root").exists()


def test_a_holder_on_another_machine_that_renews_not(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "GONE_S", 0.5)
    folder = request(place / "results/servicex/QCD.json")
    elsewhere(folder)
    assert set(found()) == {folder}


def test_parts_in_the_folder_of_a_needed_request(place: Path) -> None:
    target = place / "results/servicex/QCD.json"
    folder = request(target)
    manifest(target, folder.name)
    part, arrived = made(folder / ".part-b.root"), made(folder / "incoming/4/b.root").parents[1]
    assert set(found()) == {part, arrived}
    assert clean("--yes").exit_code == 0
    assert {path.name for path in folder.iterdir() if path.name[:1] != "."} == {"a.root"}


def test_checkpoints(place: Path) -> None:
    results = place / "results"
    here = results / "fakerate/muon"
    kept = made(here / "checkpoints/a.result").parent
    old = made(results / "fakerate/removed/checkpoints/b.result").parent
    elsewhere = made(results / "topcoffea/muon/checkpoints/b.result").parent
    assert set(found()) == {old, elsewhere}
    assert found()[old] == "the configuration has no analysis removed"
    for name in Present.of([MINE]).settings.datasets_in_use():
        manifest(results / f"servicex/{name}.json", name)
        histograms, ledger = made(here / f"{name}.json"), here / f"{name}.ledger.json"
        manifest(ledger, name)
    assert found()[kept] == "muon is finished; without them a rerun reads all of its events again"
    # a transform has made new files since
    manifest(ledger, "of before")
    assert kept not in found()
    manifest(ledger, name)
    assert kept in found()
    histograms.unlink()
    assert kept not in found()
    assert clean("--yes").exit_code == 0
    assert (kept / "a.result").exists()
    assert not old.exists()
    assert ledger.exists()


def test_scratch_folders_of_dead_processes(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = f"looseleaf-{gethostname()}"
    names = (f"{here}-{ended.pid}-a", f"{here}-{os.getpid()}-a", f"looseleaf-x-{ended.pid}-a")
    folders = [tmp_path / f"tmp/{name}" for name in names]
    for folder in folders:
        made(folder / "keys.json")
        os.utime(folder, (time.time() - OLD_S - 60,) * 2)
    young = made(tmp_path / f"tmp/{here}-{ended.pid}-b/keys.json").parent
    assert found() == {folders[0]: "the process that used it has ended"}
    clean("--yes")
    assert [folder.exists() for folder in [*folders, young]] == [False, True, True, True]


def test_nothing_behind_a_link_goes(place: Path, tmp_path: Path) -> None:
    precious = made(tmp_path / "precious/checkpoints/a.result").parents[1]
    made(precious / ".part-a.root")
    made(precious / "removed/checkpoints/a.result")
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, "link"))
    (place / REQUESTS / name).symlink_to(precious)
    (place / "results/fakerate").symlink_to(precious)
    (place / "results/topcoffea/removed").mkdir(parents=True)
    (place / "results/topcoffea/removed/checkpoints").symlink_to(precious)
    (place / "results/.part-link").symlink_to(precious / ".part-a.root")
    (place / "results/samples").symlink_to(precious)
    assert found() == {}
    clean("--yes")
    assert len([path for path in precious.rglob("*") if path.is_file()]) == 3


def test_a_folder_that_becomes_a_link_after_the_question(place: Path, tmp_path: Path) -> None:
    """Somebody of the group who may write to the results has the user remove the user's own."""
    made(place / "results/fakerate/removed/checkpoints/a.result")
    precious = made(tmp_path / "precious/removed/checkpoints/a.result")
    (left,) = find_left(Present.of([MINE])).left
    (place / "results/fakerate").rename(place / "results/old")
    (place / "results/fakerate").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        remove(left)
    # or another folder in its place
    (place / "results/fakerate").unlink()
    other = made(place / "results/fakerate/removed/checkpoints/b.result")
    with pytest.raises(Stays, match="is another one by now"):
        remove(left)
    assert precious.exists()
    assert other.exists()


@pytest.mark.skipif(not ROOT, reason="takes root")
@pytest.mark.parametrize("whole", [True, False])
def test_what_another_user_owns_stays(place: Path, whole: bool) -> None:
    folder = request(place / "results/servicex/QCD.json")
    theirs = folder if whole else folder / "a.root"
    os.chown(theirs, NOBODY, -1)
    assert found() == {}
    assert f"{theirs}: belongs to the user nobody, so {folder} stays" in remarks()
    clean("--yes")
    assert (folder / "a.root").exists()


def test_a_reference_that_a_crash_damaged(place: Path) -> None:
    folder, other = request(place / "results/servicex/QCD.json"), request("results/servicex/A.json")
    (reference,) = folder.glob(f"{REFERENCE}*")
    reference.write_text("{")
    assert set(found()) == {other}
    assert f"{folder}: not known whether it is needed ({reference}: not valid JSON" in remarks()


def test_a_manifest_that_cannot_be_read(place: Path) -> None:
    """What it needs isn't known. One that was killed while it was written is none yet."""
    folder = request(place / "results/servicex/QCD.json")
    part = made(place / "results/servicex/.part-a.json", "{")
    assert set(found()) == {folder, part}
    path = made(place / "results/servicex/QCD.json", "{")
    told = clean("--yes")
    assert (told.exit_code, folder.exists()) == (1, True)
    assert f"error: {path}: not valid JSON" in told.output


def test_results_that_are_the_volume(place: Path) -> None:
    configure(servicex={"volume": "results"})
    folder = place / "results/transforms" / str(uuid.uuid5(uuid.NAMESPACE_URL, "a"))
    made(folder / ".part-a.root")
    with held(folder):
        assert found() == {}
    assert set(found()) == {folder}


def test_another_configuration_than_that_of_the_last_run(place: Path) -> None:
    made(place / "results/config.json", json.dumps({"analyses": {"muon": {}}}))
    assert remarks() == ""
    made(place / "results/config.json", json.dumps({"analyses": {"mine": {}, "muon": {}}}))
    assert remarks() == (
        "results/config.json: the last run had analyses that this configuration has not (mine); "
        "is a --configfile missing?"
    )


def test_a_wrong_configuration_removes_nothing(place: Path) -> None:
    folder = request(place / "results/servicex/QCD.json")
    configure(analyses=["config/analyses/none.yaml"])
    told = clean("--yes")
    assert (told.exit_code, folder.exists()) == (1, True)
    assert "error: configuration: analyses: the file" in told.output


def test_a_size_of_a_folder_is_that_of_its_files(place: Path) -> None:
    made(place / "results/a/b.json", "12345")
    made(place / "results/a/c/d.json", "123")
    os.utime(place / "results/a/c/d.json", (5, 5))
    left = Left.of(place / "results", Path("a"), "because")
    assert left.bytes == 8
    assert abs(left.since - time.time()) < 60


@pytest.mark.chain
def test_the_requests_of_a_run(place: Path, snakemake: Snakemake) -> None:
    """A request that the configuration makes stays, also before its manifest is there."""
    target = "results/servicex/QCD_Pt-15to20.json"
    settings: dict[str, Any] = {
        "analyses": ["config/analyses/muon.yaml"],
        "samples": {"scale": 0.002},
    }
    run = snakemake(target, override=settings)
    assert run.status == 0, run.text
    os.chdir(run.folder)
    MINE.write_text(yaml.safe_dump(settings))
    assert found() == {}
    first = Path(json.loads(Path(target).read_text())["folder"])
    Path(target).unlink()
    assert found() == {}
    settings["servicex"] = {"format": "parquet"}
    MINE.write_text(yaml.safe_dump(settings))
    assert set(found()) == {first}
    run = snakemake(target, override=settings)
    assert run.status == 0, run.text
    assert set(found()) == {first}
    assert clean("--yes").exit_code == 0
    assert [path.name for path in first.parent.iterdir()] == [
        json.loads(Path(target).read_text())["request_id"]
    ]
