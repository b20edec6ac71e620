"""Luminosity sections: golden JSONs, what a transform records, what a processor keeps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import yaml
from analyses import analysis_of, columns_of
from coffea.lumi_tools import LumiMask
from conftest import REPO, TEST_DATA, run_snakemake
from hypothesis import example, given
from hypothesis import strategies as st
from samples import qcd, skimmed

from looseleaf.errors import DataFileError
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.histograms.store import read_uhi
from looseleaf.objects.chunk import Branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import certified, common, read_golden, sections, united
from looseleaf.processing.fileset import chunks_of, from_manifest
from looseleaf.processing.runner import process_task
from looseleaf.processing.stage import event_metadata
from looseleaf.samples.generate import DATA_LUMIS, DATA_RUN

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
LARGEST = 2**32 - 1
MUON: dict[str, Any] = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())


def test_sections_are_ranges_by_run() -> None:
    assert sections([2, 1, 1, 1, 1], [7, 5, 2, 1, 2]) == {"1": [[1, 2], [5, 5]], "2": [[7, 7]]}
    assert sections([], []) == {}
    # a gap of one section is a gap
    assert sections([1, 1], [1, 3]) == {"1": [[1, 1], [3, 3]]}


def test_sections_of_files_that_share_some() -> None:
    parts = [{"1": [[1, 3]]}, {"1": [[3, 4], [9, 9]], "2": [[1, 1]]}, {}]
    assert united(parts) == {"1": [[1, 4], [9, 9]], "2": [[1, 1]]}
    assert united([]) == {}


def test_what_a_golden_json_has_of_them() -> None:
    found = {"1": [[1, 10]], "2": [[1, 2]], "3": [[5, 5]]}
    assert common(found, '{"1": [[2, 3], [10, 12]], "3": [[1, 9]]}') == {
        "1": [[2, 3], [10, 10]],
        "3": [[5, 5]],
    }


def test_a_range_from_section_0() -> None:
    # no section is before the first: 0 - 1 of 32 bits is not asked for
    found = {"1": [[0, 9]], "2": [[0, 3]]}
    assert common(found, '{"1": [[0, 4]], "2": [[1, 2]]}') == {"1": [[0, 4]], "2": [[1, 2]]}


def test_runs_and_sections_as_large_as_they_can_be() -> None:
    found = {f"{LARGEST}": [[LARGEST - 1, LARGEST]], f"{LARGEST - 1}": [[LARGEST, LARGEST]]}
    golden = json.dumps({f"{LARGEST}": [[LARGEST, LARGEST]]})
    assert common(found, golden) == json.loads(golden)


def test_ranges_in_any_order_of_runs_and_runs_without_any() -> None:
    found = {"1": [[1, 5]], "2": [[1, 5]], "10": [[1, 5]]}
    assert common(found, '{"10": [[2, 2]], "2": [], "1": [[4, 9]]}') == {
        "1": [[4, 5]],
        "10": [[2, 2]],
    }
    assert common(found, '{"2": []}') == {}


# few runs and short ranges, so that sections lie at the ends of ranges and in gaps of one
RANGES = st.lists(st.integers(0, 40), max_size=12, unique=True).map(
    lambda bounds: [
        list(pair) for pair in zip(sorted(bounds)[::2], sorted(bounds)[1::2], strict=False)
    ]
)
GOLDEN = st.dictionaries(st.integers(0, 5).map(str), RANGES, min_size=1)


class Events:
    """Runs and sections of events, and a mask, as NanoEvents have them."""

    def __init__(self, runs: np.ndarray, lumis: np.ndarray, golden: str) -> None:
        run, section = (v.astype(np.uint32) for v in (runs, lumis))
        self.layout = ak.Array({"run": run, "luminosityBlock": section}).layout
        self.metadata = {"lumi_mask": golden}

    def __len__(self) -> int:
        return len(self.layout)


@given(golden=GOLDEN)
def test_the_mask_is_that_of_a_set_of_sections(golden: dict[str, list[list[int]]]) -> None:
    runs, lumis = (values.ravel() for values in np.mgrid[0:7, 0:45])
    listed = {
        (int(run), lumi)
        for run, ranges in golden.items()
        for first, last in ranges
        for lumi in range(first, last + 1)
    }
    found = certified(Branches(Events(runs, lumis, json.dumps(golden))))
    assert found.tolist() == [pair in listed for pair in zip(runs, lumis, strict=True)]


def test_the_golden_json_of_2018_against_coffeas_mask() -> None:
    path = TEST_DATA / "golden/Cert_314472-325175_13TeV_Legacy2018_Collisions18_JSON.txt"
    if not path.exists():
        pytest.skip(f"no golden JSON {path}: name its data folder in LOOSELEAF_TEST_DATA")
    text = read_golden(path)
    rng = np.random.default_rng(4)
    listed = sorted(map(int, json.loads(text)))
    runs = np.where(
        rng.random(100_000) < 0.9,
        rng.choice(listed, 100_000),
        rng.integers(listed[0], listed[-1], 100_000),
    )
    lumis = rng.integers(1, 1500, 100_000)
    found = certified(Branches(Events(runs, lumis, text)))
    expected = LumiMask(path)(runs.astype(np.uint32), lumis.astype(np.uint32))
    assert 10_000 < found.sum() < 90_000
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "g.json: not valid JSON"),
        ("[" * 100_000, "g.json: not valid JSON"),
        ('{"1": [[1, ' + "9" * 5000 + "]]}", "g.json: not valid JSON"),
        ("[]", "g.json: a golden JSON has the form"),
        ("{}", "g.json: a golden JSON has the form"),
        ("null", "g.json: a golden JSON has the form"),
        ('{"one": [[1, 2]]}', "g.json: run 'one': a run is a number below"),
        ('{"²": [[1, 2]]}', "g.json: run '²': a run is a number below"),
        ('{"-1": [[1, 2]]}', "g.json: run '-1': a run is a number below"),
        ('{"4294967296": [[1, 2]]}', "g.json: run '4294967296': a run is a number below"),
        ('{"1": [[2, 1]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[5, 6], [1, 2]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[1, 5], [3, 6]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[1, 5], [5, 6]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [1, 2, 3]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [1, 2]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[1, 2, 3, 4]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [["a", 2]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [["1", "2"]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[1.0, 2.5]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[true, 2]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[NaN, 2]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[-3, 2]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[1, 4294967296]]}', "g.json: run 1: .* should be pairs"),
        ('{"1": {"1": 2}}', "g.json: run 1: .* should be pairs"),
        ('{"1": null}', "g.json: run 1: .* should be pairs"),
        ('{"1": [[1, 2]], "2": [[1, 1]], "1": [[3, 4]]}', "g.json: run 1 is given twice"),
        ('{"1": [[1, 2]], "01": [[3, 4]]}', "g.json: run 1 is given twice"),
    ],
)
def test_what_is_no_golden_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(DataFileError, match=message) as problem:
        read_golden(tmp_path / "g.json")
    assert len(str(problem.value)) < len(str(tmp_path)) + 300


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_golden_json_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "g.json").write_bytes('{"1é": [[1, 2]]}'.encode(encoding))
    with pytest.raises(DataFileError, match=r"g\.json: not UTF-8 text"):
        read_golden(tmp_path / "g.json")


def test_a_good_one(tmp_path: Path) -> None:
    text = '{"1": [[1, 5], [6, 6], [8, 9]], "2": [[0, 1]]}'
    (tmp_path / "g.json").write_text(text)
    assert read_golden(tmp_path / "g.json") == text


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(-9, 2**33).map(str), inner, max_size=4)
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A golden JSON of which some bytes are others."""
    raw = bytearray(json.dumps(draw(GOLDEN)).encode())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw) - 1))
        raw[place : place + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2)
            | st.sampled_from([b"[", b"]", b'"', b",", b"-", b"1", b".", b"e"])
        )
    return bytes(raw)


@given(raw=ANY_JSON.map(lambda value: json.dumps(value).encode()) | mutated() | st.binary())
@example(raw='{"\ud800": 1}'.encode("utf-8", "surrogatepass"))
def test_any_bytes_are_a_golden_json_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(raw)
    try:
        text = read_golden(path)
    except DataFileError as problem:
        # an error is one of two right ends
        assert str(problem).startswith(f"{path}: ")  # noqa: PT017
    else:
        assert certified(
            Branches(Events(np.array([1, 2**32 - 1]), np.array([1, 1]), text))
        ).shape == (2,)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slices = {"q": qcd(3000)}
    data = {
        "das": "/data_test/looseleaf-v1/NANOAOD",
        "process": "data",
        "data": True,
        "sample": {"kind": "data", "files": 2, "lumi_ifb": 4.0, "sum_of": ["q"]},
    }
    columns = sorted(columns_of(MUON, data, POINTS))
    folder = tmp_path_factory.mktemp("data")
    return skimmed(
        folder, "d", {**slices, "d": data}, columns, "nMuon > 0 and luminosityBlock != 3"
    )


def processed(manifest: Path, tmp_path: Path, golden: str | None) -> tuple[Any, Mapping[str, Any]]:
    dataset: dict[str, Any] = {"data": True}
    if golden is not None:
        (tmp_path / "golden.json").write_text(golden)
        dataset["lumi_mask"] = str(tmp_path / "golden.json")
    fileset = from_manifest(
        "d", manifest, event_metadata(analysis_of({**MUON, "branches": {}}), dataset)
    )
    processor = FakeRateProcessor(analysis_of(MUON), POINTS, Corrections({}, {}))
    found, _ = process_task(processor, chunks_of(fileset, 2000), fileset.metadata)
    return found["cutflow"], fileset.original


def test_events_outside_are_dropped_and_the_ledger_knows(manifest: Path, tmp_path: Path) -> None:
    everything, original = processed(manifest, tmp_path, None)
    # section 3 has no event left, and is a section of the data all the same
    assert original["lumi_sections"] == {str(DATA_RUN): [[1, DATA_LUMIS]]}
    assert original["certified_sections"] == original["lumi_sections"]
    number = everything["all"]
    assert everything["certified"] == number > 1000
    golden = f'{{"{DATA_RUN}": [[1, 20], [91, 110]], "1": [[1, 100]]}}'
    some, original = processed(manifest, tmp_path, golden)
    assert original["certified_sections"] == {str(DATA_RUN): [[1, 20], [91, 100]]}
    # 29 of 99 sections with events
    expected = number * 29 / 99
    assert abs(some["certified"] - expected) < 5 * np.sqrt(expected)
    assert some["all"] == number


def test_simulation_has_no_sections(tmp_path: Path) -> None:
    columns = sorted(columns_of(MUON, qcd(1), POINTS))
    fileset = from_manifest("q", skimmed(tmp_path, "q", {"q": qcd(500)}, columns), {})
    assert fileset.original["lumi_sections"] is None


@pytest.mark.chain
def test_masks_that_begin_at_section_0_or_hold_a_run_twice(tmp_path: Path) -> None:
    case = TEST_DATA.parent / "cases/06-golden-json"
    if not case.is_dir():
        pytest.skip(f"no case {case}: name the data beside it in LOOSELEAF_TEST_DATA")
    # its configuration names its files from a folder beside
    (tmp_path / "shared").symlink_to(case.parent.parent)
    folder = tmp_path / "here"
    folder.mkdir()
    arguments = ["--configfile", str(case / "main.yaml"), "--cores", "2", "-k"]
    run = run_snakemake(folder, "fakerate", *arguments)
    results = run.folder / "results/cases/06-golden-json"
    for analysis in ("a_good", "a_zero"):
        maps, _ = read_uhi(results / f"fakerate/{analysis}/map.json")
        assert [maps[point].sum() for point in ("loose", "tight")] == [192, 54], run.text
    log = next(results.glob("logs/fakerate_process/a_twice*")).read_text()
    assert "twice.json: run 315257 is given twice; put its ranges into one list" in log
    assert not (results / "fakerate/a_twice/map.json").exists()
