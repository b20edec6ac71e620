"""Luminosity sections: golden JSONs, what a transform records, what a processor keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPO
from samples import qcd, skimmed

from looseleaf.errors import DataFileError
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.objects.columns import analysis_columns
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import check_golden, common, sections, united
from looseleaf.processing.fileset import chunks_of, from_manifest
from looseleaf.processing.runner import process_task
from looseleaf.processing.stage import event_metadata
from looseleaf.samples.generate import DATA_LUMIS, DATA_RUN

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
MUON: dict[str, Any] = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())


def test_sections_are_ranges_by_run() -> None:
    assert sections([2, 1, 1, 1, 1], [7, 5, 2, 1, 2]) == {"1": [[1, 2], [5, 5]], "2": [[7, 7]]}
    assert sections([], []) == {}


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "g.json: not valid JSON"),
        ("[]", "g.json: a golden JSON is of the form"),
        ("{}", "g.json: a golden JSON is of the form"),
        ('{"one": [[1, 2]]}', "g.json: run one"),
        ('{"1": [[2, 1]]}', "g.json: run 1: .* is no rising list"),
        ('{"1": [[5, 6], [1, 2]]}', "g.json: run 1: .* is no rising list"),
        ('{"1": [[1, 5], [3, 6]]}', "g.json: run 1: .* is no rising list"),
        ('{"1": [1, 2, 3]}', "g.json: run 1: .* is no rising list"),
        ('{"1": [["a", 2]]}', "g.json: run 1: .* is no rising list"),
    ],
)
def test_what_is_no_golden_json(text: str, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        check_golden(text, "g.json")


def test_a_good_one() -> None:
    text = '{"1": [[1, 5], [6, 6], [8, 9]], "2": [[1, 1]]}'
    assert check_golden(text, "g.json") == text


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slices = {"q": qcd(3000)}
    data = {
        "das": "/data_test/looseleaf-v1/NANOAOD",
        "process": "data",
        "data": True,
        "sample": {"kind": "data", "files": 2, "lumi_ifb": 4.0, "sum_of": ["q"]},
    }
    columns = sorted(analysis_columns(MUON, data, POINTS))
    folder = tmp_path_factory.mktemp("data")
    return skimmed(
        folder, "d", {**slices, "d": data}, columns, "nMuon > 0 and luminosityBlock != 3"
    )


def processed(manifest: Path, tmp_path: Path, golden: str | None) -> tuple[Any, Mapping[str, Any]]:
    dataset: dict[str, Any] = {"data": True}
    if golden is not None:
        (tmp_path / "golden.json").write_text(golden)
        dataset["lumi_mask"] = str(tmp_path / "golden.json")
    fileset = from_manifest("d", manifest, event_metadata({**MUON, "branches": {}}, dataset))
    processor = FakeRateProcessor(MUON, POINTS, Corrections({}, {}))
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
    columns = sorted(analysis_columns(MUON, qcd(1), POINTS))
    fileset = from_manifest("q", skimmed(tmp_path, "q", {"q": qcd(500)}, columns), {})
    assert fileset.original["lumi_sections"] is None
