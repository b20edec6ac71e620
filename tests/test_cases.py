"""Small inputs that once gave a wrong number, and the right one, through the whole workflow.

The inputs don't travel with the project: they are looked for beside the real data.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TEST_DATA, Run, run_snakemake

from looseleaf.files import read_json
from looseleaf.histograms.store import read_uhi

CASES = TEST_DATA.parent / "cases"

pytestmark = pytest.mark.chain


class Case:
    """One case, run in a folder of its own; `override` is laid over its configuration."""

    def __init__(self, folder: Path, name: str) -> None:
        source = CASES / name
        if not source.is_dir():
            pytest.skip(f"no cases in {CASES}: they stand beside the real data")
        (folder / "shared").symlink_to(CASES.parent)
        self.folder, self.source = folder / "run", source
        self.folder.mkdir()
        self.results = self.folder / "results/cases" / name

    def run(self, *more: str) -> Run:
        files = [str(self.source / "main.yaml"), *more]
        return run_snakemake(
            self.folder, "fakerate", "--cores", "2", "--keep-going", "--configfile", *files
        )

    def map_of(self, analysis: str) -> dict[str, Any]:
        histograms, _ = read_uhi(self.results / f"fakerate/{analysis}/map.json")
        return histograms

    def counts(self, analysis: str) -> tuple[float, float]:
        """Loose and tight leptons in the whole map."""
        found = self.map_of(analysis)
        return tuple(float(np.sum(found[key].values())) for key in ("loose", "tight"))

    def ledger(self, analysis: str, dataset: str) -> dict[str, Any]:
        return read_json(self.results / f"fakerate/{analysis}/{dataset}.ledger.json")

    def manifest(self, dataset: str) -> dict[str, Any]:
        return read_json(self.results / f"servicex/{dataset}.json")


@pytest.fixture
def case(tmp_path):
    return lambda name: Case(tmp_path, name)


def refused(run: Run, *words: str) -> str:
    """What a run that has to fail printed, which has all the words and no traceback of ours."""
    assert run.status != 0, run.text
    for word in words:
        assert word in run.text, run.text
    assert "/looseleaf/looseleaf/" not in run.text
    return run.text


def test_a_number_as_a_cut_of_a_working_point_is_refused(case):
    run = case("01-integer-flag-in-working-point").run()
    refused(run, "tightCharge", "Muon.")


def test_counters_give_the_same_events_whatever_their_width(case):
    found = case("02-unsigned-counters-in-skim-cut")
    run = found.run()
    assert run.status == 0, run.text
    kept = [found.manifest(name)["totals"]["events_out"] for name in ("signed", "unsigned")]
    assert kept == [342, 342]
    (loss,) = found.ledger("a_signed", "signed")["losses"]
    assert (loss["kind"], loss["count"], loss["of"]) == ("skimmed", 58, 400)
    assert found.counts("a_signed") == found.counts("a_unsigned")


def test_what_a_skim_made_elsewhere_says_of_its_original_normalises(case, tmp_path):
    found = case("04-skimmed-elsewhere-runs-sum")
    # it has no muon below 25 GeV, and a map with empty bins is refused unless that is known
    refused(
        found.run(),
        "2 of 6 bins have no loose lepton",
        "dataset skim: files skimmed before the lookup: 1, with 284 of 400 generated events",
    )
    analysis = yaml.safe_load((found.source / "a_skim.yaml").read_text())
    known = tmp_path / "a_skim.yaml"
    known.write_text(yaml.safe_dump({**analysis, "allow": {"empty_bins": True}}))
    full = "../shared/cases/04-skimmed-elsewhere-runs-sum/a_full.yaml"
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"analyses": [full, str(known)]}))
    run = found.run(str(more))
    assert run.status == 0, run.text
    full, skim = found.map_of("a_full"), found.map_of("a_skim")
    for key in ("loose", "tight"):
        # the skim has all events with muons above 50 GeV
        assert skim[key].values()[2] == pytest.approx(full[key].values()[2], rel=1e-6)
    assert full["loose"].values()[2].sum() > 0


def test_a_copy_of_a_file_is_refused(case):
    found = case("05-same-file-twice")
    refused(found.run(), "a.root", "a_copy.root", "twice")
    assert (found.results / "fakerate/a_once/map.json").exists()
    assert not (found.results / "fakerate/a_twice/map.json").exists()


def test_a_golden_json_certifies_all_of_its_ranges(case):
    found = case("06-golden-json")
    run = found.run()
    assert found.counts("a_good") == (192, 54)
    for name in ("zero", "twice"):
        if (found.results / f"fakerate/a_{name}/map.json").exists():
            assert found.counts(f"a_{name}") == (192, 54)
        else:
            refused(run, f"{name}.json")


def test_lists_of_other_lengths_are_refused(case):
    found = case("07-parquet-lists-of-other-lengths")
    refused(found.run(), "ragged.parquet", "Muon_pt")
    assert (found.results / "fakerate/a_good/map.json").exists()


def test_an_empty_file_without_branches_counts_as_empty(case):
    found = case("08-empty-file-without-branches")
    run = found.run()
    assert run.status == 0, run.text
    ledger = found.ledger("a_d", "d")
    assert ledger["original"]["events"] == 400
    assert [Path(name).name for name in ledger["empty_files"]] == ["empty.root"]


def test_a_trigger_that_a_file_lacks_has_not_fired_there(case):
    found = case("09-trigger-missing-in-some-files")
    run = found.run()
    assert run.status == 0, run.text
    (loss,) = [one for one in found.ledger("a_d", "d")["losses"] if "trigger" in one["kind"]]
    assert loss["name"] == "HLT_Mu17"
    assert (loss["count"], loss["of"], loss["unit"]) == (400, 800, "events")
    assert loss["message"] in run.text or "HLT_Mu17" in loss["message"]


def test_merge_keys_and_keys_of_the_user_load(case):
    found = case("10-yaml-merge-keys")
    run = found.run()
    assert run.status == 0, run.text
    assert found.ledger("a_d", "d")["original"]["events"] == 400


def test_values_that_are_no_numbers_are_refused_or_allowed_by_name(case, tmp_path):
    found = case("12-nan-met")
    text = refused(found.run(), "MET_pt", "a.root", "not_finite")
    assert found.counts("a_clean")[0] > 0
    assert "40" in text
    assert not (found.results / "fakerate/a_nan/map.json").exists()


def test_brackets_in_the_name_of_a_file_are_brackets(case):
    found = case("15-brackets-in-file-name")
    run = found.run()
    assert run.status == 0, run.text
    assert found.ledger("a_d", "d")["original"]["events"] == 400


def test_a_file_that_was_never_closed_is_refused(case):
    found = case("16-writer-died")
    refused(found.run(), "killed.root", "closed")
    assert not (found.results / "fakerate/a_d/map.json").exists()
