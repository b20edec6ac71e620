"""Files that aren't as they should be: right numbers of them all the same, or a refusal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from analyses import analysis_of
from coffea.processor import ProcessorABC

from looseleaf.errors import DataFileError
from looseleaf.files import adler32
from looseleaf.losses import Loss
from looseleaf.nanoaod import open_events
from looseleaf.objects.chunk import Branches
from looseleaf.objects.events import fired
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.input_losses import losses_of_columns
from looseleaf.processing.ledger import ledger_of
from looseleaf.processing.runner import process_task
from looseleaf.servicex import transform
from looseleaf.servicex.formats import create, read_original
from looseleaf.servicex.request import Request, Source
from looseleaf.servicex.submission import ORIGINAL_TREE
from looseleaf.servicex.transform import FileResult, FileTask, TreeQuery, transform_file
from looseleaf.servicex.volume import manifest_of, output_name
from looseleaf.stage_files import FileRecord
from looseleaf.topcoffea.normalisation import factors_of

FORMATS = ("root-file", "root-rntuple", "parquet")
KINDS = ("ttree", "rntuple", "parquet")
# a muon has these as well
MORE = ("phi", "mass", "charge")
COLUMNS = (
    *("run", "luminosityBlock", "event", "genWeight", "Muon_pt", "Muon_eta", "MET_pt"),
    *(f"Muon_{name}" for name in MORE),
)
FLOAT = "float32"


def events_of(number: int = 8) -> dict[str, Any]:
    """Flat columns and lists of some events: weights 1, 2, ..., one muon more in each of three."""
    counts = np.arange(number) % 3
    total = int(counts.sum())
    return {
        "run": np.ones(number, np.uint32),
        "luminosityBlock": np.full(number, 3, np.uint32),
        "event": np.arange(100, 100 + number, dtype=np.uint64),
        "genWeight": np.arange(1, number + 1, dtype=FLOAT),
        "nMuon": counts.astype(np.int32),
        "Muon_pt": ak.unflatten(np.arange(total, dtype=FLOAT) + 20, counts),
        "Muon_eta": ak.unflatten(np.linspace(-1, 1, total, dtype=FLOAT), counts),
        **{f"Muon_{name}": ak.unflatten(np.ones(total, FLOAT), counts) for name in MORE},
        "MET_pt": np.arange(number, dtype=FLOAT) * 10,
    }


def write(path: Path, kind: str = "ttree", row_group: int = 4, **trees: Mapping[str, Any]) -> Path:
    """A file with trees by name; of Parquet the first alone."""
    if kind == "parquet":
        path = path.with_suffix(".parquet")
        columns = {name: ak.to_arrow(ak.Array(v), extensionarray=False) for name, v in
                   next(iter(trees.values())).items()}  # fmt: skip
        pq.write_table(pa.table(columns), path, row_group_size=row_group)
        return path
    with uproot.recreate(path) as file:
        for name, columns in trees.items():
            # uproot writes no tree without branches
            there = columns or {"other": np.zeros(0)}
            arrays = {key: ak.Array(value) for key, value in there.items()}
            types = {key: ak.type(value).content for key, value in arrays.items()}
            make = file.mktree if kind == "ttree" else file.mkrntuple
            tree = make(name, types)
            tree.extend(arrays)
    return path


def transformed(
    path: Path,
    output: Path,
    columns: Sequence[str] = COLUMNS,
    cut: str | None = None,
    output_format: str = "root-file",
    original: str | None = None,
) -> FileResult:
    query = TreeQuery(columns=tuple(columns), cut=cut, may_lack=True)
    return transform_file(
        FileTask(path.name, (str(path),), None, None, None, (query,), str(output), "test",
                 output_format, original)
    )  # fmt: skip


def dataset_of(
    folder: Path,
    files: Sequence[Path],
    columns: Sequence[str] = COLUMNS,
    cut: str | None = None,
    output_format: str = "root-file",
    metadata: Mapping[str, Any] | None = None,
) -> Fileset:
    """The fileset of a dataset of some files, transformed without a service."""
    folder.mkdir(exist_ok=True)
    records = [FileRecord(p.name, p.stat().st_size, None, adler32(p), url=str(p)) for p in files]
    sources = tuple(Source(record, (str(record.url),)) for record in records)
    request = Request("/d/x-v1/NANOAODSIM", sources, tuple(columns), cut, output_format, "test")
    results = [
        transformed(path, folder / output_name(source, output_format), columns, cut, output_format)
        for path, source in zip(files, sources, strict=True)
    ]
    manifest_of(request, folder, results, "test")
    return from_manifest("d", folder / "manifest.json", metadata or {"data": False})


class Counts(ProcessorABC):
    """Events, muons and, by name, events in which a trigger fired."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths

    def process(self, events: Any) -> dict[str, Any]:
        out = {"events": len(events), "muons": int(ak.sum(ak.num(events.Muon.pt, axis=1)))}
        return out | {path: int(fired(Branches(events), [path]).sum()) for path in self._paths}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return accumulator


def processed(fileset: Fileset, *paths: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found, records = process_task(Counts(*paths), chunks_of(fileset, 3), fileset.metadata)
    return found, ledger_of(fileset, records, {})


# lists of unequal length


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_unequal_length_are_refused_with_the_first_event(
    tmp_path: Path, kind: str
) -> None:
    events = events_of()
    lists = events["Muon_eta"].to_list()
    lists[4] = [*lists[4], 0.5]
    lists[7] = lists[7][1:]
    events["Muon_eta"] = ak.values_astype(ak.Array(lists), FLOAT)
    path = write(tmp_path / "a.root", kind, Events=events)
    with pytest.raises(
        DataFileError,
        match=r"a\.(root|parquet): Muon_pt has 1 values in event 1:3:104, Muon_eta has 2",
    ):
        transformed(path, tmp_path / "out.root")
    assert not (tmp_path / "out.root").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_counter_that_disagrees_with_its_lists_is_refused(tmp_path: Path, kind: str) -> None:
    events = events_of()
    events["nMuon"][5] = 1
    path = write(tmp_path / "a.root", kind, Events=events)
    with pytest.raises(DataFileError, match="Muon_pt has 2 values in event 1:3:105, nMuon says 1"):
        transformed(path, tmp_path / "out.root")


@pytest.mark.parametrize("output", FORMATS)
def test_lists_of_unequal_length_are_never_written(tmp_path: Path, output: str) -> None:
    arrays = ak.Array({"Muon_pt": [[1.0], [2.0]], "Muon_eta": [[1.0], [2.0, 3.0]]})
    with (
        pytest.raises(DataFileError, match="Muon_pt has 1 values in entry 1, Muon_eta has 2"),
        create(tmp_path / "out", output, uuid4()) as result,
    ):
        result.extend("Events", arrays, {"Muon": ["Muon_pt", "Muon_eta"]})


# values that are no numbers


def spoilt() -> dict[str, Any]:
    """MET_pt is no number in events 1 and 6, a muon's eta is infinite in events 4 and 5."""
    events = events_of()
    events["MET_pt"][[1, 6]] = np.nan, -np.inf
    eta = ak.to_numpy(ak.flatten(events["Muon_eta"])).copy()
    eta[[3, 4]] = np.inf
    events["Muon_eta"] = ak.unflatten(eta, events["nMuon"])
    return events


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_is_counted_in_kept_events(
    tmp_path: Path, kind: str, output: str
) -> None:
    path = write(tmp_path / "a.root", kind, Events=spoilt())
    # events 1, 2, 4, 5, 7 have muons: 1, 2, 1, 2, 1
    found = transformed(path, tmp_path / "out", cut="nMuon > 0", output_format=output)
    assert found.not_finite == {
        "MET_pt": {"count": 1, "of": 5, "unit": "events"},
        "Muon_eta": {"count": 2, "of": 7, "unit": "values"},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_cut_takes_for_numbers_is_counted_in_all_events(tmp_path: Path, kind: str) -> None:
    """Also where Parquet's row groups, here of one event, can't pass it."""
    path = write(tmp_path / "a.root", kind, row_group=1, Events=spoilt())
    found = transformed(path, tmp_path / "out.root", cut="MET_pt > 45")
    # events 5 and 7
    assert found.events_out == 2
    assert found.not_finite == {
        "MET_pt": {"count": 2, "of": 8, "unit": "events"},
        "Muon_eta": {"count": 1, "of": 3, "unit": "values"},
    }


def test_what_is_no_number_is_refused_unless_it_is_allowed_or_not_read(tmp_path: Path) -> None:
    good, bad = events_of(), spoilt()
    files = [
        write(tmp_path / f"{name}.root", Events=value)
        for name, value in {"a": good, "b": bad, "c": bad}.items()
    ]
    fileset = dataset_of(tmp_path / "d", files)
    assert losses_of_columns(fileset, {"Muon_pt", "genWeight"}, []) == []
    with pytest.raises(
        DataFileError,
        match=r"dataset d: MET_pt is NaN or infinite in 4 of the 16 events of b\.root, c\.root, .*"
        r"allow: {not_finite: \[MET_pt\]}",
    ):
        losses_of_columns(fileset, {"Muon_pt", "PuppiMET_pt|MET_pt"}, ["Muon_eta"])
    (loss,) = losses_of_columns(fileset, {"MET_pt", "Muon_pt"}, ["MET_pt"])
    assert (loss.kind, loss.name, loss.count, loss.of) == ("not finite", "MET_pt", 4, 16)
    assert (loss.unit, loss.allowed) == ("events", "allow.not_finite")
    # what the transform's cut reads concerns every analysis
    cut = dataset_of(tmp_path / "cut", files, cut="MET_pt > 10")
    with pytest.raises(DataFileError, match="MET_pt is NaN or infinite in 4 of the 16 events"):
        losses_of_columns(cut, {"Muon_pt"}, [])


def test_a_weight_that_is_no_number_is_always_refused(tmp_path: Path) -> None:
    events = events_of()
    events["genWeight"][2] = np.nan
    path = write(tmp_path / "a.root", Events=events)
    with pytest.raises(
        DataFileError, match=r"a\.root: genWeight is NaN or infinite in some events"
    ):
        transformed(path, tmp_path / "out.root", cut="nMuon > 5")


def test_a_skim_of_a_skim_knows_what_the_first_cut_took(tmp_path: Path) -> None:
    path = write(tmp_path / "a.root", Events=spoilt())
    transformed(path, tmp_path / "first.root", cut="MET_pt > 45")
    found = transformed(tmp_path / "first.root", tmp_path / "second.root")
    assert found.not_finite["MET_pt"] == {"count": 2, "of": 8, "unit": "events"}


@pytest.mark.parametrize("output", FORMATS)
def test_a_value_for_each_event_is_none_for_each_object(tmp_path: Path, output: str) -> None:
    events = events_of() | {"Muon_eta": np.ones(8, FLOAT)}
    for kind in KINDS:
        path = write(tmp_path / "a.root", kind, Events=events)
        message = "Muon_pt has a list in each event, Muon_eta a single value: the branches of Muon"
        with pytest.raises(DataFileError, match=message):
            transformed(path, tmp_path / "out", output_format=output)


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_branches_without_a_counter_are_no_collection(
    tmp_path: Path, kind: str, output: str
) -> None:
    """Values of the event beside lists of different lengths, whose names begin alike."""
    lists = {"LHE_Pdf": [[1.0], [], [2.0, 3.0]], "LHE_Scale": [[4.0], [5.0, 6.0], []]}
    events = {"event": np.arange(3), "LHE_HT": np.array([7.0, 8.0, 9.0]), **lists}
    path = write(tmp_path / "a.root", kind, Events=events)
    out = tmp_path / ("out.parquet" if output == "parquet" else "out.root")
    transformed(path, out, ("LHE_HT", *lists), output_format=output)
    with open_events(str(out)) as file:
        found = next(transform.steps(file.tree, str(out), ["LHE_HT", *lists]))
    assert found.LHE_HT.to_list() == [7.0, 8.0, 9.0]
    assert {name: found[name].to_list() for name in lists} == lists


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("place", [0, 1])
def test_counters_have_one_type_in_every_result(tmp_path: Path, place: int, output: str) -> None:
    """Whatever that of the file is, and whether or where they are asked for."""
    events = events_of()
    counts = events["nMuon"]
    path = write(tmp_path / "a.root", Events=events | {"nMuon": counts.astype(np.uint32)})
    out = tmp_path / ("out.parquet" if output == "parquet" else "out.root")
    columns = ["Muon_pt", "Muon_eta"]
    columns.insert(2 * place, "nMuon")
    transformed(path, out, columns, output_format=output)
    with open_events(str(out)) as file:
        found = next(transform.steps(file.tree, str(out), ["nMuon"]))
    assert str(ak.type(found.nMuon).content) == "int32"
    assert found.nMuon.to_list() == counts.tolist()


@pytest.mark.parametrize("output", FORMATS)
def test_half_precision_and_lists_of_fixed_length_are_read(tmp_path: Path, output: str) -> None:
    events = events_of() | {"MET_pt": np.arange(8, dtype=np.float16) / 4}
    events["Muon_pt"] = ak.values_astype(events["Muon_pt"], np.float16)
    half = write(tmp_path / "half.root", "parquet", Events=events)
    out = tmp_path / "out.root"
    if output == "parquet":
        out = out.with_suffix(".parquet")
    transformed(half, out, cut="MET_pt > 0.6", output_format=output)
    with open_events(str(out)) as file:
        if output == "parquet":
            found = next(file.tree.steps(["MET_pt", "Muon_pt"], 100))
        else:
            found = file.tree.arrays(["MET_pt", "Muon_pt"])
    assert found.MET_pt.to_list() == [0.75, 1.0, 1.25, 1.5, 1.75]
    assert found.Muon_pt.to_list() == [[], [23], [24, 25], [], [26]]
    fixed = tmp_path / "fixed.root"
    with uproot.recreate(fixed) as file:
        tree = file.mktree("Events", {"event": "u8", "two": np.dtype(("f4", (2,)))})
        tree.extend({"event": np.arange(3), "two": np.arange(6, dtype=FLOAT).reshape(3, 2)})
    transformed(fixed, out, ("event", "two"), "event > 0", output_format=output)
    with open_events(str(out)) as file:
        if output == "parquet":
            found = next(file.tree.steps(["two"], 100))
        else:
            found = file.tree.arrays(["two"])
    assert found.two.to_list() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize("output", FORMATS)
def test_a_computed_column_has_one_type(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps of four events: the first has powers of two that are whole, the second hasn't."""
    monkeypatch.setattr(transform, "STEP", 4)
    exponents = np.array([3, 4, 5, 6, 1, 2, 3, 4], np.int32)
    events = {"event": np.array([2**63, *range(7)][::-1], np.uint64), "nJet": exponents,
              "two": np.full(8, 2, np.int32)}  # fmt: skip
    path = write(tmp_path / "a.root", Events=events)
    out = tmp_path / ("out.parquet" if output == "parquet" else "out.root")

    def made(text: str) -> None:
        query = TreeQuery(columns=("event",), computed=(("power", text),))
        task = FileTask(
            "a", (str(path),), None, None, None, (query,), str(out), "test", output, None
        )
        transform_file(task)

    made("two ** (nJet - 3)")
    with open_events(str(out)) as file:
        if output == "parquet":
            found = next(file.tree.steps(["power"], 100)).power
        else:
            found = file.tree.arrays(["power"]).power
    assert found.to_list() == [1, 2, 4, 8, 0.25, 0.5, 1, 2]
    # a column of 64 bits is taken as signed where it can be
    with pytest.raises(
        DataFileError, match=r"'\+event' is int64 for some .* and uint64 for others"
    ):
        made("+event")


def test_a_computed_column_belongs_to_the_collection_of_its_whole_name(tmp_path: Path) -> None:
    """A single value of the event may have a name that begins like that of a collection."""
    path, out = write(tmp_path / "a.root", Events=events_of()), tmp_path / "out.root"
    computed = (("Muon_double", "2 * Muon_pt"), ("Muons_many", "nMuon > 1"))
    query = TreeQuery(columns=("Muon_pt",), computed=computed, collections=("Muon",))
    transform_file(FileTask("a", (str(path),), None, None, None, (query,), str(out), "test"))
    with open_events(str(out)) as file:
        found = file.tree.arrays()
    assert ak.all(found.Muon_double == 2 * events_of()["Muon_pt"])
    assert found.Muons_many.to_list() == (events_of()["nMuon"] > 1).tolist()


def test_a_computed_column_has_a_value_in_every_event(tmp_path: Path) -> None:
    """Some events have muons and others none, of which the first is asked for."""
    path, out = write(tmp_path / "a.root", Events=events_of()), tmp_path / "out.root"

    def made(cut: str | None) -> None:
        query = TreeQuery(columns=("event",), computed=(("first", "first(Muon_pt)"),), cut=cut)
        transform_file(FileTask("a", (str(path),), None, None, None, (query,), str(out), "test"))

    with pytest.raises(DataFileError, match=r"first\(Muon_pt\)' has no value in some events"):
        made(None)
    made("nMuon > 0")
    with open_events(str(out)) as file:
        assert file.tree["first"].array().to_list() == [20, 21, 23, 24, 26]


# the tree Runs


def runs(counts: Sequence[int], sums: Sequence[float], **more: Any) -> dict[str, Any]:
    older = more.pop("older", "")
    return {
        "run": np.ones(len(counts), np.uint32),
        f"genEventCount{older}": np.array(counts, np.int64),
        f"genEventSumw{older}": np.array(sums, float),
        **more,
    }


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("older", ["", "_"])
def test_a_file_skimmed_elsewhere_is_normalised_by_runs(
    tmp_path: Path, output: str, older: str
) -> None:
    """Events keeps weights 1 to 8, of which 36 are the sum; Runs knows of 20 events in two runs."""
    known = runs([12, 8], [30.5, 40.0], older=older)
    part = write(tmp_path / "part.root", Events=events_of(), Runs=known)
    rest = write(tmp_path / "rest.root", Events=events_of(), Runs=runs([8], [36.0]))
    fileset = dataset_of(tmp_path / "d", [part, rest], cut="nMuon > 0", output_format=output)
    assert fileset.original["events"] == 20 + 8
    # the second file is whole
    assert fileset.original["sum_of_weights"] == 70.5 + 36.0
    assert fileset.original["normalised_by"] == {
        "Runs": {
            "files": 1,
            "events": 20,
            "sum_of_weights": 70.5,
            "held_events": 8,
            "held_sum_of_weights": 36.0,
        },
        "Events": {
            "files": 1,
            "events": 8,
            "sum_of_weights": 36.0,
            "held_events": 8,
            "held_sum_of_weights": 36.0,
        },
    }
    (loss,) = fileset.losses
    assert (loss.kind, loss.count, loss.of, loss.allowed) == ("skimmed before", 12, 20, None)
    assert "with 8 of 20 generated events" in loss.message
    _, ledger = processed(fileset)
    assert ledger["original"]["sum_of_weights"] == 106.5
    assert ledger["losses"] == [loss.to_json()]
    # and of the skim made of it
    made = Path(fileset.files[0].url)
    again = transformed(made, tmp_path / "again", output_format=output)
    assert (again.events_in, again.sum_of_weights_in, again.normalised_by) == (20, 70.5, "Runs")
    assert again.held == {"events": 8, "sum_of_weights": 36.0}


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"genEventSumw": [100.0, 35.0]}, "says a sum of weights of 135, and lacks genEventCount"),
        ({"genEventCount": [4, 5]}, "says 9 events, and lacks genEventSumw"),
        ({"genEventCount": [np.nan, 5.0]}, "genEventCount in its tree Runs is NaN or infinite"),
        ({"genEventSumw": [30.0, 6.0]}, None),
        ({"genEventCount_": [4, 4]}, None),
    ],
)
def test_runs_with_one_of_both_totals_has_to_agree(
    tmp_path: Path, known: dict[str, list[float]], why: str | None
) -> None:
    known = {"run": np.ones(2), **{name: np.array(values) for name, values in known.items()}}
    path = write(tmp_path / "a.root", Events=events_of(), Runs=known)
    if why is None:
        found = transformed(path, tmp_path / "out.root", cut="nMuon > 0")
        assert (found.events_in, found.sum_of_weights_in, found.normalised_by) == (8, 36, "Events")
        return
    with pytest.raises(DataFileError, match=rf"a\.root: .*{why}"):
        transformed(path, tmp_path / "out.root")


def test_a_stock_services_result_is_normalised_by_runs(tmp_path: Path) -> None:
    """It has the selected events, all weights in a tree of their own, and Runs as it was."""
    whole = events_of()
    kept = {name: value[:2] for name, value in whole.items()}
    path = write(
        tmp_path / "a.root",
        **{
            "Events": kept,
            ORIGINAL_TREE: {"genWeight": whole["genWeight"], "run": whole["run"]},
            "Runs": runs([20], [70.5]),
        },
    )
    found = transformed(path, tmp_path / "out.root", original=ORIGINAL_TREE)
    assert (found.events_in, found.events_out, found.sum_of_weights_in) == (20, 2, 70.5)
    assert found.held == {"events": 8, "sum_of_weights": 36.0}


def test_theory_sums_of_a_skimmed_file_are_those_of_runs(tmp_path: Path) -> None:
    """Means over the events of each entry: sums are they times the entry's sum of weights."""
    scale = ak.from_regular(ak.Array(np.full((8, 2), 1.0, FLOAT)))
    theory = {"LHEScaleSumw": ak.Array([[0.5, 1.0], [1.5, 1.0]])}
    known = runs([12, 8], [30.0, 40.0], **theory, PSSumw=ak.Array([[2.0], [2.0]]))
    path = write(
        tmp_path / "a.root",
        Events={**events_of(), "LHEScaleWeight": scale, "PSWeight": scale},
        Runs=known,
    )
    columns = [*COLUMNS, "LHEScaleWeight", "PSWeight"]
    fileset = dataset_of(tmp_path / "d", [path], columns)
    # what was added up in a merge, of two files here, can't be told from a mean
    assert fileset.original["theory_sums"] == {"LHEScaleWeight": [75.0, 70.0]}
    dataset = {"data": False, "xsec_pb": 7.0, "process": "t"}
    shape = {"branch": "LHEScaleWeight", "up": 0, "down": 1}
    analysis = {"lumi_ifb": 1.0, "systematics": {"theory": {"scale": shape}}}
    factors = factors_of("d", dataset, analysis_of(analysis), fileset.original)
    assert factors == {"nominal": 100.0, "scaleUp": 7000 / 75.0, "scaleDown": 100.0}
    analysis["systematics"]["theory"]["scale"] = {**shape, "branch": "PSWeight"}
    with pytest.raises(
        DataFileError, match=r"have sums of 0 weights of PSWeight.*normalise: declared"
    ):
        factors_of("d", dataset, analysis_of(analysis), fileset.original)


def test_sums_of_eft_coefficients_are_not_known_of_a_skimmed_file(tmp_path: Path) -> None:
    terms = ak.from_regular(ak.Array(np.full((8, 3), 2.0, FLOAT)))
    events = {**events_of(), "EFTfitCoefficients": terms}
    whole = write(tmp_path / "whole.root", Events=events, Runs=runs([8], [36.0]))
    part = write(tmp_path / "part.root", Events=events, Runs=runs([20], [70.5]))
    empty = write(tmp_path / "empty.root", Events={}, Runs=runs([20], [70.5]))
    columns = [*COLUMNS, "EFTfitCoefficients"]
    fileset = dataset_of(tmp_path / "whole", [whole, whole], columns)
    assert fileset.original["eft_sums"] == [32.0, 32.0, 32.0]
    for name, files in {"part": [whole, part], "empty": [whole, empty]}.items():
        fileset = dataset_of(tmp_path / name, files, columns)
        assert fileset.original["eft_sums"] == []
        dataset = {"data": False, "xsec_pb": 7.0, "process": "t", "wc_names": ["a"]}
        with pytest.raises(DataFileError, match=r"a skim without these sums.*normalise: declared"):
            factors_of("d", dataset, analysis_of({"lumi_ifb": 1.0}), fileset.original)


def test_sums_of_a_skimmed_file_with_eft_coefficients_are_not_those_of_runs(
    tmp_path: Path,
) -> None:
    """Runs weights by genWeight, such a sample by its Standard Model's term."""
    known = runs([20], [70.5], LHEScaleSumw=ak.Array([[1.0, 1.5]]))
    events = events_of()
    plain = write(tmp_path / "plain.root", Events=events, Runs=known)
    found = transformed(plain, tmp_path / "out.root")
    assert found.eft_sums_in is None
    assert found.theory_sums_in == {"LHEScaleWeight": [70.5, 1.5 * 70.5]}
    events["EFTfitCoefficients"] = ak.from_regular(ak.Array(np.full((8, 3), 2.0, FLOAT)))
    eft = write(tmp_path / "eft.root", Events=events, Runs=known)
    found = transformed(eft, tmp_path / "out.root", [*COLUMNS, "EFTfitCoefficients"])
    assert (found.events_in, found.eft_sums_in, found.theory_sums_in) == (20, [], {})


def test_runs_that_knows_of_fewer_events_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.root", Events=events_of(), Runs=runs([7], [30.0]))
    with pytest.raises(DataFileError, match=r"holds 8 events, but its tree Runs says that 7 were"):
        transformed(path, tmp_path / "out.root")
    path = write(tmp_path / "b.root", Events=events_of(), Runs=runs([9], [np.nan]))
    with pytest.raises(DataFileError, match=r"genEventSumw in its tree Runs is NaN"):
        transformed(path, tmp_path / "out.root")


@pytest.mark.parametrize(("total", "right"), [(36.03, True), (36.04, False), (-36.0, False)])
def test_runs_that_knows_of_another_sum_is_refused(
    tmp_path: Path, total: float, right: bool
) -> None:
    path = write(tmp_path / "a.root", Events=events_of(), Runs=runs([8], [total]))
    if right:
        assert transformed(path, tmp_path / "out.root").sum_of_weights_in == 36.0
        return
    message = rf"the weights of its 8 events add up to 36, but its tree Runs says {total:g}: one of"
    with pytest.raises(DataFileError, match=message):
        transformed(path, tmp_path / "out.root")


@pytest.mark.parametrize(("total", "right"), [(2.2, True), (1.8, True), (2.4, False), (1.6, False)])
def test_sums_of_weights_of_both_signs_are_held_to_their_size(
    tmp_path: Path, total: float, right: bool
) -> None:
    """They cancel; the rounding of the numbers that are added doesn't."""
    weights = np.array([51, -50, 51, -50, 50, -50, 0, 0], FLOAT)
    path = write(
        tmp_path / "a.root", Events={**events_of(), "genWeight": weights}, Runs=runs([8], [total])
    )
    if right:
        assert transformed(path, tmp_path / "out.root").sum_of_weights_in == 2.0
        return
    with pytest.raises(DataFileError, match=rf"add up to 2, but its tree Runs says {total:g}"):
        transformed(path, tmp_path / "out.root")


def test_merged_skims_of_which_one_is_as_long_as_the_words_of_the_other(tmp_path: Path) -> None:
    """hadd keeps the words of the first file: it kept 5 of 8 events, the second none of 12."""
    made = tmp_path / "skim.root"
    transformed(write(tmp_path / "a.root", Events=events_of()), made, cut="nMuon > 0")
    said = read_original(made)
    with uproot.open(made) as file:
        events = file["Events"].arrays()
    held = {name: events[name] for name in events.fields}
    merged = write(tmp_path / "merged.root", Events=held, Runs=runs([8, 12], [36.0, 14.0]))
    with uproot.update(merged) as file:
        file["original"] = json.dumps(said)
    found = transformed(merged, tmp_path / "out.root")
    assert (found.events_in, found.events_out, found.sum_of_weights_in) == (20, 5, 50.0)
    assert found.normalised_by == "Runs"


def test_runs_of_data_says_nothing_of_weights(tmp_path: Path) -> None:
    events = events_of()
    del events["genWeight"]
    path = write(tmp_path / "a.root", Events=events, Runs={"run": np.ones(1, np.uint32)})
    columns = [name for name in COLUMNS if name != "genWeight"]
    found = transformed(path, tmp_path / "out.root", columns)
    assert (found.events_in, found.sum_of_weights_in, found.normalised_by) == (8, 8.0, "Events")


def test_the_real_file_of_few_events_knows_what_it_was_cut_from(
    nanoaod: Path, tmp_path: Path
) -> None:
    columns = ("run", "luminosityBlock", "event", "genWeight", "Muon_pt", "LHEScaleWeight")
    found = transformed(nanoaod / "nano_dy.root", tmp_path / "out.root", columns)
    assert (found.events_in, found.held["events"]) == (850098, 40)
    assert found.sum_of_weights_in == pytest.approx(15166686735.858717, rel=1e-15)
    # LHEScaleSumw_ says 43 for the weight that is one: of 43 files, whose means were added up
    assert found.theory_sums_in == {}


def test_skims_that_others_merge_or_skim_are_normalised_by_runs(tmp_path: Path) -> None:
    """Their `original` is lost, or speaks of the first of them; their Runs tells."""
    path = write(tmp_path / "a.root", Events=events_of())
    made = tmp_path / "skim.root"
    transformed(path, made, cut="nMuon > 0")
    said = read_original(made)
    assert (said["events"], said["kept"]) == (8, 5)
    with uproot.open(made) as file:
        events, known = (file[tree].arrays() for tree in ("Events", "Runs"))
    assert known.to_list() == [{"run": 1, "genEventCount": 8, "genEventSumw": 36.0}]
    part = {name: events[name][:2] for name in events.fields}
    twice = {name: ak.concatenate([events[name], events[name]]) for name in events.fields}
    each = {name: known[name] for name in known.fields}
    both = {name: ak.concatenate([known[name], known[name]]) for name in known.fields}
    for name, held, runs_of, expected in (
        ("skimmed", part, each, (8, 36.0)),
        ("merged", twice, both, (16, 72.0)),
    ):
        again = write(tmp_path / f"{name}.root", Events=held, Runs=runs_of)
        for original in (False, True):
            if original:
                with uproot.update(again) as file:
                    file["original"] = json.dumps(said)
            found = transformed(again, tmp_path / "out.root")
            assert (found.events_in, found.sum_of_weights_in) == expected
            assert found.normalised_by == "Runs"
    lost = write(tmp_path / "lost.root", Events=twice)
    with uproot.update(lost) as file:
        file["original"] = json.dumps(said)
    with pytest.raises(DataFileError, match=r"has 10 events, but was written as a skim with 5"):
        transformed(lost, tmp_path / "out.root")


# writers that were stopped


def test_a_file_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.root", Events=events_of())
    with open_events(str(path)) as file:
        assert file.tree.num_entries == 8
    content = bytearray(path.read_bytes())
    # where the list of free segments stands: after "root", version, begin and end
    content[16:20] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"a\.root: was not closed by its writer"):
        transformed(path, tmp_path / "out.root")


def test_good_files_were_closed(nanoaod: Path) -> None:
    for name in ("nano_dy", "nano_tt_v12", "nanoAOD_2015_CMS_Open_Data_ttbar", "nano_dy_empty"):
        with open_events(str(nanoaod / f"{name}.root")) as file:
            assert file.tree.num_entries in (0, 40, 200)


# files of no events


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has", [(), ("MET_pt", "event")])
def test_an_empty_file_that_lacks_branches_counts_as_empty(
    tmp_path: Path, kind: str, output: str, has: tuple[str, ...]
) -> None:
    nothing = {name: events_of()[name][:0] for name in has}
    empty = write(tmp_path / "empty.root", kind, Events=nothing)
    columns = [*COLUMNS, "HLT_Mu8"]
    good_events = {**events_of(), "HLT_Mu8": np.ones(8, bool)}
    good = write(tmp_path / "a.root", kind, Events=good_events)
    fileset = dataset_of(tmp_path / "d", [good, empty], columns, "nMuon > 0", output)
    found, ledger = processed(fileset, "HLT_Mu8")
    assert found == {"events": 5, "muons": 7, "HLT_Mu8": 5}
    assert ledger["original"]["events"] == 8
    assert ledger["original"]["sum_of_weights"] == 36.0
    assert ledger["empty_files"] == [empty.name]
    assert ledger["expected"]["files"] == ledger["processed"]["files"] == 2
    assert losses_of_columns(fileset, columns, []) == []
    # a skim of it is as empty
    again = transformed(
        Path(fileset.files[1].url), tmp_path / "again", columns, "nMuon > 0", output
    )
    assert (again.events_in, again.events_out, again.bare) == (0, 0, True)


def test_a_dataset_of_empty_files_alone_is_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.root", Events={})
    with pytest.raises(DataFileError, match=r"dataset d: none of its files \(1\) has events"):
        dataset_of(tmp_path / "d", [empty])


def test_a_skim_that_nothing_passed_counts_with_what_it_was_made_from(tmp_path: Path) -> None:
    good = write(tmp_path / "a.root", Events=events_of(), Runs=runs([8], [36.0]))
    empty = write(tmp_path / "empty.root", Events={}, Runs=runs([20], [70.5]))
    fileset = dataset_of(tmp_path / "d", [good, empty])
    assert fileset.original["events"] == 28
    assert fileset.original["sum_of_weights"] == 106.5


def test_an_empty_file_of_data_has_its_luminosity_sections(tmp_path: Path) -> None:
    events = events_of()
    del events["genWeight"]
    columns = [name for name in COLUMNS if name != "genWeight"]
    blocks = {
        "run": np.array([1, 1], np.uint32),
        "luminosityBlock": np.array([7, 8], np.uint32),
    }
    good = write(tmp_path / "a.root", Events=events)
    empty = write(tmp_path / "empty.root", Events={}, LuminosityBlocks=blocks)
    silent = write(tmp_path / "silent.root", Events={})
    fileset = dataset_of(tmp_path / "d", [good, empty, silent], columns, metadata={"data": True})
    assert fileset.original["lumi_sections"] == {"1": [[3, 3], [7, 8]]}


# trigger paths that some files lack


def triggered(**paths: Any) -> dict[str, Any]:
    fires = np.array([1, 1, 1, 0, 0, 1, 1, 1], bool)
    return {**events_of(), **{path: fires for path, there in paths.items() if there}}


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trigger_that_a_file_lacks_has_not_fired_there(
    tmp_path: Path, kind: str, output: str
) -> None:
    a = write(tmp_path / "a.root", kind, Events=triggered(HLT_Mu8=True, HLT_Mu17=True))
    b = write(tmp_path / "b.root", kind, Events=triggered(HLT_Mu8=True, HLT_Mu17=False))
    columns = [*COLUMNS, "HLT_Mu8", "HLT_Mu17", "HLT_Mu8|HLT_Mu99"]
    fileset = dataset_of(tmp_path / "d", [a, b], columns, None, output)
    found, _ = processed(fileset, "HLT_Mu8", "HLT_Mu17")
    assert found == {"events": 16, "muons": 2 * 7, "HLT_Mu8": 12, "HLT_Mu17": 6}
    losses = losses_of_columns(fileset, columns, [])
    message = (
        "{} is missing in {} of 2 files with {} of 16 events: it counts as not fired there ({})"
    )
    assert losses == [
        Loss("trigger missing", "HLT_Mu17", 8, 16, "events",
             message.format("HLT_Mu17", 1, 8, b.name)),
        Loss("trigger missing", "HLT_Mu99", 16, 16, "events",
             message.format("HLT_Mu99", 2, 16, f"{a.name}, {b.name}")),
    ]  # fmt: skip
    # an analysis without these triggers hears nothing of them
    assert losses_of_columns(fileset, COLUMNS, []) == []
    # neither does the skim of a skim forget it
    again = transformed(Path(fileset.files[1].url), tmp_path / "again", columns, None, output)
    assert list(again.missing) == ["HLT_Mu17", "HLT_Mu99"]


def test_a_trigger_in_the_cut_that_a_file_lacks_has_not_fired(tmp_path: Path) -> None:
    a = write(tmp_path / "a.root", Events=triggered(HLT_Mu8=True, HLT_Mu17=True))
    b = write(tmp_path / "b.root", Events=triggered(HLT_Mu8=True, HLT_Mu17=False))
    fileset = dataset_of(tmp_path / "d", [a, b], COLUMNS, "HLT_Mu17 & (nMuon > 0)")
    # of events 1, 2, 4, 5 and 7 it fired in all but 4
    assert [file.events for file in fileset.files] == [4, 0]


def test_a_trigger_that_no_file_has_is_refused_with_near_names(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{n}.root", Events=triggered(HLT_Mu8=True, HLT_Mu17=True)) for n in "ab"
    ]
    columns = [*COLUMNS, "HLT_Mu71|HLT_Mu27", "HLT_Mu8"]
    fileset = dataset_of(tmp_path / "d", files, columns)
    with pytest.raises(
        DataFileError,
        match=r"dataset d: none of its files \(2\) has the trigger HLT_Mu71 or HLT_Mu27; they have "
        r"HLT_Mu17, HLT_Mu8: .*add HLT_Mu71 to the paths of another trigger, or give the trigger "
        "the years that have it",
    ):
        losses_of_columns(fileset, columns, [])


def test_other_branches_stay_required(tmp_path: Path) -> None:
    path = write(tmp_path / "a.root", Events=events_of())
    # that a path counts as not fired says nothing of a branch beside it
    columns = [*COLUMNS, "Muon_dxy", "L1_Mu|HLT_Mu8", "HLT_Mu8"]
    with pytest.raises(DataFileError, match="the Events tree lacks Muon_dxy, L1_Mu or HLT_Mu8;"):
        transformed(path, tmp_path / "out.root", columns)


# Parquet that has no value somewhere


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("MET_pt", [1.0, None, 2.0]),
        ("Muon_pt", [[1.0], [None, 2.0], []]),
        ("Muon_pt", [[1.0], None, [2.0]]),
    ],
)
def test_nulls_in_parquet_are_refused(tmp_path: Path, column: str, values: list[Any]) -> None:
    kinds = {"MET_pt": pa.float32(), "Muon_pt": pa.list_(pa.float32())}
    good = {"MET_pt": [1.0, 2.0, 3.0], "Muon_pt": [[1.0], [], [2.0]]}
    table = {
        name: pa.array(values if name == column else good[name], kind)
        for name, kind in kinds.items()
    }
    identity = {n: pa.array([1, 2, 3]) for n in ("run", "luminosityBlock", "event", "genWeight")}
    pq.write_table(pa.table({**identity, **table}), tmp_path / "a.parquet")
    with pytest.raises(DataFileError, match=rf"a\.parquet: 1 values of {column} are null"):
        transformed(tmp_path / "a.parquet", tmp_path / "out.root", ["Muon_pt", "MET_pt"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused_or_does_no_harm(tmp_path: Path, kind: str) -> None:
    """Footers, headers and pages alike: another exception would end the service's worker."""
    path = write(tmp_path / "a.root", kind, Events=events_of(50))
    good, random = path.read_bytes(), np.random.default_rng(7)
    refusals = []
    for _ in range(80):
        bad = bytearray(good)
        bad[random.integers(len(good))] ^= 1 << int(random.integers(8))
        path.write_bytes(bad)
        try:
            transformed(path, tmp_path / "out.root")
        except DataFileError as problem:
            refusals.append(str(problem))
    assert len(refusals) > 5
    assert all(path.name in refusal for refusal in refusals)
