"""Manifests and ledgers that were damaged: each is read, or refused with a sentence."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import hist
import pytest
from analyses import analysis_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from looseleaf.application.closure import totals
from looseleaf.benchmark import collect
from looseleaf.errors import DataFileError, LooseleafError
from looseleaf.fakerate.measure import summed
from looseleaf.files import digest
from looseleaf.histograms.store import write_uhi
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.input_losses import losses_of_columns
from looseleaf.servicex.request import MANIFEST, Request, Source
from looseleaf.servicex.transform import FileResult
from looseleaf.servicex.volume import account_name, complete_manifest, made_before
from looseleaf.stage_files import LEDGER_FORMAT, MANIFEST_FORMAT, FileRecord, original_of
from looseleaf.topcoffea.normalisation import check_coefficients, factors_of

COST = {"events": 8, "bytes_read": 100, "wall_s": 0.5, "cpu_s": 0.25, "peak_rss_bytes": 1000}
DATASET = {"data": False, "xsec_pb": 2.0, "process": "t", "declared_in": "d.yaml"}


def result(name: str, **more: Any) -> dict[str, Any]:
    """What a manifest says of one file."""
    return {
        "source": f"/store/{name}",
        "source_url": f"root://host//store/{name}",
        "passed_over": ["root://other: away"],
        "source_uuid": "1",
        "output": f"{name}.root",
        "bytes": 3,
        "adler32": "024d0127",
        "uuid": name,
        "events_in": 8,
        "events_out": 5,
        "sum_of_weights_in": 36.0,
        "sum_of_weights_out": 20.5,
        "eft_sums_in": None,
        "theory_sums_in": {"LHEScaleWeight": [30.0, None, 40.0]},
        "lumi_sections": {"1": [[1, 3], [7, 7]]},
        "normalised_by": "Events",
        "held": {"events": 8, "sum_of_weights": 36.0},
        "not_finite": {"MET_pt": {"count": 1, "of": 5, "unit": "events"}},
        "missing": {"HLT_Mu8": ["HLT_Mu17"]},
        "bare": False,
        "cost": COST,
        **more,
    }


def manifest(folder: Path, *files: dict[str, Any]) -> dict[str, Any]:
    files = files or (result("a"), result("b"))
    return {
        "format": MANIFEST_FORMAT,
        "request_id": "r",
        "request": {"cut": "MET_pt > 10"},
        "left_out": [],
        "folder": str(folder),
        "totals": {
            "bytes": 6,
            "events_in": sum(file["events_in"] for file in files),
            "events_out": sum(file["events_out"] for file in files),
            "sum_of_weights_in": sum(file["sum_of_weights_in"] for file in files),
        },
        "files": list(files),
    }


def ledger() -> dict[str, Any]:
    original = {
        "events": 16,
        "sum_of_weights": 72.0,
        "eft_sums": [3.0, 2.0, 1.0],
        "theory_sums": {"LHEScaleWeight": [60.0, None, 80.0]},
        "lumi_sections": {"1": [[1, 3]]},
        "certified_sections": None,
        "left_out": [],
    }
    chunk = {"worker": "0", "cost": COST}
    return {
        "format": LEDGER_FORMAT,
        "dataset": "d",
        "original": original,
        "chunks": [chunk, chunk],
        "losses": [],
    }


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([10**400, -(2**63), 2**31, float("nan"), float("-inf"), 1e308, -0.0]),
    st.sampled_from(["", "a", "\0", "x" * 300, "://", "s4://a/b", "1", "looseleaf-manifest/3"]),
    st.sampled_from([[], {}, [[]], [None], {"": None}, {"a": [1]}, [{"a": 1}], [[3, 1]]]),
)


def places(value: Any) -> list[list[Any]]:
    """The ways to all that a JSON value holds."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [[], *([key, *rest] for key, inner in items for rest in places(inner))]


@st.composite
def damaged(draw: st.DrawFn, good: dict[str, Any]) -> str:
    """The text of a good value with one to three things changed, or cut off."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([w for w in places(value) if w] or [["format"]]))
        inner = value
        for key in way:
            inner = inner[key]
        change = draw(st.sampled_from(["replace", "delete", "wrap", "rename"]))
        if change == "delete":
            del inner[last]
        elif change == "rename" and isinstance(inner, dict):
            inner[draw(st.sampled_from(["", "events", "\0", "9" * 30, "²"]))] = inner.pop(last)
        else:
            inner[last] = [inner[last]] if change == "wrap" else draw(JUNK)
    text = json.dumps(value)
    if draw(st.integers(0, 9)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text


def read_or_refused(read: Callable[[], Any]) -> None:
    """That `read` gives a value, or says in a sentence what is wrong with the file."""
    with suppress(LooseleafError):
        read()


ENOUGH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        (tmp_path / f"{name}.root").write_bytes(b"abc")
    return tmp_path


def used(fileset: Fileset) -> None:
    """What is done with a fileset before its events are read."""
    chunks_of(fileset, 3)
    losses_of_columns(fileset, ["MET_pt", "HLT_Mu8"], ["MET_pt"])
    check_coefficients("d", DATASET, fileset.original)
    theory = {"branch": "LHEScaleWeight", "up": 0, "down": 2}
    analysis = {"lumi_ifb": 1.0, "systematics": {"theory": {"scale": theory}}}
    factors_of("d", DATASET, analysis_of(analysis), fileset.original)
    # what goes into the ledger and into the names of checkpoints
    digest([dict(fileset.original), [loss.to_json() for loss in fileset.losses]])


@ENOUGH
@given(data=st.data())
def test_damaged_manifests(folder: Path, data: st.DataObject) -> None:
    path = folder / "d.json"
    path.write_text(data.draw(damaged(manifest(folder))))
    read_or_refused(lambda: used(from_manifest("d", path, {})))
    read_or_refused(lambda: collect.read_manifest(path))


@ENOUGH
@given(data=st.data())
def test_damaged_manifests_on_the_volume_are_made_again(folder: Path, data: st.DataObject) -> None:
    """Neither a request's manifest nor the records beside its files hinder another run."""
    source = Source(FileRecord("/store/a.root", 3, 8, None), ("a",))
    request = Request("d", (source,), ("MET_pt",), None, "root-file", "test")
    (folder / MANIFEST).write_text(data.draw(damaged(manifest(folder))))
    found = complete_manifest(folder)
    assert found is None or len([FileResult.from_json(f, "") for f in found["files"]]) <= 2
    here = folder / "request"
    here.mkdir(exist_ok=True)
    (here / "store:a.root").write_bytes(b"abc")
    good = {"key": request.id, "result": result("a", output="store:a.root", source="/store/a.root")}
    record = here / account_name("store:a.root")
    record.write_text(json.dumps(good))
    assert made_before(request, here)["/store/a.root"].sum_of_weights_in == 36.0
    record.write_text(data.draw(damaged(good)))
    assert isinstance(made_before(request, here), dict)


@ENOUGH
@given(data=st.data())
def test_damaged_ledgers(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "d.ledger.json"
    path.write_text(data.draw(damaged(ledger())))
    read_or_refused(lambda: collect.read_ledger(path))
    read_or_refused(lambda: check_coefficients("d", DATASET, original_of(path)))
    theory = {"branch": "LHEScaleWeight", "up": 0, "down": 1}
    analysis = {"lumi_ifb": 1.0, "systematics": {"theory": {"scale": theory}}}
    for dataset in (DATASET, {**DATASET, "wc_names": ["a"]}):
        read_or_refused(
            lambda d=dataset: factors_of("d", d, analysis_of(analysis), original_of(path))
        )
    histograms = tmp_path / "d.json"
    if not histograms.exists():
        write_uhi(histograms, {"x.observed": hist.Hist.new.Reg(1, 0, 1).Double()}, {})
    paths = {"d": str(histograms)}, {"d": str(path)}
    measure: Mapping[str, Any] = {"weights": "xsec", "lumi_ifb": 1.0}
    read_or_refused(lambda: summed(["d"], analysis_of(measure, "fakerate"), {"d": DATASET}, *paths))
    apply = {"lumi_ifb": 1.0, "datasets": {"observe": ["d"]}}
    read_or_refused(lambda: totals(analysis_of(apply, "application"), {"d": DATASET}, *paths))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("files"), "d.json: files is missing; the file is damaged"),
        (lambda m: m.update(files={}), r"d.json: files: should be a list, not \{\}"),
        (lambda m: m["files"][1].pop("uuid"), "d.json: files: 1: uuid is missing"),
        (
            lambda m: m["files"][0].update(events_in=-1),
            "files: 0: events_in: should be a whole number from 0, not -1",
        ),
        (
            lambda m: m["files"][0].update(sum_of_weights_out=10**400),
            "sum_of_weights_out: should be a number, not a huge number",
        ),
        (lambda m: m.update(format="looseleaf-manifest/3"), "not of the format 'looseleaf-man"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    value = manifest(folder)
    change(value)
    (folder / "d.json").write_text(json.dumps(value))
    with pytest.raises(DataFileError, match=message):
        from_manifest("d", folder / "d.json", {})


def test_an_empty_file_leaves_the_sums_of_theory_weights(folder: Path) -> None:
    """It has none of its own, and takes none of the others' away."""
    empty = result(
        "b", events_in=0, events_out=0, sum_of_weights_in=0.0, sum_of_weights_out=0.0,
        theory_sums_in={}, lumi_sections=None, held={"events": 0, "sum_of_weights": 0.0},
        not_finite={}, missing={}, bare=True,
    )  # fmt: skip
    (folder / "d.json").write_text(json.dumps(manifest(folder, result("a"), empty)))
    fileset = from_manifest("d", folder / "d.json", {})
    assert fileset.original["theory_sums"] == {"LHEScaleWeight": [30.0, None, 40.0]}
    assert fileset.original["lumi_sections"] == {"1": [[1, 3], [7, 7]]}
    assert [file.bare for file in fileset.files] == [False, True]
    assert [chunk.file.name for chunk in chunks_of(fileset, 100)] == ["/store/a"]
    (folder / "d.json").write_text(json.dumps(manifest(folder, result("a"), result("b"))))
    both = from_manifest("d", folder / "d.json", {}).original["theory_sums"]
    assert both == {"LHEScaleWeight": [60.0, None, 80.0]}
    # a file with events that lacks them leaves the sum unknown
    lacks = result("b", theory_sums_in={})
    (folder / "d.json").write_text(json.dumps(manifest(folder, result("a"), lacks)))
    assert from_manifest("d", folder / "d.json", {}).original["theory_sums"] == {
        "LHEScaleWeight": []
    }
