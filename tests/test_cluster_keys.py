"""Clusters that we start take only who holds their keys."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import REPO
from dask_jobqueue import HTCondorCluster, SLURMCluster
from distributed import Client, LocalCluster

from looseleaf.cluster import client_for, htcondor, slurm
from looseleaf.cluster.keys import FileKeys, in_memory
from looseleaf.processing.site import Site

pytestmark = pytest.mark.slow

LOCAL = {"kind": "local", "redirectors": []}
# no scheduler is asked for anything here
SCHEDULER = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
JOB = {"cores": 1, "memory": "1 GB", "scheduler_options": SCHEDULER}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with client_for(LOCAL, 1, tmp_path_factory.mktemp("workers")) as site:
        yield site


def stranger(addresses: list[str], path: Path) -> list[str]:
    """What comes of another user's attempts at several addresses, after that user's id."""
    script = str(REPO / "tests/support/stranger.py")
    command = [sys.executable, script, ",".join(addresses), str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return ended.stdout.splitlines()


def test_another_user_can_not_run_functions_on_a_local_cluster(site: Site, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    scheduler = site.client.scheduler.address
    workers = list(site.client.scheduler_info()["workers"])
    addresses = [scheduler, *workers]
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
    plain = [address.replace("tls://", "tcp://") for address in addresses]
    user, *said = stranger([*addresses, *plain], tmp_path / "planted")
    assert user != "0"
    assert len(said) >= len(addresses) + len(plain)
    assert "it ran" not in said
    assert not (tmp_path / "planted").exists()
    # who holds the keys is served
    assert site.client.submit(os.getpid).result() > 0


def test_a_cluster_without_keys_would_run_them(tmp_path: Path) -> None:
    """What the tests above would miss if the attempt itself were at fault."""
    tmp_path.chmod(0o777)
    with LocalCluster(n_workers=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        _, said = stranger([cluster.scheduler_address], tmp_path / "planted")
    assert said == "it ran"
    assert (tmp_path / "planted").exists()


def test_all_listens_on_loopback(site: Site) -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_keys_in_files_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        keys = FileKeys(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert files == {"cluster.crt": 0o600, "cluster.key": 0o600}
    assert keys.require_encryption
    for role in ("scheduler", "worker", "client"):
        config = keys.get_tls_config_for_role(role)
        assert config["key"] == str(tmp_path / "keys/cluster.key")
    # a folder that somebody else has prepared isn't taken
    with pytest.raises(FileExistsError):
        FileKeys(tmp_path / "keys")


def test_a_cluster_with_keys_in_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker, started as a job starts it, finds the keys that the job carries."""
    keys = FileKeys(tmp_path / "keys", carried=True)
    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", security=keys
    ) as cluster:
        config = keys.get_tls_config_for_role("worker")
        flags = {"ca_file": "--tls-ca-file", "cert": "--tls-cert", "key": "--tls-key"}
        options = [word for name, flag in flags.items() for word in (flag, str(config[name]))]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        with (
            subprocess.Popen(
                [*command, "--nthreads", "1", *options],
                cwd=tmp_path / "keys",
                stderr=subprocess.DEVNULL,
            ) as worker,
            Client(cluster) as client,
        ):
            try:
                assert client.submit(os.getppid).result(timeout=60) > 0
            finally:
                worker.terminate()


def test_a_job_of_htcondor_carries_its_keys(tmp_path: Path) -> None:
    asked = {**JOB, "disk": "1 GB", "job_extra_directives": {"transfer_input_files": "/mine/a.txt"}}
    settings = htcondor.keyed(htcondor.tagged(asked, "r"), tmp_path / "keys")
    with HTCondorCluster(**settings) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://")
    lines = dict(line.split(" = ", 1) for line in script.splitlines() if " = " in line)
    keys = tmp_path / "keys"
    assert lines["transfer_input_files"] == f"{keys}/cluster.crt, {keys}/cluster.key, /mine/a.txt"
    assert lines["should_transfer_files"] == "YES"
    assert "--tls-ca-file cluster.crt" in lines["Arguments"]
    assert "--tls-key cluster.key" in lines["Arguments"]
    assert "PRIVATE" not in script


def test_a_job_of_slurm_reads_its_keys(tmp_path: Path) -> None:
    with SLURMCluster(**slurm.keyed(JOB, tmp_path / "keys")) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://")
    assert f"--tls-key {tmp_path}/keys/cluster.key" in script
    assert "PRIVATE" not in script


def test_keys_differ_from_cluster_to_cluster() -> None:
    first, second = (in_memory().get_tls_config_for_role("worker")["key"] for _ in range(2))
    assert first != second


def test_nobody_answers_without_a_certificate(site: Site) -> None:
    """The handshake itself ends, before a byte of Dask's is read."""
    host, port = site.client.scheduler.address.removeprefix("tls://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"\x00" * 64)
        try:
            answer = connection.recv(64)
        except ConnectionResetError:
            answer = b""
        # nothing, or an alert of TLS
        assert answer[:1] in (b"", b"\x15")
