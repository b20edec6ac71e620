"""The job description that reaches the facility, held against what the facility expects."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from schedulers import dask_scheduler

from looseleaf.cluster import client_for

TOKEN = "a-very-secret-token"
# what runs where snakemake does: the site's cluster, until its first job is submitted
SUBMITS = """
import sys, time
from pathlib import Path
import yaml
import coffea_casa.coffea_casa as facility
from looseleaf.cluster import client_for

folder = Path(sys.argv[1])
for name, file in (("CA_FILE", "ca"), ("CERT_FILE", "hostcert"), ("KEY_FILE", "hostkey")):
    setattr(facility, name, folder / f"{file}.pem")
site = yaml.safe_load(Path("config/sites/coffea-casa.yaml").read_text())
site["cluster"] = {"scheduler_port": 0, "dashboard_port": 0, "worker_image": "an/image:1"}
with client_for(site, 1, folder / "logs") as here:
    print("scheduler", here.client.scheduler.address)
    while not (folder / "submitted").exists():
        time.sleep(0.1)
"""
# stands for HTCondor's own, which the machine may not have: it keeps what it is given
CONDOR_SUBMIT = """#!/bin/sh
for last; do :; done
cp "$last" "$FOLDER/description"
echo "$@" > "$FOLDER/arguments"
echo "1 job(s) submitted to cluster 7."
touch "$FOLDER/submitted"
"""


def certificate(folder: Path) -> None:
    """hostcert.pem and hostkey.pem, signed by themselves."""
    files = ["-keyout", f"{folder}/hostkey.pem", "-out", f"{folder}/hostcert.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pod", *files],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, Any]:
    """The directives of the first job, the arguments of its submission, what was printed."""
    folder = tmp_path_factory.mktemp("facility")
    certificate(folder)
    (folder / "ca.pem").write_text((folder / "hostcert.pem").read_text())
    (folder / "token").write_text(TOKEN)
    (folder / "proxy").write_text("a proxy")
    for name, text in (("condor_submit", CONDOR_SUBMIT), ("condor_rm", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        "FOLDER": str(folder),
        "HOME": str(folder),
        "HOSTNAME": "jupyter-user",
        "POD_IP": "127.0.0.1",
        "PATH": f"{folder}:{os.environ['PATH']}",
        "BEARER_TOKEN_FILE": str(folder / "token"),
        "X509_USER_PROXY": str(folder / "proxy"),
    }
    run = subprocess.run(
        [sys.executable, "-c", SUBMITS, str(folder)],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = re.findall(r"^([^\s=]+) = (.*)$", (folder / "description").read_text(), re.MULTILINE)
    arguments = (folder / "arguments").read_text()
    printed = run.stdout + run.stderr
    return {"folder": folder, "job": dict(lines), "arguments": arguments, "printed": printed}


def test_job_is_a_container_with_the_facilitys_attributes(submitted: dict[str, Any]) -> None:
    job = submitted["job"]
    assert job["universe"] == "docker"
    assert job["docker_image"] == "an/image:1"
    assert job["+CoffeaCasaWorkerType"] == '"dask"'
    assert job["+AccountingGroup"] == '"cms.other.coffea.$ENV(HOSTNAME)"'
    assert job["+DaskSchedulerAddress"].startswith('"tls://127.0.0.1:')
    assert job["container_service_names"] == "dask,nanny"
    assert (job["dask_container_port"], job["nanny_container_port"]) == ("8786", "8001")
    assert job["MY.DaskWorkerCores"] == "1"
    assert job["MY.DaskWorkerMemory"] == str(4 * 2**30)
    assert job["MY.DaskWorkerDisk"] == str(2 * 2**30)
    assert "-spool" in submitted["arguments"].split()


def test_scheduler_speaks_tls(submitted: dict[str, Any]) -> None:
    assert "scheduler tls://" in submitted["printed"]


def test_token_proxy_and_keys_travel_encrypted(submitted: dict[str, Any]) -> None:
    job, folder = submitted["job"], submitted["folder"]
    for name in ("token", "hostkey.pem", "hostcert.pem", "ca.pem"):
        assert str(folder / name) in job["encrypt_input_files"].split(", ")
        assert str(folder / name) in job["transfer_input_files"].split(", ")
    assert job["use_x509userproxy"] == "True"
    assert job["transfer_executable"] == "False"


def test_secrets_are_told_nowhere(submitted: dict[str, Any]) -> None:
    told = (submitted["folder"] / "description").read_text() + submitted["printed"]
    assert TOKEN not in told
    assert str(submitted["folder"] / "proxy") not in told


def test_jobs_leave_the_queue(submitted: dict[str, Any]) -> None:
    job = submitted["job"]
    # the ten days of a spooled job are cut to what fetching its logs takes
    assert job["leave_in_queue"] == "JobStatus == 4 && time() - CompletionDate < 600"
    # 16: held while its files are being spooled, which is no failure
    assert "JobStatus == 5 && (HoldReasonCode =!= 16" in job["periodic_remove"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', job["MY.LooseleafRun"])


def test_a_chunk_ends_far_before_its_worker(main_config: dict[str, Any]) -> None:
    # the facility ends workers after two hours
    assert main_config["processing"]["chunk_s"] <= 7200 / 4


def test_site_files_are_what_the_schema_says(repo: Path) -> None:
    site = yaml.safe_load((repo / "config/sites/coffea-casa.yaml").read_text())
    assert site["redirectors"] == ["root://xcache/"]
    # without settings of its own the user's running scheduler is looked for first
    assert "cluster" not in site


@pytest.mark.slow
def test_the_scheduler_that_runs_for_the_user_is_taken(tmp_path: Path, repo: Path) -> None:
    """The facility runs it beside the notebook, at tls://localhost:8786."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8786)) == 0:
            pytest.skip("port 8786 is taken, at which the facility's scheduler listens")
    certificate(tmp_path)
    cert, key = str(tmp_path / "hostcert.pem"), str(tmp_path / "hostkey.pem")
    options = ("--protocol", "tls", "--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    site = yaml.safe_load((repo / "config/sites/coffea-casa.yaml").read_text())
    # the facility's own configuration of Dask says so there
    site["dask"] = {
        "distributed.comm.tls.ca-file": cert,
        "distributed.comm.tls.client.cert": cert,
        "distributed.comm.tls.client.key": key,
    }
    with dask_scheduler(tmp_path, Path(sys.executable), *options, port=8786) as (_, address):
        assert address == "tls://127.0.0.1:8786"
        with client_for(site, 1, tmp_path / "logs") as here:
            assert not here.own
            assert here.client.scheduler_info()["address"] == address
            assert here.client.submit(sum, [1, 2]).result(timeout=30) == 3
