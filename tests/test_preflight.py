"""What a machine's Python is told before anything runs."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import click
import pytest
from conftest import REPO

from looseleaf.preflight import MODULES, check_machine, foreign

pytestmark = pytest.mark.slow

SHARED = [path for path in sys.path if path.endswith("site-packages")]


def environment(folder: Path, packages: list[str]) -> Path:
    """The interpreter of a new environment that has this checkout and the packages of folders."""
    venv.create(folder, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path = folder / "lib" / version / "site-packages/shared.pth"
    path.write_text("\n".join([str(REPO), *packages]) + "\n")
    return folder / "bin/python"


def run(
    python: str | Path, *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments],
        cwd=cwd,
        env={**kept, "XDG_CACHE_HOME": str(cwd / "cache"), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def dry_run(python: str | Path, cwd: Path, **variables: str) -> tuple[int, str]:
    arguments = ["-m", "snakemake", "--snakefile", str(REPO / "Snakefile"), "-n", "das"]
    told = run(python, *arguments, cwd=cwd, **variables)
    return told.returncode, told.stdout + told.stderr


def test_an_environment_below_a_space_is_refused_before_any_job(tmp_path: Path) -> None:
    python = environment(tmp_path / "my analysis/.venv", SHARED)
    status, text = dry_run(python, tmp_path)
    assert status == 1
    assert f"Snakemake runs '{python}' unquoted, and its path has a space" in text
    assert "move the environment" in text
    assert "das_lookup" not in text


def test_a_folder_with_a_space_is_none_of_the_interpreters_business(tmp_path: Path) -> None:
    folder = tmp_path / "my analysis"
    folder.mkdir()
    arguments = ["--snakefile", str(REPO / "Snakefile"), "-c1", "results/das/QCD_Pt-15to20.json"]
    told = run(sys.executable, "-m", "snakemake", *arguments, cwd=folder)
    assert told.returncode == 0, told.stderr
    assert (folder / "results/das/QCD_Pt-15to20.json").is_file()


def test_packages_of_a_python_path_are_told_in_one_sentence(tmp_path: Path) -> None:
    for name in ("numpy", "scipy"):
        (tmp_path / "lcg" / name).mkdir(parents=True)
        (tmp_path / "lcg" / name / "__init__.py").write_text("raise ImportError('of a view')")
    status, text = dry_run(sys.executable, tmp_path, PYTHONPATH=f"{REPO}:{tmp_path / 'lcg'}")
    assert status == 0, text
    sentence = f"PYTHONPATH puts numpy, scipy of {tmp_path / 'lcg'} before those of this environm"
    assert text.count(sentence) == 1
    assert "PYTHONPATH" not in dry_run(sys.executable, tmp_path, PYTHONPATH=str(REPO))[1]


def test_an_environment_of_its_own_is_not_foreign(tmp_path: Path) -> None:
    assert foreign("") == foreign(str(REPO)) == foreign(f"{tmp_path}:") == {}
    assert check_machine() == []


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "click").symlink_to(Path(click.__file__).parent)
    python = environment(tmp_path / "bare", [str(packages)])
    das = run(python, "-m", "looseleaf", "das", "dataset=/A/B/C", cwd=tmp_path)
    assert (das.returncode, das.stdout) == (1, "")
    assert das.stderr.startswith("error: not installed for this Python: ")
    assert das.stderr.endswith("; type pip install 'looseleaf[das]'\n")
    serve = run(python, "-m", "looseleaf", "servicex", "serve", "--volume", ".", cwd=tmp_path)
    assert serve.returncode == 1
    assert serve.stderr.endswith("; type pip install 'looseleaf[servicex]'\n")
    code = "from looseleaf.preflight import check_machine; check_machine()"
    workflow = run(python, "-c", code, cwd=tmp_path)
    absent = ", ".join(MODULES)
    expected = f"not installed for this Python: {absent}; type pip install 'looseleaf[workflow]'"
    assert workflow.stderr.endswith(expected + "\n")


@pytest.mark.parametrize("command", [[], ["init"], ["das"]])
def test_help_needs_no_extra(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/click").symlink_to(Path(click.__file__).parent)
    python = environment(tmp_path / "bare", [str(tmp_path / "packages")])
    told = run(python, "-m", "looseleaf", *command, "--help", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
