"""The graph: which jobs a target, a profile, a change of configuration asks for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPO, Run, Snakemake

from looseleaf.stage_files import FileRecord, write_catalogue

pytestmark = pytest.mark.slow

DATASETS = 15
SAMPLES = {"samples_generate": DATASETS}
DAS = SAMPLES | {"das_lookup": DATASETS}
SERVICEX = DAS | {"servicex_transform": DATASETS}
QCD = dict.fromkeys(("samples_generate", "das_lookup", "servicex_transform"), 14)
FAKERATE = QCD | {
    "fakerate_process_muon": 1,
    "fakerate_process_muon_data": 1,
    "fakerate_process_electron": 1,
    "application_process_closure": 1,
    "application_process_validation": 1,
    "application_closure_closure": 1,
    "application_closure_validation": 1,
    "fakerate_process_seed2021": 1,
    **{f"fakerate_measure_{name}": 1 for name in ("muon", "muon_data", "electron", "seed2021")},
    **{f"fakerate_truth_{name}": 1 for name in ("muon", "muon_data", "electron")},
}
EFT = dict.fromkeys(("samples_generate", "das_lookup", "servicex_transform"), 3)
COMBINED = EFT | {"topcoffea_process_tth_eft": 1, "topcoffea_combine_tth_eft": 1}
DATACARDS = {"topcoffea_datacards_tth_eft": 1}
TOPCOFFEA = COMBINED | DATACARDS
PICTURES = {
    "histograms_fakerate_muon": 1,
    "histograms_fakerate_muon_data": 1,
    "histograms_fakerate_electron": 1,
    "histograms_fakerate_seed2021": 1,
    "histograms_application_closure": 1,
    "histograms_application_validation": 1,
    "histograms_topcoffea_tth_eft": 1,
}
HISTOGRAMS = SERVICEX | FAKERATE | COMBINED | SERVICEX | PICTURES
EVERYTHING = HISTOGRAMS | DATACARDS | {"benchmark_report": 1}


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("samples", SAMPLES),
        ("das", DAS),
        ("servicex", SERVICEX),
        ("fakerate", FAKERATE),
        ("topcoffea", TOPCOFFEA),
        ("histograms", HISTOGRAMS),
        ("benchmark", EVERYTHING),
        ("all", EVERYTHING),
    ],
)
def test_a_target_asks_for_these_jobs(
    snakemake: Snakemake, target: str, jobs: dict[str, int]
) -> None:
    run = snakemake("-n", target)
    assert run.status == 0, run.text
    assert run.jobs == {**jobs, target: 1}


def test_one_file_can_be_asked_for(snakemake: Snakemake) -> None:
    run = snakemake("-n", "results/servicex/WJetsToLNu.json")
    assert run.jobs == {"samples_generate": 1, "das_lookup": 1, "servicex_transform": 1}


# "default" is merged into each of them
PROFILES = sorted(path.name for path in (REPO / "profiles").iterdir() if path.name != "default")


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_work_from_a_fresh_checkout(repo: Path, tmp_path: Path, profile: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", profile, "-n"],
        cwd=repo,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_profile_chooses_its_site(repo: Path) -> None:
    assert {"local", "htcondor", "coffea-casa"} <= set(PROFILES)
    for profile in PROFILES:
        assert (repo / profile / "config.yaml").readlink() == Path(
            f"../profiles/{profile}/config.yaml"
        )
        settings = yaml.safe_load((repo / profile / "config.yaml").read_text())
        assert settings["config"] == [f"site={profile}"]
        assert (repo / "config/sites" / f"{profile}.yaml").is_file()


@pytest.fixture(scope="session")
def full_catalogue(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real 912 files of the 2021 measurement as a catalogue; their sizes aren't known."""
    files = json.loads((repo / "tests/data/qcd_muenriched_2021.json").read_text())
    assert (len(files), sum(map(len, files.values()))) == (38, 912)
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.json"
    write_catalogue(
        path,
        {name: [FileRecord(lfn, None, None, None) for lfn in lfns] for name, lfns in files.items()},
    )
    return path


def test_full_size_dry_run(snakemake: Snakemake, repo: Path, full_catalogue: Path) -> None:
    override = yaml.safe_load((repo / "config/qcd2021.yaml").read_text())
    override["das"] = {"catalogues": [str(full_catalogue)]}
    run = snakemake("-n", override=override)
    assert run.status == 0, run.text
    assert run.jobs["das_lookup"] == run.jobs["servicex_transform"] == 38
    assert len([job for job in run.jobs if job.startswith("fakerate_measure_")]) == 4


def test_full_size_lookup(snakemake: Snakemake, repo: Path, full_catalogue: Path) -> None:
    override = yaml.safe_load((repo / "config/qcd2021.yaml").read_text())
    override["das"] = {"catalogues": [str(full_catalogue)]}
    target = "results/qcd2021/das/QCD_Pt-15to20_MuEnrichedPt5_2018.json"
    run = snakemake(target, override=override)
    assert run.status == 0, run.text
    path = run.folder / target
    found = json.loads(path.read_text())
    assert found["dataset"].startswith("/QCD_Pt-15to20_MuEnrichedPt5_TuneCP5_13TeV_pythia8/")
    assert found["summary"] == {
        "files": len(found["files"]),
        "invalid_files": 0,
        "left_out_files": 0,
        "events": None,
        "bytes": None,
    }
    assert len(found["files"]) == 5


def listed(folder: Path, samples: int, files: int, first: str) -> str:
    """A cfg file of TopEFT's form that lists `files` files in `samples` samples."""
    names = []
    for index in range(samples):
        name = first if index == 0 else f"background_{index}"
        own = range(index, files, samples)
        sample = {
            "xsec": 0.07,
            "year": "2018",
            "treeName": "Events",
            "histAxisName": name,
            "options": "",
            "WCnames": ["ctp", "cptb", "ctG"] if index == 0 else [],
            "files": [f"/store/user/someone/{name}/output_{n}.root" for n in own],
            "nEvents": 1_000_000 * len(own),
            "nGenEvents": 1_000_000 * len(own),
            "nSumOfWeights": 345.0,
            "isData": False,
        }
        (folder / f"{name}.json").write_text(json.dumps(sample))
        names.append(f"{name}.json")
    cfg = folder / "samples.cfg"
    cfg.write_text("\n".join(["# full size", "root://somewhere.example/", *names]))
    return str(cfg)


@pytest.mark.parametrize(
    ("name", "samples", "files", "signal"),
    [("thq", 6, 78, "tHq"), ("ftanalysis", 27, 1377, "tttt"), ("tth_eft", 9, 90, "ttH")],
)
def test_full_size_dry_run_of_an_eft_analysis(
    snakemake: Snakemake, repo: Path, tmp_path: Path, name: str, samples: int, files: int,
    signal: str,
) -> None:  # fmt: skip
    analysis = yaml.safe_load((repo / f"config/analyses/{name}.yaml").read_text())
    others = [f"background_{index}" for index in range(1, samples)]
    analysis["datasets"]["simulation"] = [signal, *others]
    analysis["signal"] = [signal]
    analysis["points"] = {"SM": {}}
    del analysis["systematics"]
    del analysis["scan"]
    analysis.pop("datacards", None)
    (tmp_path / "analysis.yaml").write_text(yaml.safe_dump(analysis))
    measured = [f"config/analyses/{n}.yaml" for n in ("muon", "electron", "flips")]
    override = {
        "datasets": ["config/datasets/demo.yaml", listed(tmp_path, samples, files, signal)],
        "analyses": [*measured, str(tmp_path / "analysis.yaml")],
    }
    run = snakemake("-n", "topcoffea", override=override)
    assert run.status == 0, run.text
    assert run.jobs["samples_listed"] == samples
    assert run.jobs[f"topcoffea_process_{name}"] == 1
    assert run.jobs[f"topcoffea_datacards_{name}"] == 1
    # leptons that aren't prompt come from data by the measured maps
    maps = [job for job in run.jobs if job.startswith("fakerate_measure_")]
    assert len(maps) == (0 if name == "tth_eft" else 2)
    # the files are the content of a target, read where the list stands
    target = f"results/das/{signal}.json"
    found = snakemake(target, override=override)
    assert found.status == 0, found.text
    records = json.loads((found.folder / target).read_text())["files"]
    assert len(records) == len(range(0, files, samples))
    assert records[0]["url"].startswith(f"root://somewhere.example//store/user/someone/{signal}/")


def test_eft_analyses_with_leptons_from_data(snakemake: Snakemake, repo: Path) -> None:
    override = yaml.safe_load((repo / "config/eft.yaml").read_text())
    run = snakemake("-n", override=override)
    assert run.status == 0, run.text
    jobs = ("fakerate_measure_muon", "fakerate_measure_electron", "flips_measure_flips",
            "topcoffea_combine_thq", "topcoffea_combine_ftanalysis", "topcoffea_process_thq",
            "histograms_flips_flips", "topcoffea_process_ftanalysis",
            "histograms_topcoffea_ftanalysis")  # fmt: skip
    assert {job: run.jobs[job] for job in jobs} == dict.fromkeys(jobs, 1)
    assert len([job for job in run.jobs if "_measure_" in job]) == 3


def test_measured_flips_are_applied(snakemake: Snakemake, repo: Path) -> None:
    override = yaml.safe_load((repo / "config/eft.yaml").read_text())
    target = "results/eft/topcoffea/ftanalysis/yields.json"
    run = snakemake("-n", target, override=override)
    assert run.status == 0, run.text
    assert run.jobs["flips_process_flips"] == run.jobs["flips_measure_flips"] == 1


def test_braces_in_a_label_are_no_wildcards(
    snakemake: Snakemake, repo: Path, tmp_path: Path
) -> None:
    analysis = yaml.safe_load((repo / "config/analyses/tth_eft.yaml").read_text())
    analysis["observables"]["ht"]["label"] = "$H_{T}$ [GeV]"
    (tmp_path / "eft.yaml").write_text(yaml.safe_dump(analysis))
    override = {"analyses": [str(tmp_path / "eft.yaml")], "histograms": {"label": "In {progress}"}}
    run = snakemake("-n", override=override)
    assert run.status == 0, run.text


def test_a_profile_sets_the_number_of_workers(repo: Path) -> None:
    # a rule's own value would win over the profile's default
    for path in (repo / "rules").glob("*.smk"):
        assert "dask_workers=" not in path.read_text()
    for profile in set(PROFILES) - {"local"}:
        settings = yaml.safe_load((repo / profile / "config.yaml").read_text())
        assert settings["default-resources"] == ["dask_workers=20"]


def refusal(run: Run) -> str:
    assert run.status != 0
    # no traceback for what the user can mend
    assert "Traceback" not in run.text
    return run.text


def test_typo_in_the_configuration(snakemake: Snakemake) -> None:
    text = refusal(snakemake("-n", override={"servicex": {"volumee": "x"}}))
    assert "configuration: servicex: unknown key 'volumee'; did you mean 'volume'?" in text


def test_negative_number_of_events(snakemake: Snakemake, repo: Path, tmp_path: Path) -> None:
    demo = yaml.safe_load((repo / "config/datasets/demo.yaml").read_text())
    demo["WJetsToLNu"]["sample"]["events"] = -100
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(demo))
    text = refusal(snakemake("-n", override={"datasets": [str(tmp_path / "demo.yaml")]}))
    assert "demo.yaml: WJetsToLNu.sample.events: -100 should be at least 0" in text


def test_unknown_target(snakemake: Snakemake) -> None:
    run = snakemake("-n", "results/das/NoSuchDataset.json")
    assert run.status != 0


def test_a_main_file_that_is_not_utf_8(snakemake: Snakemake, repo: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("rules", "scripts", "config", "envs"):
        shutil.copytree(repo / name, checkout / name)
    shutil.copy(repo / "Snakefile", checkout)
    main = checkout / "config/config.yaml"
    main.write_bytes(main.read_bytes() + "# café\n".encode("latin-1"))
    run = snakemake("--dry-run", "--snakefile", str(checkout / "Snakefile"))
    assert run.status == 1
    assert "Traceback" not in run.text
    assert "the byte 0xe9 isn't UTF-8 (is the file Latin-1?)" in run.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a: 1\nb: é".encode("latin-1"),
            "line 2: the byte 0xe9 isn't UTF-8 (is the file Latin-1?)",
        ),
        ("a: 1".encode("utf-16"), "is UTF-16 or binary; save it as UTF-8 text"),
        (b"a:\n\t- b\n", "not valid YAML: while scanning"),
        (b"[1, 2]", "should have keys with values, such as `name: value`"),
        (None, "no such file. --configfile takes all names that follow it: if my.yaml is a target"),
    ],
)
def test_a_file_of_configfile_that_can_not_be_read(
    snakemake: Snakemake, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    run = snakemake("--dry-run", "--configfile", str(path))
    assert run.status == 1
    assert "Traceback" not in run.text
    (error,) = [line for line in run.text.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {path}")
    assert message in error
