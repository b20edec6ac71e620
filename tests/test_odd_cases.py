"""Whole inputs that once gave a wrong number in silence: the right one comes out, or a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of
from conftest import REPO, TEST_DATA

from looseleaf.cluster import client_for
from looseleaf.config.settings import Settings, load
from looseleaf.errors import DataFileError
from looseleaf.fakerate.measure import summed
from looseleaf.fakerate.process import process
from looseleaf.files import read_json
from looseleaf.histograms.store import read_uhi
from looseleaf.processing.runner import Limits
from looseleaf.processing.stage import DatasetFiles, Running, columns_read
from looseleaf.servicex.request import Request, Source
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file
from looseleaf.servicex.volume import manifest_of, output_name
from looseleaf.stage_files import describe

pytestmark = pytest.mark.slow

CASES = TEST_DATA.parent / "cases"
LOCAL = {"kind": "local", "redirectors": []}


@dataclass(frozen=True)
class Case:
    """A case's configuration and files, and where its results go."""

    settings: Settings
    data: Path
    folder: Path

    def transformed(self, name: str, *paths: Path) -> Path:
        """The manifest of a dataset, of its own files or others."""
        servicex, dataset = self.settings.general["servicex"], self.settings.datasets[name]
        columns, cut, kind = self.settings.columns_for(name), servicex["cut"], servicex["format"]
        folder = self.folder / name
        folder.mkdir()
        files = paths or [self.data / file for file in dataset["files"]]
        records = [describe(path, path.name, "b") for path in files]
        sources = tuple(Source(record, (str(record.url),)) for record in records)
        request = Request(dataset["das"], sources, tuple(columns), cut, kind, "test")
        query = TreeQuery(columns=tuple(columns), cut=cut, may_lack=True)
        results = [
            transform_file(
                FileTask(s.record.name, s.urls, s.record.bytes, s.record.events, s.record.adler32,
                         (query,), str(folder / output_name(s, kind)), "test", kind)
            )
            for s in sources
        ]  # fmt: skip
        manifest_of(request, folder, results, "test")
        return folder / "manifest.json"

    def processed(
        self, analysis: str, manifest: Path, **more: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Loose and tight leptons by bin, scaled to the luminosity, and the ledger."""
        declared = {**self.settings.analyses[analysis].to_json(), **more}
        (name,) = self.settings.datasets_of(analysis)
        datasets = {name: self.settings.datasets[name]}
        files = DatasetFiles(
            str(manifest), str(self.folder / "h.json"), str(self.folder / "l.json")
        )
        running = Running(
            partial(client_for, LOCAL, 1),
            Limits(1000, 1000),
            str(self.folder / "t.csv"),
            str(self.folder / "p.html"),
        )
        points = self.settings.points_of(analysis)
        process(analysis_of(declared), points, datasets, {name: files}, running)
        found = summed(
            [name], analysis_of(declared), datasets, {name: files.histograms}, {name: files.ledger}
        )
        values = {key: found[key]["nominal", ...].values() for key in ("loose", "tight")}
        assert set(read_uhi(files.histograms)[0]) >= set(values)
        return values, read_json(files.ledger)


Cases = Callable[[str], Case]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cases:
    if not CASES.is_dir():
        pytest.skip(f"no cases in {CASES}: name the folder beside them in LOOSELEAF_TEST_DATA")

    def loaded(name: str) -> Case:
        folder = CASES / name
        config = yaml.safe_load((REPO / "config/config.yaml").read_text())
        mine = yaml.safe_load((folder / "main.yaml").read_text())
        for key in ("datasets", "analyses"):
            config[key] = [str(folder / Path(path).name) for path in mine[key]]
        for key in ("das", "servicex"):
            config[key] = {**config[key], **mine[key]}
        config["das"]["files_root"] = str(folder / "data")
        return Case(load(config, REPO), folder / "data", tmp_path)

    return loaded


def test_a_file_skimmed_elsewhere_gives_what_the_whole_file_gives(case: Cases) -> None:
    found = {}
    for name in ("full", "skim"):
        one = case("04-skimmed-elsewhere-runs-sum")
        found[name], ledger = one.processed(f"a_{name}", one.transformed(name))
    # the skim has no muons below 35 GeV; above 50 there are 40 and 38 of 400 events
    np.testing.assert_array_equal(found["skim"]["loose"][2], [500.0, 475.0])
    np.testing.assert_array_equal(found["full"]["loose"][2], [500.0, 475.0])
    np.testing.assert_array_equal(found["skim"]["tight"][2], found["full"]["tight"][2])
    assert ledger["original"]["normalised_by"]["Runs"]["held_events"] == 284
    assert [loss["kind"] for loss in ledger["losses"]] == ["skimmed before"]


def test_lists_of_other_lengths(case: Cases) -> None:
    one = case("07-parquet-lists-of-other-lengths")
    with pytest.raises(DataFileError, match=r"ragged\.parquet: .*Muon_pt has 3"):
        one.transformed("ragged")


def test_an_empty_file_without_branches(case: Cases) -> None:
    one = case("08-empty-file-without-branches")
    found, ledger = one.processed("a_d", one.transformed("d"))
    assert found["loose"].sum() == 2400.0
    assert ledger["empty_files"] == ["empty.root"]
    assert ledger["processed"]["files"] == 2


def test_a_trigger_missing_in_some_files(case: Cases, capfd: pytest.CaptureFixture[str]) -> None:
    one = case("09-trigger-missing-in-some-files")
    found, ledger = one.processed("a_d", one.transformed("d"))
    (loss,) = ledger["losses"]
    assert (loss["kind"], loss["name"]) == ("trigger missing", "HLT_Mu17")
    assert (loss["count"], loss["of"]) == (400, 800)
    assert f"dataset d: {loss['message']}" in capfd.readouterr().err
    # the second file with a path that hasn't fired in it
    arrays = uproot.open(one.data / "b.root")["Events"].arrays()
    arrays["HLT_Mu17"] = np.zeros(len(arrays), bool)
    second = one.folder / "b.root"
    lists = {name: arrays[name] for name in arrays.fields}
    with uproot.recreate(second) as file:
        tree = file.mktree(
            "Events",
            {name: ak.type(values).content for name, values in lists.items()},
            counter_name=lambda name: f"n{name.partition('_')[0]}",
        )
        tree.extend(lists)
    there = Case(one.settings, one.data, one.folder / "there")
    there.folder.mkdir()
    manifest = there.transformed("d", one.data / "a.root", second)
    expected, ledger = there.processed("a_d", manifest)
    assert ledger["losses"] == []
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])
    assert found["loose"][1:].sum() > 0


def test_missing_momenta_that_are_no_numbers(
    case: Cases, capfd: pytest.CaptureFixture[str]
) -> None:
    one = case("12-nan-met")
    manifest = one.transformed("nan")
    with pytest.raises(
        DataFileError,
        match=r"dataset nan: MET_pt is NaN or infinite in 40 of the 400 events of a\.root",
    ):
        one.processed("a_nan", manifest)
    assert not (one.folder / "workers").exists()
    found, ledger = one.processed("a_nan", manifest, allow={"not_finite": ["MET_pt"]})
    # 2400 without
    assert found["loose"].sum() == 2175.0
    (loss,) = ledger["losses"]
    assert loss["count"] / loss["of"] == 0.1
    assert loss["allowed"] == "allow.not_finite"
    assert f"dataset nan: {loss['message']}" in capfd.readouterr().err


def test_a_writer_that_died(case: Cases) -> None:
    one = case("16-writer-died")
    with pytest.raises(DataFileError, match=r"killed\.root: was not closed by its writer"):
        one.transformed("d")


def test_every_kind_of_analysis_says_what_it_reads() -> None:
    config = yaml.safe_load((REPO / "config/config.yaml").read_text())
    config["analyses"] = [*config["analyses"], "config/analyses/flips.yaml"]
    settings = load(config, REPO)
    kinds = {analysis.kind for analysis in settings.analyses.values()}
    assert kinds == {"fakerate", "application", "flips", "topcoffea"}
    read: dict[str, set[str]] = {}
    for name, analysis in settings.analyses.items():
        declared = {dataset: settings.datasets[dataset] for dataset in settings.datasets_of(name)}
        for dataset, columns in columns_read(analysis, declared, settings.working_points).items():
            read.setdefault(dataset, set()).update(columns)
    for dataset in settings.datasets_in_use():
        assert sorted(read[dataset]) == settings.columns_for(dataset)
