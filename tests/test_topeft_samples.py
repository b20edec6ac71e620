"""TopEFT's own sample files in a configuration, as somebody uses them who comes from there."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TEST_DATA, Snakemake

TOPEFT = TEST_DATA / "topeft/input_samples"
CFGS = ("2022_mc_signal_samples", "2022_mc_background_samples")
# what cfg files list and is not there
GONE = ("TTto4Q", "WZto3LNu-2Jets", "WZto3LNu", "WZZ")


@pytest.fixture
def listed() -> list[str]:
    """The samples of 2022 that TopEFT's cfg files list, without what isn't there."""
    if not TOPEFT.is_dir():
        pytest.skip(f"no sample files in {TOPEFT}: name the parent in LOOSELEAF_TEST_DATA")
    lines = [
        line.strip()
        for name in CFGS
        for line in (TOPEFT / f"cfgs/{name}.cfg").read_text().splitlines()
    ]
    names = [Path(line).stem for line in lines if line[0] != "#" and line.endswith(".json")]
    return [name for name in names if name not in GONE]


def configured(folder: Path, repo: Path, samples: list[str]) -> dict[str, Any]:
    """All eight cfg files, and an EFT analysis of the samples."""
    analysis = yaml.safe_load((repo / "config/analyses/tth_eft.yaml").read_text())
    analysis |= {"name": "run3", "lumi_ifb": {2022: 7.98}, "points": {"SM": {}}}
    analysis["datasets"] = {"simulation": samples}
    analysis["signal"] = ["ttHnobb_1Jets_central2022"]
    analysis["systematics"] = {"rate": {"ttH": {"value": 1.1, "processes": analysis["signal"]}}}
    del analysis["scan"], analysis["datacards"]
    (folder / "run3.yaml").write_text(yaml.safe_dump(analysis, sort_keys=False))
    cfgs = sorted(str(path) for path in (TOPEFT / "cfgs").glob("*.cfg"))
    return {"datasets": cfgs, "analyses": [str(folder / "run3.yaml")]}


def test_an_eft_analysis_of_all_samples_of_2022(
    snakemake: Snakemake, repo: Path, tmp_path: Path, listed: list[str]
) -> None:
    assert len(listed) == 40
    run = snakemake("-n", "topcoffea", override=configured(tmp_path, repo, listed))
    assert run.status == 0, run.text
    assert run.jobs["samples_listed"] == run.jobs["servicex_transform"] == 40
    assert run.jobs["topcoffea_process_run3"] == run.jobs["topcoffea_datacards_run3"] == 1
    # what is wrong with samples that nothing uses is said, once
    for name in GONE:
        assert run.text.count(f"/central_2022/{name}.json'") == 1
    assert run.text.count("Muon_F-22Sep2023.json: files: there are none") == 1
    assert "ttHnobb_1Jets_central2022 for ttHnobb-1Jets_central2022" in run.text


def test_the_files_of_a_sample_whose_cfg_speaks_of_another_folder(
    snakemake: Snakemake, repo: Path, tmp_path: Path, listed: list[str]
) -> None:
    target = "results/das/WWW.json"
    run = snakemake(target, override=configured(tmp_path, repo, listed))
    assert run.status == 0, run.text
    # jobs don't say again what the run has said
    assert run.text.count("Muon_F-22Sep2023.json: files: there are none") == 1
    found = json.loads((run.folder / target).read_text())["files"]
    path = TOPEFT / "sample_jsons/background_samples/central_2022/WWW.json"
    stated = json.loads(path.read_text())["files"]
    assert [one["url"] for one in found] == [f"root://redirector.example/{f}" for f in stated]


def test_an_analysis_of_a_sample_that_is_not_there(
    snakemake: Snakemake, repo: Path, tmp_path: Path, listed: list[str]
) -> None:
    run = snakemake("-n", override=configured(tmp_path, repo, [*listed, "WZZ"]))
    assert run.status != 0
    assert "run3.yaml: datasets: 'WZZ' can't be used: " in run.text
    assert "2022_mc_background_samples.cfg, line 37: the file '" in run.text
