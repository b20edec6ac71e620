"""The lock, the conda environment and the licence files agree with what the project says."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

CONDA_NAMES = {"matplotlib": "matplotlib-base", "zlib-ng": "python-zlib-ng"}


def locked(repo: Path, python: str, lock: str = "requirements.lock") -> dict[str, str]:
    """Versions of a lock by package, for one version of Python."""
    versions = {}
    for line in (repo / lock).read_text().splitlines():
        if re.match(r"[a-z0-9]", line):
            requirement = Requirement(line.rstrip(" \\"))
            environment = {"python_full_version": f"{python}.0", "python_version": python}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                versions[requirement.name] = str(requirement.specifier).removeprefix("==")
    return versions


def unhashed(lock: str) -> list[str]:
    """The packages of a lock without a hash."""
    packages = re.findall(
        r"^[a-z0-9][^\s=<>]*==.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*", lock, re.M
    )
    assert packages
    return [package for package in packages if "--hash=sha256:" not in package]


def declared(repo: Path, *extras: str) -> set[str]:
    """The packages that the project asks for by itself and with extras."""
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = [Requirement(line) for line in project["dependencies"]]
    lines += [Requirement(line) for extra in extras for line in optional[extra]]
    names = {line.name for line in lines} - {"looseleaf"}
    inner = {extra for line in lines if line.name == "looseleaf" for extra in line.extras}
    return names | (declared(repo, *inner) if inner else set())


def test_every_package_of_the_lock_is_pinned_with_hashes_and_no_address(repo: Path) -> None:
    text = (repo / "requirements.lock").read_text()
    assert len(locked(repo, "3.11")) > 100
    assert unhashed(text) == []
    assert re.findall(r"://|--index|--find-links", text) == []


def test_lock_holds_every_declared_dependency_for_every_supported_python(repo: Path) -> None:
    for python in ("3.11", "3.12", "3.13", "3.14"):
        assert declared(repo, "workflow", "docs", "test") - set(locked(repo, python)) == set()


def test_the_image_has_versions_and_hashes_of_the_lock_and_a_base_by_digest(repo: Path) -> None:
    text = (repo / "charts/Dockerfile").read_text()
    bases = re.findall("^FROM ([^ \n]*)", text, re.M)
    assert len(bases) == 2
    assert all(re.fullmatch(r".*:3\.12[^@]*@sha256:[0-9a-f]{64}", base) for base in bases)
    assert "--require-hashes" in text
    of_image = locked(repo, "3.12", "charts/requirements.lock")
    versions = locked(repo, "3.12")
    assert {name: versions.get(name) for name in of_image} == of_image
    assert declared(repo, "kubernetes", "xrootd") | {"hatchling"} <= set(of_image)
    # what only runs the workflow isn't there
    assert not {"snakemake", "coffea", "pytest"} & set(of_image)
    lock = (repo / "charts/requirements.lock").read_text()
    assert unhashed(lock) == []


def test_conda_environment_states_the_versions_of_the_lock(repo: Path) -> None:
    environment = yaml.safe_load((repo / "envs/looseleaf.yaml").read_text())
    pins = dict(line.split("=") for line in environment["dependencies"])
    versions = locked(repo, pins.pop("python"))
    # snakemake itself starts the jobs and is not part of their environment
    needed = declared(repo, "workflow") - {"snakemake"}
    expected = {CONDA_NAMES.get(name, name): versions[name] for name in needed}
    assert pins == expected


def test_every_rule_that_runs_a_script_names_an_environment_that_is_there(repo: Path) -> None:
    for path in (repo / "rules").glob("*.smk"):
        text = path.read_text()
        assert text.count("script:") == text.count("conda:"), path
    named = re.search(r'ENVIRONMENT = "(.*)"', (repo / "rules/common.smk").read_text())
    assert named is not None
    assert (repo / "rules" / named[1]).is_file()


def test_versions_agree(repo: Path) -> None:
    version = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"## {version}" in (repo / "CHANGELOG.md").read_text()
    assert f'__version__ = "{version}"' in (repo / "looseleaf/__init__.py").read_text()
