"""Columns read straight from baskets, held against uproot's, and the chunks made of them."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from coffea.processor import IterativeExecutor, Runner
from conftest import REPO

from looseleaf.baskets import Baskets, Branch
from looseleaf.errors import DataFileError
from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.nanoaod import EventsFile, open_file
from looseleaf.objects.chunk import Branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.feed import Feed, ReadClock, SkimmedNanoAOD
from looseleaf.processing.fileset import Chunk, EventsSource, cut
from looseleaf.processing.runner import process_task
from looseleaf.processing.stage import columns_read
from looseleaf.samples.generate import Part, SampleFile, write_file

KINDS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?"]
EVENTS, STEP = 1000, 300
COMPRESSIONS = {
    "zstd": uproot.ZSTD(1), "lz4": uproot.LZ4(1), "lzma": uproot.LZMA(1), "zlib": uproot.ZLIB(1),
    "none": None,
}  # fmt: skip


def written(path: Path, compression: Any) -> Path:
    """A file with columns of all types, as numbers and as lists, in baskets of 300 events."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.5, EVENTS)
    columns: dict[str, Any] = {
        f"x_{kind.strip('?') or 'b'}": _drawn(rng, kind, EVENTS) for kind in KINDS
    }
    of_objects = {kind.strip("?") or "b": _drawn(rng, kind, counts.sum()) for kind in KINDS}
    columns["Thing"] = ak.unflatten(ak.zip(of_objects), counts)
    columns["LHEPdfWeight"] = ak.unflatten(rng.random(counts.sum()), counts)
    columns |= {name: np.arange(EVENTS, dtype="u8") for name in ("run", "luminosityBlock", "event")}
    with uproot.recreate(path, compression=compression) as file:
        types = {name: ak.type(value).content for name, value in columns.items()}
        tree = file.mktree("Events", types)
        for start in range(0, EVENTS, STEP):
            tree.extend({name: value[start : start + STEP] for name, value in columns.items()})
    return path


def _drawn(rng: np.random.Generator, kind: str, size: int) -> Any:
    return rng.integers(0, 100, size).astype(kind)


def reader(path: Path) -> tuple[EventsFile, Baskets]:
    file = open_file(str(path), walk=True)
    assert isinstance(file, EventsFile)
    return file, Baskets(str(path), file.read)


def same(path: Path, edges: list[int]) -> int:
    """The number of branches that are read as uproot reads them, in all pieces; the rest must be
    unknown."""
    file, baskets = reader(path)
    tree = uproot.open(path)["Events"]
    assert file.walked is not None
    assert sorted(file.walked.names) == sorted(tree.keys(recursive=False))
    assert file.num_entries == tree.num_entries
    known = 0
    for name in file.walked.names:
        branch = file.walked.branch(name)
        if branch is None:
            continue
        known += 1
        for start, stop in pairwise(edges):
            expected = tree[name].array(entry_start=start, entry_stop=stop)
            if branch.counter is not None:
                counter = file.walked.branch(branch.counter)
                assert counter is not None
                counts = baskets.content(counter, start, stop)
                assert np.array_equal(ak.to_numpy(ak.num(expected)), counts), name
                expected = ak.flatten(expected)
            flat, found = ak.to_numpy(expected), baskets.content(branch, start, stop)
            assert (found.dtype, found.tobytes()) == (flat.dtype, flat.tobytes()), name
    file.close()
    return known


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_columns_of_all_types_are_those_of_uproot(tmp_path: Path, name: str) -> None:
    """Whole files, chunks that end within baskets or with them, and chunks of one basket."""
    path = written(tmp_path / "a.root", COMPRESSIONS[name])
    # 11 types twice, two counters, weights and the identity
    for edges in ([0, EVENTS], [0, 450, 500, 600, 1000], [0, 0, 300, 301, 302, 1000], [310, 320]):
        assert same(path, edges) == 2 * len(KINDS) + 2 + 1 + 3


@pytest.mark.slow
def test_columns_of_real_files_are_those_of_uproot(nanoaod: Path) -> None:
    for name, number in (("nano_dy.root", 1499), ("nano_tt_v12.root", 654)):
        events = uproot.open(nanoaod / name)["Events"].num_entries
        assert same(nanoaod / name, [0, events // 3, events]) == number
    # baskets inside of the metadata are left to uproot
    assert same(nanoaod / "nanoAOD_2015_CMS_Open_Data_ttbar.root", [0, 200]) == 0


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baskets") / "qcd.root"
    part = Part("qcd", 20_000, (20, 30), "Muon")
    truth = str(REPO / "config/demo/truth.json")
    write_file(SampleFile(path, "", "", (part,), False, "Muon", 1, (1,), 6000, "zstd", truth))
    return path


def muons() -> tuple[FakeRateAnalysis, WorkingPoints]:
    """The muon analysis of the configuration."""
    declared = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    points = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
    kept = {key: value for key, value in declared.items() if key != "truth"}
    return FakeRateAnalysis.from_json(kept), points


def source_of(path: Path) -> EventsSource:
    with uproot.open(path) as file:
        identity, events = str(file.file.uuid), file["Events"].num_entries
    return EventsSource("a", str(path), "", identity, path.stat().st_size, None, events, events)


def test_what_is_no_number_is_left_to_uproot(tmp_path: Path) -> None:
    """As are trees of another kind; events have such columns all the same."""
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        kinds = dict.fromkeys(("run", "luminosityBlock", "event"), "u8")
        tree = file.mktree("Events", {**kinds, "three": ("f4", (3,)), "x": "f4"})
        three, x = np.arange(12, dtype="f4").reshape(4, 3), np.arange(4, dtype="f4")
        tree.extend({**dict.fromkeys(kinds, np.arange(4)), "three": three, "x": x})
    file, _ = reader(path)
    assert file.walked is not None
    assert file.walked.branch("three") is None
    events = Feed(str(path), file).branches(1, 3, {}, ReadClock()).events
    assert events.three.to_list() == three[1:3].tolist()
    assert events.x.to_list() == [1, 2]


def overwrite_end(path: Path, branch: Branch, basket: int, content: bytes) -> None:
    """Write over the last bytes of a basket."""
    with open(path, "r+b") as stream:
        stream.seek(int(branch.seeks[basket] + branch.sizes[basket]) - len(content))
        stream.write(content)


def test_branches_are_those_of_the_events(tmp_path: Path, nanoaod: Path) -> None:
    """Also those that coffea makes of others, under other names, and that aren't numbers."""
    aliases = {"x_f4": ["x_f8"], "Thing_best": ["Thing_none", "Thing_i2"], "one": ["x_u1"]}
    about = {"aliases": aliases, "data": False}
    of_events, flat = 0, 0
    for path in (written(tmp_path / "a.root", None), nanoaod / "nano_tt_v12.root"):
        file, _ = reader(path)
        assert file.walked is not None
        feed, stop = Feed(str(path), file), min(file.num_entries, 320)
        found = feed.branches(10, stop, about, ReadClock())
        expected = Branches(feed.branches(10, stop, about, ReadClock()).events)
        assert len(found) == len(expected) == stop - 10
        assert found.metadata == expected.metadata
        for name in [*file.walked.names, *aliases, "Jet_charge", "Electron_energy", "no_such"]:
            assert (name in found) == (name in expected), name
            if name in expected:
                one, other = (
                    ak.without_parameters(ak.Array(branches[name]))
                    for branches in (found, expected)
                )
                assert str(one.type) == str(other.type), name
                assert ak.array_equal(one, other, equal_nan=True), name
                collection, _, field = name.partition("_")
                if one.ndim > 1 and field and f"n{collection}" in file.walked.names:
                    flats = found.objects(collection), expected.objects(collection)
                    assert np.array_equal(*(objects.offsets for objects in flats)), name
                    values = [np.asarray(objects[field]) for objects in flats]
                    assert values[0].dtype == values[1].dtype, name
                    assert values[0].tobytes() == values[1].tobytes(), name
                    flat += 1
                of_events += one.ndim == 1
    assert of_events > 150
    assert flat > 200


def test_histograms_from_flat_branches_need_no_events(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor whose `process` is another gets NanoEvents all the same."""
    made = []

    class Counted(FakeRateProcessor):
        def process(self, events: Any) -> dict[str, Any]:
            made.append(type(events).__name__)
            return super().process(events)

    analysis, points = muons()
    source = source_of(sample)
    about = {"dataset": "d", "data": False}
    of_events, _ = process_task(
        Counted(analysis, points, Corrections({}, {})), [Chunk("d", source, 0, 20_000)], about
    )
    assert made == ["NanoEventsArray"]
    monkeypatch.delattr("looseleaf.processing.feed.NanoEventsFactory")
    processor = FakeRateProcessor(analysis, points, Corrections({}, {}))
    found, _ = process_task(processor, [Chunk("d", source, 0, 20_000)], about)
    for name, histogram in of_events.items():
        assert found[name].view(flow=True).tobytes() == histogram.view(flow=True).tobytes(), name


def test_a_damaged_basket_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.root", COMPRESSIONS["lz4"])
    file, baskets = reader(path)
    assert file.walked is not None
    branch = file.walked.branch("x_f8")
    assert branch is not None
    overwrite_end(path, branch, 1, b"damag")
    assert len(baskets.content(branch, 0, STEP)) == STEP
    with pytest.raises(DataFileError, match=r"a\.root: basket 1 of x_f8 is damaged"):
        baskets.content(branch, STEP, EVENTS)


def test_lists_that_their_counter_does_not_count_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.root", COMPRESSIONS["none"])
    file, _ = reader(path)
    assert file.walked is not None
    branch = file.walked.branch("nThing")
    assert branch is not None
    overwrite_end(path, branch, 0, (77).to_bytes(4, "big"))
    events = Feed(str(path), file).branches(0, EVENTS, {}, ReadClock()).events
    with pytest.raises(DataFileError, match=r"Thing_f4 has \d+ values .* but nThing counts"):
        ak.materialize(events.Thing.f4)


def test_only_declared_columns_are_in_the_events(tmp_path: Path) -> None:
    file, _ = reader(written(tmp_path / "a.root", None))
    about = {"columns": ["run", "luminosityBlock", "event", "Thing_f4|Thing_none", "x_i4"]}
    events = Feed("a.root", file).branches(0, 10, about, ReadClock()).events
    assert events.Thing.fields == ["f4"]
    assert {"x_i4", "x_f4"} & {"x_" + name for name in events.x.fields} == {"x_i4"}


def test_a_file_without_events_has_declared_collections(tmp_path: Path) -> None:
    """Its baskets have no entries, which is left to uproot; counters come along all the same."""
    path = tmp_path / "empty.root"
    jets = ak.zip({name: ak.Array([[1.0]])[:0] for name in ("pt", "eta", "phi", "mass")})
    numbers = dict.fromkeys(("run", "luminosityBlock", "event"), np.zeros(0, np.uint32))
    with uproot.recreate(path) as file:
        types = {name: values.dtype for name, values in numbers.items()}
        tree = file.mktree("Events", {**types, "Jet": jets.type.content})
        tree.extend({**numbers, "Jet": jets})
    columns = ["Jet_eta", "Jet_mass", "Jet_phi", "Jet_pt", *numbers]
    file, _ = reader(path)
    events = Feed(str(path), file).branches(0, 0, {"columns": columns}, ReadClock()).events
    # coffea makes the charge of jets from the counter
    assert {"pt", "charge"} <= set(events.Jet.fields)
    assert events.Jet.pt.to_list() == []


def test_histograms_are_those_of_coffeas_runner_to_the_bit(sample: Path) -> None:
    """On NanoEvents of coffea's own, whole; of events in chunks they are the same."""
    analysis, points = muons()
    processor = FakeRateProcessor(analysis, points, Corrections({}, {}))
    source = source_of(sample)
    columns = sorted(columns_read(analysis, {"d": {"data": False}}, points)["d"])
    about = {"dataset": "d", "data": False, "columns": columns}
    whole = Chunk("d", source, 0, 20_000)
    found, _ = process_task(processor, [whole], about)
    runner = Runner(IterativeExecutor(status=False), schema=SkimmedNanoAOD, chunksize=1 << 30)
    fileset = {"d": {"files": {str(sample): "Events"}, "metadata": {"data": False}}}
    expected = runner(fileset, processor)
    assert set(found) == set(expected)
    assert found["tight"].sum().value > 100
    for name, histogram in expected.items():
        assert found[name].view(flow=True).tobytes() == histogram.view(flow=True).tobytes(), name
    pieces, records = process_task(processor, cut(whole, 3500), about)
    np.testing.assert_allclose(pieces["mt"].values(), expected["mt"].values(), rtol=1e-12)
    # nothing is read twice, although chunks end within baskets
    once = process_task(processor, [whole], about)[1][0].cost["bytes_read"]
    assert sum(record.cost["bytes_read"] for record in records) == once
    assert os.path.getsize(sample) > once
