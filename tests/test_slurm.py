"""The job script of the Slurm site, held against what sbatch documents."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask_jobqueue import SLURMCluster

from looseleaf.cluster import client_for, slurm
from looseleaf.config.settings import load
from looseleaf.errors import ConfigError

RUN = "0123456789abcdef"
TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+|\d+-\d+:\d\d|\d+-\d+:\d\d:\d\d"
# options as sbatch's manual has them, the short ones by their long names, and their values
SHORT = {
    "-A": "--account",
    "-C": "--constraint",
    "-J": "--job-name",
    "-e": "--error",
    "-n": "--ntasks",
    "-o": "--output",
    "-p": "--partition",
    "-t": "--time",
}
VALUES = {
    "--account": r"\S+",
    "--constraint": r"\S+",
    "--cpus-per-task": r"[1-9]\d*",
    "--error": r"\S+",
    "--job-name": r"\S+",
    "--mem": r"\d+[KMGT]?",
    "--no-requeue": "",
    "--ntasks": r"[1-9]\d*",
    "--output": r"\S+",
    "--partition": r"\S+",
    "--time": TIME,
}


def options(script: str) -> dict[str, str]:
    """The options that sbatch reads in a script: its #SBATCH lines before the first command."""
    lines = script.splitlines()
    assert lines[0].startswith("#!")
    read = {}
    for line in lines[1:]:
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            name, _, value = line.removeprefix("#SBATCH ").replace("=", " ", 1).partition(" ")
            name = SHORT.get(name, name)
            assert name in VALUES, f"sbatch has no option {name}"
            assert re.fullmatch(VALUES[name], value), line
            read[name] = value
    return read


@pytest.fixture
def settings(repo: Path) -> dict[str, Any]:
    return yaml.safe_load((repo / "config/sites/slurm.yaml").read_text())["cluster"]


@pytest.fixture
def script(settings: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """The job script for the settings of the site's file and more."""

    def written(**more: Any) -> str:
        asked = slurm.tagged({**settings, **more}, RUN)
        asked["log_directory"] = str(tmp_path)
        # no scheduler is started for a script
        asked["scheduler_options"] = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        with SLURMCluster(**asked) as cluster:
            return cluster.job_script()

    return written


def test_sbatch_reads_the_job_script_of_the_site(
    script: Callable[..., str], tmp_path: Path
) -> None:
    assert options(script()) == {
        "--job-name": f"looseleaf-{RUN}",
        "--error": f"{tmp_path}/looseleaf-{RUN}-%J.err",
        "--output": f"{tmp_path}/looseleaf-{RUN}-%J.out",
        "--ntasks": "1",
        "--cpus-per-task": "1",
        # 4 GB are 3.7 GiB, and sbatch's G is a GiB
        "--mem": "4G",
        "--time": "08:00:00",
        "--no-requeue": "",
    }


def test_what_a_user_asks_for_reaches_sbatch(script: Callable[..., str]) -> None:
    text = script(
        cores=2,
        processes=1,
        memory="2500 MB",
        walltime="1-12",
        queue="short",
        account="cms",
        job_extra_directives=["--constraint=el9"],
    )
    read = options(text)
    assert read["--cpus-per-task"] == "2"
    assert read["--mem"] == "3G"
    assert read["--time"] == "1-12"
    assert (read["--partition"], read["--account"]) == ("short", "cms")
    assert read["--constraint"] == "el9"
    assert "--no-requeue" in read
    assert "--death-timeout 60" in text


def test_the_jobs_of_a_run_are_found_and_removed_by_their_name(
    script: Callable[..., str], settings: dict[str, Any]
) -> None:
    asked = {**settings, "job_name": "mine"}
    name = options(script(job_name="mine"))["--job-name"]
    assert name == f"mine-{RUN}"
    assert f"--name={name}" in slurm.queued(asked, RUN)
    assert list(slurm.remove(asked, RUN)) == ["scancel", f"--name={name}"]


@pytest.mark.parametrize("walltime", ["60", "90:00", "08:00:00", "2-0", "2-12:30", "2-12:30:05"])
def test_every_time_format_of_sbatch_is_taken(
    site: Callable[..., dict[str, Any]], script: Callable[..., str], walltime: str
) -> None:
    assert site(walltime=walltime)["walltime"] == walltime
    assert options(script(walltime=walltime))["--time"] == walltime


@pytest.fixture
def site(
    main_config: dict[str, Any],
    repo: Path,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    """The cluster of a site that loads with changed settings; None takes a key away."""
    (tmp_path / "config/sites").mkdir(parents=True)
    # a site's file in the working folder comes before that of the checkout
    monkeypatch.chdir(tmp_path)

    def loaded(**changes: Any) -> dict[str, Any]:
        cluster = {**settings, **changes}
        cluster = {key: value for key, value in cluster.items() if value is not None}
        text = json.dumps({"kind": "slurm", "redirectors": [], "cluster": cluster})
        (tmp_path / "config/sites/slurm.yaml").write_text(text)
        return dict(load({**main_config, "site": "slurm"}, repo).site["cluster"])

    return loaded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"walltime": "8h"}, r"cluster.walltime: '8h' should be a time as `sbatch --time`"),
        ({"walltime": "1 day"}, r"cluster.walltime: '1 day' should be a time"),
        ({"walltime": "1:99"}, r"cluster.walltime: '1:99' should be a time"),
        ({"walltime": 480}, r"cluster.walltime: 480 should be of type string; .* in quotes"),
        ({"memory": "4 gigs"}, r"cluster.memory: '4 gigs' should be an amount and its unit"),
        ({"memory": "4"}, r"cluster.memory: '4' should be an amount and its unit"),
        ({"memory": None}, r"cluster: the key 'memory' is missing"),
        ({"job_mem": "4 GB"}, r"cluster.job_mem: '4 GB' should be a whole number and K, M, G"),
        ({"cores": 0}, r"cluster.cores: 0 should be at least 1"),
        ({"queue": "a queue"}, r"cluster.queue: 'a queue' should be a name without spaces"),
        ({"job_extra_directives": ["constraint=el9"]}, r"should be an option of sbatch"),
    ],
)
def test_what_sbatch_would_refuse_is_refused_with_file_and_key(
    site: Callable[..., dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"config/sites/slurm.yaml: .*{message}"):
        site(**changes)


def test_a_machine_that_submits_no_slurm_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    here = {"kind": "slurm", "redirectors": [], "cluster": settings}
    with (
        pytest.raises(ConfigError, match="site slurm: sbatch is not on the PATH"),
        client_for(here, 1, tmp_path),
    ):
        pass
