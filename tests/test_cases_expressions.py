"""Inputs whose expressions once gave a wrong number in silence."""

from pathlib import Path
from typing import Any

import pytest
import uproot
import yaml
from analyses import analysis_of
from coffea.nanoevents import NanoEventsFactory
from conftest import TEST_DATA

from looseleaf.config.kinds import KINDS
from looseleaf.config.skim import check_skim
from looseleaf.errors import ConfigError
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file

CASES = TEST_DATA.parent / "cases"


def case(name: str) -> Path:
    if not (CASES / name).is_dir():
        pytest.skip(f"no cases in {CASES}: name the folder beside it in LOOSELEAF_TEST_DATA")
    return CASES / name


def declared(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_an_integer_in_a_working_point_is_refused() -> None:
    folder = case("01-integer-flag-in-working-point")
    points = WorkingPoints(declared(folder / "working_points.yaml"))
    (path, *_) = sorted((folder / "data").glob("*.root"))
    muons = (
        NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=SkimmedNanoAOD).events().Muon
    )
    with pytest.raises(
        ConfigError, match=r"Muon\.flagged: the cut 'tightCharge' should give a yes"
    ):
        points.passes("Muon", "flagged", muons)
    e = uproot.open(path)["Events"].arrays()
    expected = e.Muon_tightId & (e.Muon_miniPFRelIso_all < 0.16) & (e.Muon_tightCharge != 0)
    expected = points.passes("Muon", "loose", muons) & expected
    assert points.passes("Muon", "flag_written_out", muons).to_list() == expected.to_list()


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_unsigned_counters_in_the_skim(kind: str, tmp_path: Path) -> None:
    """The same 342 of 400 events are kept whichever type counters have."""
    folder = case("02-unsigned-counters-in-skim-cut")
    cut = declared(folder / "main.yaml")["servicex"]["cut"]
    analysis = declared(folder / f"a_{kind}.yaml")
    datasets = declared(folder / "datasets.yaml")
    check_skim(cut, {kind: analysis_of(analysis)}, datasets, KINDS, "servicex.cut")
    query = TreeQuery(columns=("event",), cut=cut)
    url, out = str(folder / "data" / f"{kind}.root"), str(tmp_path / "out.root")
    found = transform_file(FileTask(kind, (url,), None, None, None, (query,), out, "test"))
    assert (found.events_in, found.events_out) == (400, 342)
