"""The service, in a process of its own, asked by ServiceX's own client."""

import base64
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward as ak
import boto3
import pyarrow.parquet as pq
import pytest
import uproot
import uvicorn
from botocore.config import Config
from samples import SETTINGS, TRUTH, qcd
from service import COMMAND, NO_JAIL, QUERY, Service, expected, holds, run, selection
from starlette.staticfiles import StaticFiles

from looseleaf.errors import ConfigError
from looseleaf.files import read_json
from looseleaf.samples.generate import generate
from looseleaf.servicex.formats import read_original
from looseleaf.servicex.service.queries import check
from looseleaf.servicex.volume import result_name

pytestmark = pytest.mark.slow

FILES, EVENTS = 4, 2000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """NanoAOD files on this machine."""
    folder = tmp_path_factory.mktemp("input")
    generate("q", {"q": qcd(EVENTS, FILES)}, SETTINGS, folder / "q/catalogue.json", TRUTH)
    return sorted(map(str, (folder / "q").glob("*.root")))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = ["--seconds", "60", "--memory", "2048", "--allow", "http://127.0.0.1"]
    with Service(tmp_path_factory.mktemp("service"), *options) as it:
        yield it


# the client leaves loops and files open, which is its own affair in a process of its own
DELIVER = """
import json, os, signal, sys
from servicex import dataset, deliver, query
from servicex.query_cache import QueryCache

asked = json.load(sys.stdin)
if asked["killed"]:
    remember = QueryCache.cache_submitted_transform
    def killed(*given):
        remember(*given)
        os.kill(os.getpid(), signal.SIGKILL)
    QueryCache.cache_submitted_transform = killed
if isinstance(asked["query"], list):
    where, select = asked["query"]
    wanted = query.FuncADL_Uproot().FromTree("Events").Where(where).Select(select)
elif isinstance(asked["query"], dict):
    wanted = query.UprootRaw(asked["query"])
else:
    wanted = query.PythonFunction(asked["query"])
spec = {
    "General": {"OutputFormat": "root-ttree", "Delivery": asked["delivery"]},
    "Sample": [{
        "Name": "s",
        "Dataset": dataset.FileList(asked["files"]),
        "Query": wanted,
    }],
}
found = deliver(spec, asked["config"], cache_dir=asked["cache"], progress_bar="none")
json.dump(list(found["s"]), sys.stdout)
"""


def delivered(
    service: Service,
    folder: Path,
    asked: dict[str, Any] | list[str] | str,
    files: list[str],
    delivery: str = "LocalCache",
    killed: bool = False,
) -> list[str]:
    """What `servicex.deliver` gives back, of an uproot-raw query, a Python function's source, or
    func_adl's Where and Select; its process is `killed` when it has submitted the request."""
    value = {
        "query": asked,
        "files": files,
        "delivery": delivery,
        "killed": killed,
        "config": str(service.client_config),
        "cache": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", DELIVER],
        input=json.dumps(value),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
    return [] if killed else json.loads(done.stdout.splitlines()[-1])


def source_of(result: str, files: list[str]) -> str:
    (found,) = [f for f in files if result_name(f, "")[-16:] in result]
    return found


def test_stock_client_delivers_files(service: Service, files: list[str], tmp_path: Path) -> None:
    found = delivered(service, tmp_path, QUERY, files)
    assert sorted(source_of(path, files) for path in found) == files
    for path in found:
        holds(path, source_of(path, files))


def test_stock_client_delivers_a_func_adl_query(
    service: Service, files: list[str], tmp_path: Path
) -> None:
    asked = [
        "lambda e: e.Muon_pt.Count() > 0 and e.MET_pt > 10",
        "lambda e: {'Muon_pt': e.Muon_pt, 'Muon_charge': e.Muon_charge, 'MET_pt': e.MET_pt}",
    ]
    found = delivered(service, tmp_path, asked, files)
    assert sorted(source_of(path, files) for path in found) == files
    for path in found:
        holds(path, source_of(path, files))


def test_stock_client_takes_up_what_it_had_submitted(
    service: Service, files: list[str], tmp_path: Path
) -> None:
    asked = {**QUERY, "cut": "nMuon > 0"}
    before = len(run(service.adapter.get_transforms()))
    delivered(service, tmp_path, asked, files, killed=True)
    assert len(delivered(service, tmp_path, asked, files)) == FILES
    assert len(run(service.adapter.get_transforms())) == before + 1


def test_signed_urls_are_for_one_file_and_one_key(
    service: Service, files: list[str], tmp_path: Path
) -> None:
    (url,) = delivered(service, tmp_path, QUERY, files[:1], "URLs")
    copy = tmp_path / "copy.root"
    with urllib.request.urlopen(url) as found:
        copy.write_bytes(found.read())
    holds(copy, files[0])
    name = url.split("?")[0].rpartition("/")[2]
    for bad in (url.replace(name, "manifest.json"), url.split("?")[0], url[:-4] + "9999"):
        assert answer(service, bad.removeprefix(service.url))[0] == 403


def test_presigned_urls_of_version_4_end(service: Service, files: list[str]) -> None:
    request = service.submit(
        file_list=files[:1], selection=selection(), result_destination="object-store"
    )
    status = service.finished(request)
    (path,) = service.folder(request).glob("*.root")

    def signed_url(secret: str | None, seconds: int = 60) -> str:
        client = boto3.client(
            "s3",
            endpoint_url=service.url,
            region_name="us-east-1",
            aws_access_key_id=status.minio_access_key,
            aws_secret_access_key=secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        what = {"Bucket": request, "Key": path.name}
        url = client.generate_presigned_url("get_object", Params=what, ExpiresIn=seconds)
        return url.removeprefix(service.url)

    good = signed_url(status.minio_secret_key)
    with urllib.request.urlopen(service.url + good) as found:
        assert found.read() == path.read_bytes()
    part = urllib.request.Request(service.url + good, headers={"Range": "bytes=4-9"})
    with urllib.request.urlopen(part) as found:
        assert (found.status, found.read()) == (206, path.read_bytes()[4:10])
    for bad in (
        signed_url("another"),
        signed_url(status.minio_secret_key, -1),
        good.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        good.replace(path.name, "manifest.json"),
    ):
        assert answer(service, bad)[0] == 403


@pytest.mark.parametrize("output", ["root-file", "root-rntuple", "parquet"])
def test_every_format_on_the_volume(service: Service, files: list[str], output: str) -> None:
    request = service.submit(file_list=files, selection=selection(), result_format=output)
    assert service.finished(request).files_completed == FILES
    manifest = read_json(service.folder(request) / "manifest.json")
    for entry in manifest["files"]:
        assert (entry["status"], entry["tries"]) == ("success", 1)
        holds(service.folder(request) / entry["result"]["output"], entry["paths"])
    names = {entry["result"]["output"] for entry in manifest["files"]}
    assert {path.name for path in service.folder(request).iterdir()} == names | {"manifest.json"}


@pytest.mark.parametrize("output", ["root-file", "root-rntuple", "parquet"])
def test_nothing_selected_changes_no_normalisation(
    service: Service, files: list[str], output: str
) -> None:
    asked = selection(cut="MET_pt < 0")
    request = service.submit(file_list=files[:1], selection=asked, result_format=output)
    service.finished(request)
    (entry,) = read_json(service.folder(request) / "manifest.json")["files"]
    assert (entry["result"]["events_out"], entry["result"]["events_in"]) == (0, EVENTS // FILES)
    original = read_original(service.folder(request) / entry["result"]["output"])
    weights = uproot.open(files[0])["Events"]["genWeight"].array(library="np").astype(float)
    assert original["sum_of_weights"] == pytest.approx(weights.sum(), rel=1e-12)


def test_nanoaod_schema_reads_results(service: Service, files: list[str]) -> None:
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory  # noqa: PLC0415 - slow

    request = service.submit(
        file_list=files[:1], selection=selection(filter_name=["Muon_*", "MET_pt"])
    )
    service.finished(request)
    (path,) = service.folder(request).glob("*.root")

    class Schema(NanoAODSchema):
        warn_missing_crossrefs = False

    events = NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=Schema, mode="eager"
    ).events()
    assert ak.array_equal(events.Muon.pt, expected(files[0])["Muon_pt"], check_parameters=False)
    assert ak.all(events.event == expected(files[0])["event"])


def test_a_cut_on_an_rntuple_is_not_ignored(service: Service, files: list[str]) -> None:
    everything = selection(cut=None, filter_name=["Muon_*", "MET_pt", "n*"])
    request = service.submit(
        file_list=files[:1], selection=everything, result_format="root-rntuple"
    )
    service.finished(request)
    (ntuple,) = service.folder(request).glob("*.root")
    assert "RNTuple" in uproot.open(ntuple).classname_of("Events")
    request = service.submit(file_list=[str(ntuple)], selection=selection())
    assert service.finished(request).files_failed == 0
    (path,) = service.folder(request).glob("*.root")
    holds(path, files[0])


def test_several_trees_aliases_and_expressions(service: Service, files: list[str]) -> None:
    queries = [
        {
            "treename": {"Events": "selected"},
            "expressions": ["event", "twice", "abs(MET_pt - 10)"],
            "aliases": {"twice": "2 * MET_pt"},
            "cut": "twice > 40",
        },
        {"treename": "Events", "filter_name": "MET_*", "filter_typename": "float"},
        {"treename": "NotThere", "fail_on_missing_trees": False},
    ]
    request = service.submit(file_list=files[:1], selection=json.dumps(queries))
    assert service.finished(request).files_failed == 0
    (path,) = service.folder(request).glob("*.root")
    source = uproot.open(files[0])["Events"].arrays()
    found = uproot.open(path)["selected"].arrays(library="np")
    kept = ak.to_numpy(source["MET_pt"])[ak.to_numpy(source["MET_pt"]) > 20]
    assert set(found) == {"event", "twice", "abs(MET_pt - 10)"}
    assert (found["twice"] == 2 * kept).all()
    assert (found["abs(MET_pt - 10)"] == abs(kept - 10)).all()
    assert uproot.open(path)["Events"].num_entries == EVENTS // FILES


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"selection": "x"}, "is a JSON list of queries"),
        ({"selection": "[]"}, "at least one tree"),
        ({"selection": selection(cut="nMuon >")}, "can't be read here"),
        ({"selection": selection(cut="().__class__")}, "not allowed in an expression"),
        ({"selection": selection(expressions="open('/etc/passwd')")}, "unknown function 'open'"),
        ({"selection": selection(colour="red")}, "colour"),
        ({"selection": "[{}]"}, "treename"),
        ({"selection": json.dumps([QUERY, QUERY])}, "two results are called Events"),
        ({"file_list": []}, "no file in it"),
        ({"file_list": ["/a.root", "/a.root"]}, "listed twice"),
        ({"file_list": ["../a.root"]}, "file-list"),
        ({"codegen": "python", "selection": "%"}, "base64"),
        ({"codegen": "python", "selection": "cGFzcw=="}, r"defines run_query\(path\)"),
        ({"codegen": "func_adl"}, "codegen"),
        ({"result_format": "parquet", "selection": selection(treename=["A", "B"])}, "one tree"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(
    service: Service, asked: dict[str, Any], message: str
) -> None:
    before = set((service.volume / "transforms").iterdir())
    with pytest.raises(ValueError, match=message):
        service.submit(**{"file_list": ["/a.root"], "selection": selection(), **asked})
    assert set((service.volume / "transforms").iterdir()) == before


def test_a_failed_file_is_told_and_the_others_stand(
    service: Service, files: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.root"
    bad.write_bytes(Path(files[0]).read_bytes()[:3000])
    request = service.submit(file_list=[files[0], str(bad)], selection=selection())
    status = service.finished(request)
    assert (status.files_completed, status.files_failed) == (1, 1)
    good, failed = read_json(service.folder(request) / "manifest.json")["files"]
    holds(service.folder(request) / good["result"]["output"], files[0])
    # a file of this machine doesn't get better by waiting
    assert (failed["status"], failed["tries"]) == ("failure", 1)
    assert "bad.root" in failed["error"]


def test_transient_failures_are_tried_again_a_few_times(tmp_path: Path) -> None:
    with Service(tmp_path, "--tries", "2", "--allow", "http://127.0.0.1:1", workers=1) as service:
        request = service.submit(file_list=["http://127.0.0.1:1/a.root"], selection=selection())
        service.finished(request)
        (failed,) = read_json(service.folder(request) / "manifest.json")["files"]
    assert (failed["status"], failed["tries"]) == ("failure", 2)


def python(body: str) -> str:
    source = "def run_query(path):\n    import os, sys, uproot\n    " + body
    return base64.b64encode(source.encode()).decode()


def asked_python(service: Service, files: list[str], body: str, **more: Any) -> dict[str, Any]:
    request = service.submit(file_list=files[:1], codegen="python", selection=python(body), **more)
    service.finished(request)
    (entry,) = read_json(service.folder(request) / "manifest.json")["files"]
    return entry


def test_python_query(service: Service, files: list[str], tmp_path: Path) -> None:
    source = "def run_query(path):\n    import uproot\n    " + (
        "a = uproot.open(path)['Events'].arrays(['run', 'MET_pt'])\n    "
        "print('{}')\n    "
        "return {'Events': a[a.MET_pt > 10], 'all': {'n': [len(a)]}}"
    )
    (path,) = delivered(service, tmp_path, source, files[:1])
    met = uproot.open(files[0])["Events"]["MET_pt"].array(library="np")
    assert (uproot.open(path)["Events"]["MET_pt"].array(library="np") == met[met > 10]).all()
    assert uproot.open(path)["all"]["n"].array(library="np").tolist() == [EVENTS // FILES]
    assert read_original(path)["events"] == EVENTS // FILES


def test_python_query_to_parquet(service: Service, files: list[str]) -> None:
    body = "return uproot.open(path)['Events'].arrays(['event'])"
    entry = asked_python(service, files, body, result_format="parquet")
    found = service.volume.glob(f"transforms/*/{entry['result']['output']}")
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    assert pq.read_table(newest).schema.names == ["event"]
    assert pq.read_table(newest).num_rows == EVENTS // FILES


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise KeyError('no such thing')", "KeyError: 'no such thing'"),
        ("sys.exit(3)", "it ended with status 3"),
        ("os.kill(os.getpid(), 9)", "it ended with status"),
        ("return bytearray(3 << 30)", "needs more than 2,147,483,648 bytes of memory"),
        ("return {}", "returned no tree"),
        (
            "f = open(os.environ['HOME'] + '/x', 'wb'); f.seek(3 << 30); f.write(b'x'); f.close()",
            "File too large",
        ),
        ("[os.open('/dev/null', 0) for _ in range(300)]", "Too many open files"),
        ("os.write(3, b'[1]'); os._exit(0)", "answered in place of the service's code"),
        pytest.param(
            "[os.fork() or __import__('time').sleep(60) for _ in range(300)]",
            "a query is one process",
            marks=pytest.mark.skipif(NO_JAIL is not None, reason=f"no jail here: {NO_JAIL}"),
        ),
    ],
)
def test_python_query_that_fails(service: Service, files: list[str], body: str, error: str) -> None:
    entry = asked_python(service, files, body)
    assert entry["status"] == "failure"
    assert error in entry["error"]


def test_python_query_that_does_not_end(files: list[str], tmp_path: Path) -> None:
    with Service(tmp_path, "--seconds", "6", "--tries", "1", workers=1) as service:
        entry = asked_python(service, files, "import time; time.sleep(600)")
        assert "not done within 6 s" in entry["error"]
        # the worker after it works
        request = service.submit(file_list=files[:1], selection=selection())
        assert service.finished(request).files_completed == 1


def test_python_query_sees_no_secret(service: Service, files: list[str]) -> None:
    told = (
        "raise RuntimeError(repr(dict(os.environ)) + repr(sys.argv)"
        " + repr(os.listdir(os.environ['HOME'])) + os.getcwd())"
    )
    text = asked_python(service, files, told)["error"]
    keys = json.loads((service.state / "keys.json").read_text())
    for secret in ("LOOSELEAF_TEST_SECRET", str(service.state), *keys.values()):
        assert secret not in text
    assert os.environ["HOME"] + "'" not in text


# what a query tries; gives back what it got hold of
TRIES = """
import os, signal, socket
def run_query(path):
    got = []
    def attempt(what, action):
        try:
            action()
            got.append(what)
        except OSError:
            pass
    for secret in {secrets}:
        attempt("read " + secret, lambda: open(secret, "rb").close())
    for folder in {folders}:
        if os.access(folder, os.W_OK):
            got.append("write " + folder)
    attempt("change its input", lambda: open(path, "ab").close())
    service = ("127.0.0.1", {port})
    attempt("talk to the service", lambda: socket.create_connection(service, 2).close())
    attempt("signal the service", lambda: os.kill({pid}, 0))
    attempt("be root", lambda: os.setuid(0))
    if len([name for name in os.listdir("/proc") if name.isdigit()]) > 2:
        got.append("see processes")
    with open("/proc/self/status") as status:
        lines = list(status)
    for line in lines:
        if line.startswith(("CapEff", "CapPrm")) and int(line.split()[1], 16):
            got.append("have capabilities")
    raise RuntimeError(repr(sorted(set(got))))
"""


@pytest.mark.skipif(NO_JAIL is not None, reason=f"no jail here: {NO_JAIL}")
def test_a_python_query_is_in_a_jail(service: Service, files: list[str], tmp_path: Path) -> None:
    other = service.submit(file_list=files[:1], selection=selection())
    service.finished(other)
    (result,) = service.folder(other).glob("*.root")
    # readable by everybody, so that nothing but the jail hides them
    proxy, config, key = tmp_path / "x509up_u0", tmp_path / ".servicex", tmp_path / "key.pem"
    for path in (proxy, config, key):
        path.write_text("secret")
    own = [service.state / name for name in ("keys.json", "servicex.yaml", "state.sqlite")]
    secrets = [*own, proxy, config, key, result, Path(files[1]), Path("/etc/passwd")]
    assert service.process is not None
    source = TRIES.format(
        secrets=list(map(str, secrets)),
        folders=[str(service.folder(other)), str(Path(files[0]).parent), "/usr", sys.prefix],
        port=service.port,
        pid=service.process.pid,
    )
    request = service.submit(
        file_list=files[:1],
        codegen="python",
        selection=base64.b64encode(source.encode()).decode(),
    )
    service.finished(request)
    (entry,) = read_json(service.folder(request) / "manifest.json")["files"]
    assert entry["error"].endswith("RuntimeError: []"), entry["error"]
    # outside of it the same attempts succeed, all but root's own
    scope: dict[str, Any] = {}
    exec(source, scope)
    with pytest.raises(RuntimeError) as free:
        scope["run_query"](files[0])
    for what in (*(f"read {path}" for path in secrets), "talk to the service", "see processes"):
        assert what in str(free.value)


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """A web server, with ranges, for the files in a folder."""
    config = uvicorn.Config(StaticFiles(directory=folder), port=0, log_level="warning")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.mark.skipif(NO_JAIL is not None, reason=f"no jail here: {NO_JAIL}")
def test_a_python_query_reads_a_remote_file_without_a_network(
    service: Service, files: list[str]
) -> None:
    body = "return uproot.open(path)['Events'].arrays(['event'])"
    with web(Path(files[0]).parent) as url:
        entry = asked_python(service, [f"{url}/{Path(files[0]).name}"], body)
    assert (entry["status"], entry["result"]["events_out"]) == ("success", EVENTS // FILES)
    assert entry["result"]["source_url"].startswith(url)
    assert not list(service.volume.rglob(".part-*"))


def test_without_a_jail_python_queries_take_the_operators_word(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    unsaid = Service(tmp_path, workers=1)
    unsaid.options = [option for option in unsaid.options if option != "--unconfined-python"]
    body = python("return uproot.open(path)['Events'].arrays(['event'])")
    with open(tmp_path / "log", "w") as unsaid.log, unsaid:
        with pytest.raises(RuntimeError, match=r"bwrap .* is not installed.*--unconfined-python"):
            unsaid.submit(file_list=files[:1], codegen="python", selection=body)
        assert "python" not in run(unsaid.adapter.get_code_generators_async())
        request = unsaid.submit(file_list=files[:1], selection=selection())
        assert unsaid.finished(request).files_completed == 1
    said_at_start = "warning: python queries need a jail, which this service can't make"
    assert said_at_start in (tmp_path / "log").read_text()
    with Service(tmp_path, "--unconfined-python", workers=1) as said:
        request = said.submit(file_list=files[:1], codegen="python", selection=body)
        assert said.finished(request).files_completed == 1


def test_what_python_queries_see_holds_no_secret(tmp_path: Path) -> None:
    key = str(Path(sys.prefix) / "pyvenv.cfg")
    text = refused(tmp_path, "--certificate", key, "--key", key)
    assert f"Python queries see all of {sys.prefix}: put it elsewhere" in text


def test_only_python_with_a_token(files: list[str], tmp_path: Path) -> None:
    with Service(tmp_path, "--no-token", workers=1) as service:
        with pytest.raises(RuntimeError, match="python queries are for services with a token"):
            service.submit(file_list=files[:1], codegen="python", selection=python("return 1"))
        assert "python" not in run(service.adapter.get_code_generators_async())
        request = service.submit(file_list=files[:1], selection=selection())
        assert service.finished(request).files_completed == 1


def answer(service: Service, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(service.url + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode()


def test_who_has_no_token_learns_nothing(service: Service, files: list[str]) -> None:
    request = service.submit(file_list=files[:1], selection=selection())
    service.finished(request)
    (result,) = service.folder(request).glob("*.root")
    token = json.loads((service.state / "keys.json").read_text())["token"]
    # the long-lived token is good for a pass and nothing else
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {token}"}):
        for path in ("", "/transformation", f"/transformation/{request}", "/datasets"):
            assert answer(service, f"/servicex{path}", **headers)[0] == 401
        assert answer(service, f"/servicex/transformation/{request}", "DELETE", **headers)[0] == 401
        assert answer(service, f"/{request}/{result.name}", **headers)[0] == 403
    assert answer(service, "/token/refresh", "POST", Authorization="Bearer x")[0] == 401
    assert answer(service, "/token/refresh", "POST", Authorization=f"Bearer {token}")[0] == 200
    assert stat.S_IMODE((service.state / "servicex.yaml").stat().st_mode) == 0o600
    assert stat.S_IMODE((service.state / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(service.state.stat().st_mode) == 0o700


def test_ids_that_are_none(service: Service) -> None:
    headers = run(service.adapter._get_authorization())
    nobody = "00000000-0000-4000-8000-000000000000"
    assert answer(service, f"/servicex/transformation/{nobody}", **headers)[0] == 404
    for bad in ("x", "..%2f..", "%2e%2e", f"{nobody}%2f..", "a" * 300):
        for method in ("GET", "DELETE"):
            status, text = answer(service, f"/servicex/transformation/{bad}", method, **headers)
            assert status in (400, 404, 405), bad
            assert str(service.volume) not in text
    assert answer(service, f"/{nobody}/..%2f..%2fstate%2fkeys.json")[0] in (403, 404)


def test_two_requests_on_one_input_share_nothing(service: Service, files: list[str]) -> None:
    cuts = ("MET_pt > 10", "MET_pt <= 10")
    requests = [service.submit(file_list=files[:1], selection=selection(cut=cut)) for cut in cuts]
    counts = []
    for request in requests:
        service.finished(request)
        (path,) = service.folder(request).glob("*.root")
        counts.append(uproot.open(path)["Events"].num_entries)
    assert sum(counts) == EVENTS // FILES
    assert min(counts) > 0


def test_a_link_in_the_place_of_a_result_is_not_followed(files: list[str], tmp_path: Path) -> None:
    with Service(tmp_path, "--no-token", workers=1) as service:
        request = service.submit(file_list=files[:1], selection=selection())
        service.finished(request)
        (path,) = service.folder(request).glob("*.root")
        assert answer(service, f"/{request}/{path.name}", "HEAD") == (200, "")
        path.unlink()
        path.symlink_to(service.client_config)
        assert answer(service, f"/{request}/{path.name}")[0] == 404


def test_names_of_300_characters(service: Service, files: list[str], tmp_path: Path) -> None:
    folder = tmp_path
    for letter in "abc":
        folder = folder / (letter * 200)
    folder.mkdir(parents=True)
    long = [folder / f"{'n' * 240}{number}.root" for number in (1, 2)]
    for path, source in zip(long, files, strict=False):
        path.symlink_to(source)
    request = service.submit(file_list=list(map(str, long)), selection=selection())
    assert service.finished(request).files_completed == 2
    for entry in read_json(service.folder(request) / "manifest.json")["files"]:
        assert len(entry["result"]["output"]) < 210
        holds(service.folder(request) / entry["result"]["output"], entry["paths"])


def test_unknown_dataset(service: Service) -> None:
    request = service.submit(did="rucio://cms:/A/B/C", selection=selection())
    status = service.finished(request)
    assert status.status == "Bad Dataset"
    assert run(service.adapter.get_dataset(status.did_id)).lookup_status == "does_not_exist"


def test_dataset_of_a_catalogue(files: list[str], tmp_path: Path) -> None:
    catalogue = Path(files[0]).parent / "catalogue.json"
    (name,) = read_json(catalogue)["datasets"]
    with Service(tmp_path, "--catalogue", str(catalogue), workers=1) as service:
        request = service.submit(did=f"rucio://cms:{name}?files=2", selection=selection())
        assert service.finished(request).files_completed == 2


def test_cancel_and_delete(files: list[str], tmp_path: Path) -> None:
    with Service(tmp_path, workers=1) as service:
        body = "import time; time.sleep(600)"
        slow = service.submit(file_list=files, codegen="python", selection=python(body))
        assert run(service.adapter.get_transform_status(slow)).status == "Running"
        run(service.adapter.cancel_transform(slow))
        status = run(service.adapter.get_transform_status(slow))
        assert (status.status, status.files_completed) == ("Canceled", 0)
        assert not list(service.folder(slow).glob("*"))
        # the only worker is free again
        request = service.submit(file_list=files[:1], selection=selection())
        assert service.finished(request).files_completed == 1
        run(service.adapter.delete_transform(request))
        assert not service.folder(request).exists()
        with pytest.raises(ValueError, match="not found"):
            run(service.adapter.get_transform_status(request))


def test_a_manifest_that_cannot_be_written_is_no_success(files: list[str], tmp_path: Path) -> None:
    with Service(tmp_path, workers=1) as service:
        # the only worker is kept busy until the place of the manifest is taken
        body = "import time; time.sleep(600)"
        slow = service.submit(file_list=files[:1], codegen="python", selection=python(body))
        request = service.submit(file_list=files, selection=selection())
        (service.folder(request) / "manifest.json").mkdir(parents=True)
        run(service.adapter.cancel_transform(slow))
        status = service.finished(request)
        assert (status.status, status.files_completed) == ("Fatal", FILES)


def refused(folder: Path, *options: str) -> str:
    """What the command says when it doesn't start."""
    plain = ["--volume", str(folder / "volume"), "--state", str(folder / "state"), "--port", "0"]
    done = subprocess.run(
        [*COMMAND, *plain, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_folders_and_addresses_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/link").symlink_to("/")
    for subdir in ("..", "../x", "/etc", "a/../../x", "link", "link/x"):
        assert "leaves the volume" in refused(tmp_path, "--subdir", subdir)
    assert "takes a token and TLS" in refused(tmp_path, "--host", "0.0.0.0")
    assert "takes a token and TLS" in refused(tmp_path, "--host", "0.0.0.0", "--no-token")
    (tmp_path / "file").write_text("")
    text = refused(tmp_path, "--volume", str(tmp_path / "file"))
    assert f"{tmp_path}/file/transforms: the volume can't be used: Not a directory" in text
    with Service(tmp_path, workers=1):
        assert "another service runs with this state" in refused(tmp_path)


@contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """A file system of its own, as small as that."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


def test_a_volume_that_fills_up(files: list[str], tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with mounted(volume, "160k"), Service(tmp_path, workers=1) as service:
        everything = selection(cut=None, filter_name="*")
        request = service.submit(file_list=files, selection=everything)
        status = service.finished(request)
        assert status.files_failed > 0
        entries = read_json(service.folder(request) / "manifest.json")["files"]
        errors = {entry["error"] for entry in entries if entry["status"] == "failure"}
        assert all("no space left on the disk" in error for error in errors)
        assert not list(service.folder(request).glob(".part-*"))
        run(service.adapter.delete_transform(request))
        small = service.submit(file_list=files[:1], selection=selection())
        assert service.finished(small).files_completed == 1


def test_a_volume_that_can_no_longer_be_written(files: list[str], tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with mounted(volume, "10m"):
        with Service(tmp_path, workers=1) as service:
            remount(volume, "ro")
            status = service.finished(service.submit(file_list=files, selection=selection()))
            # not even a manifest can say so
            assert (status.status, status.files_failed) == ("Fatal", FILES)
            remount(volume, "rw")
            request = service.submit(file_list=files, selection=selection())
            assert service.finished(request).files_completed == FILES
        remount(volume, "ro")
        assert "the volume can't be used: Read-only file system" in refused(tmp_path)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def submit_many(service: Service, files: list[str]) -> None:
    # the log beside the database has some room left
    for _ in range(100):
        cut = "MET_pt > 1" + " + 0" * 400 + " " * 2400
        service.submit(file_list=files, selection=selection(cut=cut))


def test_a_state_whose_disk_is_full(files: list[str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    with mounted(state, "1m"), Service(tmp_path, workers=1) as service:
        # a file that is under way while the disk fills up
        body = "import time; time.sleep(3); return uproot.open(path)['Events'].arrays(['event'])"
        slow = service.submit(file_list=files[:1], codegen="python", selection=python(body))
        filling = state / "filling"
        with pytest.raises(OSError, match="No space left"):
            fill(filling)
        with pytest.raises(RuntimeError, match="the service's own disk is full"):
            submit_many(service, files)
        filling.unlink()
        # what was taken in is carried out, and new requests are
        assert service.finished(slow).files_completed == 1
        request = service.submit(file_list=files[:1], selection=selection())
        assert service.finished(request).files_completed == 1


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ('{"columns": ["run"], "software": "1"}', "looseleaf selection: cut: Field required"),
        ('{"columns": "run", "cut": null, "software": "1"}', "looseleaf selection: columns: "),
        ('{"columns": [], "cut": "import os", "software": "1"}', "import os"),
        ("[", "Invalid JSON"),
    ],
)
def test_a_looseleaf_selection_that_cant_be_read(selection: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check("looseleaf", selection)
