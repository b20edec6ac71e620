"""The package as it is built: what it holds, and the workflow where there is no checkout."""

import json
import os
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest
from click.testing import CliRunner
from conftest import REPO

from looseleaf.command import main

pytestmark = pytest.mark.slow

PROFILES = {"coffea-casa", "htcondor", "local", "slurm"}
CONFIGURED = """
import sys
from pathlib import Path
import looseleaf
from looseleaf.topcoffea.notebook import configured
fileset, processor = configured(sys.argv[1], sys.argv[2])
print(Path(looseleaf.__file__).parent, *fileset, type(processor).__name__)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built of an sdist that was unpacked, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t"]
    subprocess.run([*build, "sdist"], cwd=REPO, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = folder.glob("looseleaf-*/")
    subprocess.run([*build, "wheel"], cwd=unpacked, check=True, capture_output=True, timeout=120)
    return folder


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, which finds the packages of this one."""

    python: Path

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=cwd,
            env={**kept, "XDG_CACHE_HOME": str(cwd / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(place, symlinks=True)
    python = place / "bin/python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = place / "lib" / version / "site-packages"
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    return Installed(python)


def tracked(*parts: str) -> list[str]:
    """The files of a checkout below these names, without what a run leaves there."""
    return sorted(
        path.relative_to(REPO).as_posix()
        for part in parts
        for path in [REPO / part, *(REPO / part).rglob("*")]
        if path.is_file() and "__pycache__" not in path.parts
    )


def test_sdist_is_whole(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as packed:
        members = {m.name.partition("/")[2]: m for m in packed.getmembers()}
    expected = tracked("looseleaf", "snakemake_logger_plugin_looseleaf", "config", "profiles")
    expected += tracked("rules", "envs", "tests", "benchmarks")
    expected += tracked("Snakefile", "Makefile", "requirements.lock", "README.md", "LICENSE")
    expected += tracked("CONTRIBUTING.md", "docs", "mkdocs.yml")
    assert set(expected) - set(members) == set()
    assert {f"scripts/{path.name}" for path in (REPO / "scripts").glob("*.py")} <= set(members)
    links = {name: member.linkname for name, member in members.items() if member.issym()}
    assert links == {f"{p}/config.yaml": f"../profiles/{p}/config.yaml" for p in PROFILES}
    # the package stands in it once
    assert [name for name in members if name.startswith("scripts/looseleaf")] == []


def test_wheel_holds_package_and_workflow_once(dist: Path) -> None:
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    package = [n for n in names if ".dist-info/" not in n and "/workflow/" not in n]
    assert sorted(package) == sorted(tracked("looseleaf", "snakemake_logger_plugin_looseleaf"))
    workflow = [n.removeprefix("looseleaf/workflow/") for n in names if "/workflow/" in n]
    scripts = [f"scripts/{path.name}" for path in (REPO / "scripts").glob("*.py")]
    assert sorted(workflow) == sorted(
        [*tracked("Snakefile", "config", "envs", "profiles", "rules"), *scripts]
    )


def test_workflow_runs_where_a_wheel_laid_it_out(installed: Installed, tmp_path: Path) -> None:
    told = installed.run("-m", "looseleaf", "init", "analysis", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "cd analysis && snakemake" in told.stdout
    folder = tmp_path / "analysis"
    names = {"Snakefile", "config", "envs", "profiles", "rules", "scripts"} | PROFILES
    assert {path.name for path in folder.iterdir()} == names
    for profile in PROFILES:
        run = installed.run(
            "-m", "snakemake", "--dry-run", "--profile", profile, "--quiet", "all", cwd=folder
        )
        assert run.returncode == 0, run.stdout + run.stderr
    # whose code and schemas these are
    place = installed.run("-c", "import looseleaf.layout as l; print(l.schemas())", cwd=folder)
    assert place.stdout.strip().startswith(str(installed.python.parent.parent))
    (folder / "config/config.yaml").write_text("nonsense: 1\n")
    run = installed.run("-m", "snakemake", "--dry-run", cwd=folder)
    assert run.returncode != 0
    assert "nonsense" in run.stdout + run.stderr


def test_one_job_of_a_laid_out_workflow(installed: Installed, tmp_path: Path) -> None:
    installed.run("-m", "looseleaf", "init", ".", cwd=tmp_path)
    target = "results/das/QCD_Pt-15to20.json"
    run = installed.run("-m", "snakemake", "--cores", "1", target, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / target).is_file()


def test_notebook_is_configured_without_a_checkout(installed: Installed, tmp_path: Path) -> None:
    analysis = REPO / "config/analyses/tth_eft.yaml"
    sample = {
        "xsec": 0.2, "year": "2018", "treeName": "Events", "histAxisName": "ttH_signal",
        "options": "", "WCnames": ["ctG", "ctp"], "files": ["/store/ttH.root"], "nEvents": 1,
        "nGenEvents": 1, "nSumOfWeights": 1.0, "isData": False,
    }  # fmt: skip
    (tmp_path / "ttH.json").write_text(json.dumps(sample))
    (tmp_path / "samples.cfg").write_text("root://host/\nttH.json\n")
    told = installed.run("-c", CONFIGURED, str(analysis), "samples.cfg", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    place, *rest = told.stdout.split()
    assert place.startswith(str(installed.python.parent.parent))
    assert rest == ["ttH", "TopCoffeaProcessor"]


@pytest.mark.parametrize("name", ["Snakefile", "config", "local"])
def test_what_is_in_a_folder_stays_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    told = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert told.exit_code == 1
    assert f"error: {tmp_path / name} is there already; name a folder without it" in told.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
