"""What each rule hashes of the package is what its job imports, neither less nor more."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

from looseleaf.codehash import ASIDE, hash_of
from looseleaf.entry import module_of

CONFIGURATIONS = (None, "config/eft.yaml")
# jobs that leave a record of what others said: an edit of our code is no reason to ask again
RECORDS = {"das_lookup"}


@contextmanager
def parsed(base: Path, folder: Path, configuration: str | None = None) -> Iterator[list[Any]]:
    """The rules of the workflow in `base` that run a script."""
    files = [base / configuration] if configuration else []
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True)) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=files),
            snakefile=base / "Snakefile",
            workdir=folder,
        )
        yield [rule for rule in workflow._workflow.rules if rule.script is not None]


def run_by(rule: Any) -> frozenset[Path]:
    """The files of the package that a rule's script imports, and what it is told to run."""
    return imported_by(rule.script, rule.params.get("run"))


@cache
def imported_by(script: str, run: str | None) -> frozenset[Path]:
    finder = ModuleFinder([str(REPO)], excludes=list(ASIDE))
    finder.run_script(str(REPO / "rules" / script))
    if run is not None:
        finder.import_hook(module_of(run))
    found = {name: module.__file__ for name, module in finder.modules.items()}
    return frozenset(Path(file) for name, file in found.items() if file and name != "__main__")


def badly_hashed(rules: list[Any]) -> list[str]:
    """The rules whose hash isn't that of what they run."""
    return [
        rule.name
        for rule in rules
        if rule.name not in RECORDS
        and rule.params.get("code") != hash_of({*run_by(rule), REPO / "rules" / rule.script})
    ]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_rule_hashes_what_it_runs(configuration: str | None, tmp_path: Path) -> None:
    with parsed(REPO, tmp_path, configuration) as rules:
        assert {"das_lookup", "servicex_transform", "benchmark_report"} < {r.name for r in rules}
        assert badly_hashed(rules) == []
        ran = {rule.name: {str(p.relative_to(REPO / "looseleaf")) for p in run_by(rule)}
               for rule in rules}  # fmt: skip
    assert {"servicex/submission.py", "servicex/volume.py", "servicex/embedded.py",
            "servicex/service/app.py",
            "servicex/transform.py"} <= ran["servicex_transform"]  # fmt: skip
    # what an analysis is says nothing of how events are selected and written
    assert "objects/analysis.py" not in ran["servicex_transform"]
    for name, files in ran.items():
        if name in RECORDS:
            continue
        assert not [file for file in files if file.startswith("cluster/")], name
        assert ("processing/stage.py" in files) == ("_process_" in name), name
        # how an analysis is checked, and what is made of it, is no part of how
        assert not [file for file in files if file.endswith("declaration.py")], name
    if configuration is None:
        assert "application/process.py" in ran["application_process_closure"]
        assert "application/closure.py" in ran["application_closure_closure"]
        assert "application/closure.py" not in ran["application_process_closure"]


@pytest.mark.parametrize(
    ("file", "text", "wrong", "rules"),
    [
        # less than is run
        ("process", 'code_of("process", kind.process)', 'code_of("process")', "_process_"),
        ("results", 'code_of("result", step.run)', 'code_of("result", kind.process)', "_measure_"),
        ("servicex", 'code_of("servicex_transform")',
         'code_hash("looseleaf.servicex.service.queries")', "servicex_transform"),
        # and more
        ("pictures", "pictures.run)", "pictures.run, kind.process)", "histograms_"),
    ],
)  # fmt: skip
def test_another_hash_is_found(
    file: str, text: str, wrong: str, rules: str, tmp_path: Path
) -> None:
    base = tmp_path / "workflow"
    shutil.copytree(REPO / "rules", base / "rules")
    for name in ("Snakefile", "scripts", "config", "envs", "looseleaf"):
        (base / name).symlink_to(REPO / name)
    path = base / "rules" / f"{file}.smk"
    before = path.read_text()
    assert text in before
    path.write_text(before.replace(text, wrong))
    with parsed(base, tmp_path) as found:
        expected = [rule.name for rule in found if rules in rule.name]
        assert set(badly_hashed(found)) >= set(expected)
        assert len(expected) > 0


@pytest.mark.chain
def test_an_edit_of_a_script_reruns_its_jobs_and_a_new_time_none(tmp_path: Path) -> None:
    base = tmp_path / "workflow"
    base.mkdir()
    for name in ("rules", "scripts"):
        shutil.copytree(REPO / name, base / name, symlinks=True)
    for name in ("Snakefile", "config", "envs", "looseleaf", "profiles"):
        (base / name).symlink_to(REPO / name)
    (base / "small.yaml").write_text("samples: {scale: 0.01}")
    target = "results/samples/QCD_Pt-15to20/catalogue.json"
    command = [sys.executable, "-m", "snakemake", "--configfile", "small.yaml", "--", target]

    def runs(*options: str) -> bool:
        """Whether a dry run has something to do."""
        asked = [*command[:3], *options, *command[3:]]
        ran = subprocess.run(asked, cwd=base, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return "samples_generate" in ran.stdout + ran.stderr

    assert runs()
    script = base / "scripts/samples_generate.py"
    text = script.read_text()
    for same in (text, f"# in other words\n{text}"):
        script.write_text(same)
        assert not runs("-n")
    edited = text.replace("snakemake.threads,", "snakemake.threads or 1,")
    assert edited != text
    script.write_text(edited)
    assert runs("-n")
