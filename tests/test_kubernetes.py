"""A release of the chart on Kubernetes: requests of its clients, faults, and what is left.

The API server and the kubelet are stand-ins (cluster.py). Everything else is real: Helm's
rendering, Kubernetes' client, the service and its transformers as processes in containers of a
kind, ServiceX's own client.
"""

import ast
import base64
import json
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uproot
from cluster import ACCOUNT, Cluster, Object, needs_containers, wait_for
from disks import disk
from release import NAMESPACE, TOKEN, Release, claim, install, of_kind, pod_template, released
from samples import SETTINGS, TRUTH, qcd
from service import holds, run, selection

from looseleaf.samples.generate import generate

pytestmark = pytest.mark.slow

FILES, EVENTS, INPUT = 4, 2000, "/input"
PLAIN: dict[str, Any] = {
    "workers": 2,
    "filesPerPod": 4,
    "transformer": {"inputs": [{"claim": "input", "mountPath": INPUT}]},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    needs_containers()
    with Cluster(tmp_path_factory.mktemp("cluster")) as it:
        install(it, [claim("input")])
        yield it


@pytest.fixture(scope="module")
def files(cluster: Cluster) -> list[str]:
    """NanoAOD files on a claim, as transformers see them."""
    folder = cluster.claim(NAMESPACE, "input")
    generate("q", {"q": qcd(EVENTS, FILES)}, SETTINGS, folder / "q/catalogue.json", TRUTH)
    return [f"{INPUT}/q/{path.name}" for path in sorted((folder / "q").glob("*.root"))]


@pytest.fixture(scope="module")
def release(cluster: Cluster, files: list[str]) -> Iterator[Release]:
    with released(cluster, PLAIN) as it:
        yield it


@pytest.fixture(autouse=True)
def nothing_is_left(release: Release) -> Iterator[None]:
    """After every test: no transformer, and nothing that one has left beside results."""
    yield
    wait_for(release.is_tidy, 20)


def here(cluster: Cluster, path: str) -> Path:
    """Where a file that transformers see stands on this machine."""
    return cluster.claim(NAMESPACE, "input") / Path(path).relative_to(INPUT)


def stands(release: Release, request: str, files: list[str]) -> None:
    """The request's folder holds the right result of every file, the manifest, and nothing else."""
    entries = release.entries(request)
    assert [entry["paths"] for entry in entries] == files
    for entry in entries:
        result = release.folder(request) / entry["result"]["output"]
        holds(result, str(here(release.cluster, entry["paths"])))
        assert stat.S_IMODE(result.stat().st_mode) == 0o644
    names = {entry["result"]["output"] for entry in entries}
    assert {path.name for path in release.folder(request).iterdir()} == {*names, "manifest.json"}


class Gate:
    """A python query that waits in its transformer until it is let through."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.path = cluster.claim(NAMESPACE, "input") / name
        source = f"""
def run_query(path):
    import os, time, uproot
    while not os.path.exists("{INPUT}/{name}"):
        time.sleep(0.02)
    return uproot.open(path)["Events"].arrays(["event"])
"""
        self.query = {
            "codegen": "python",
            "selection": base64.b64encode(source.encode()).decode(),
        }

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(cluster: Cluster, request: pytest.FixtureRequest) -> Gate:
    return Gate(cluster, re.sub(r"\W", "-", request.node.name))


def done(release: Release, request: str, count: int) -> list[int]:
    """The tries of a request's files, all of which have results."""
    status = release.finished(request)
    told = [entry["error"] for entry in release.entries(request)]
    assert (status.status, status.files_completed) == ("Complete", count), told
    return [entry["tries"] for entry in release.entries(request)]


def numbers(pods: list[Object]) -> list[list[int]]:
    """The numbers of the files that each pod was given."""
    return [json.loads(pod["metadata"]["annotations"]["servicex.looseleaf/files"]) for pod in pods]


# the story


def test_story_acceptance_a_request_for_the_volume_runs_and_its_files_stand_under_its_id(
    release: Release, files: list[str]
) -> None:
    request = release.submit(file_list=files, selection=selection())
    status = release.finished(request)
    said = [entry["error"] for entry in release.entries(request)]
    assert (status.status, status.files_completed) == ("Complete", FILES), said
    assert status.files_failed == 0
    stands(release, request, files)


def test_story_result_destination_volume(release: Release, files: list[str]) -> None:
    for output in ("root-rntuple", "parquet"):
        request = release.submit(
            file_list=files[:1],
            selection=selection(),
            result_destination="volume",
            result_format=output,
        )
        assert release.finished(request).result_destination == "volume"
        stands(release, request, files[:1])


def test_story_the_claim_is_mounted_in_every_transformer_pod(
    release: Release, files: list[str]
) -> None:
    request = release.submit(file_list=files, selection=selection())
    done(release, request, FILES)
    pods = release.made(request)
    # of what waits, each of two workers gets its half
    assert sorted(len(batch) for batch in numbers(pods)) == [1, 1, 2]
    for pod, batch in zip(pods, numbers(pods), strict=True):
        name = f"{request}-{batch[0]}-1"
        assert pod["metadata"]["name"] == f"servicex-{name}"
        assert pod["metadata"]["labels"]["servicex.looseleaf/request"] == request
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "results"]
        assert volume["persistentVolumeClaim"] == {"claimName": release.claim_name}
        (container,) = pod["spec"]["containers"]
        # of the volume it sees its request's folder and the one with its task
        assert [mount for mount in container["volumeMounts"] if mount["name"] == "results"] == [
            {"name": "results", "mountPath": f"/data/{folder}", "subPath": folder}
            for folder in (f"transforms/{request}", f"transforms/.work/{name}")
        ]


def test_story_results_stand_under_mount_subdir_and_request_id(
    cluster: Cluster, files: list[str]
) -> None:
    persistence = {"existingClaim": "group-space", "subdir": "cms/skims"}
    install(cluster, [claim("group-space")])
    values = {**PLAIN, "transformer": {**PLAIN["transformer"], "persistence": persistence}}
    with released(cluster, values, "elsewhere") as release:
        request = release.submit(file_list=files[:1], selection=selection())
        assert release.finished(request).files_completed == 1
        release.uninstall()
    folder = cluster.claim(NAMESPACE, "group-space") / "cms/skims" / request
    (result,) = folder.glob("*.root")
    holds(result, str(here(cluster, files[0])))
    assert {path.name for path in folder.iterdir()} == {result.name, "manifest.json"}


def test_two_requests_on_one_input_share_nothing(release: Release, files: list[str]) -> None:
    cuts = ("MET_pt > 10", "MET_pt <= 10")
    requests = [release.submit(file_list=files[:1], selection=selection(cut=cut)) for cut in cuts]
    counts = []
    for request in requests:
        done(release, request, 1)
        (path,) = release.folder(request).glob("*.root")
        counts.append(uproot.open(path)["Events"].num_entries)
    assert sum(counts) == EVENTS // FILES
    assert min(counts) > 0


# what transformers can see and do


def test_a_transformer_sees_neither_tokens_nor_other_requests(
    release: Release, files: list[str]
) -> None:
    source = f"""
def run_query(path):
    import os
    def tried(what, *given):
        try:
            return what(*given)
        except OSError as problem:
            return problem.strerror
    raise RuntimeError(repr({{
        "account": os.path.exists("{ACCOUNT}"),
        "volume": os.listdir("/data/transforms"),
        "state": tried(os.listdir, "/state"),
        "token": tried(os.listdir, "/token"),
        "root": tried(os.mkdir, "/new"),
        "input": tried(os.mkdir, "{INPUT}/new"),
        "user": os.getuid(),
        "gain": tried(os.setuid, 0),
        "environment": [k for k in open("/proc/1/environ").read().split("\\0") if "SERVICE" in k],
    }}))
"""
    query = base64.b64encode(source.encode()).decode()
    request = release.submit(file_list=files[:1], codegen="python", selection=query)
    release.finished(request)
    (entry,) = release.entries(request)
    told = ast.literal_eval(entry["error"].partition("RuntimeError: ")[2])
    assert sorted(told.pop("volume")) == sorted([".work", request])
    # a kubelet tells every container where Kubernetes is, and no more
    assert {text.partition("=")[0] for text in told.pop("environment")} == {
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
    }
    assert told == {
        "account": False,
        "state": "No such file or directory",
        "token": "No such file or directory",
        "root": "Read-only file system",
        "input": "Read-only file system",
        "user": 10001,
        "gain": "Operation not permitted",
    }
    assert TOKEN not in json.dumps(release.made(request))


def test_the_token_of_the_secret_is_asked_for(release: Release) -> None:
    stranger = type(release.adapter)(f"https://localhost:{release.port}", "another token")
    with pytest.raises(Exception, match=r"(?i)token|401|auth"):
        run(stranger.get_transforms())


# faults


def test_a_pod_that_is_killed_is_replaced(release: Release, files: list[str], gate: Gate) -> None:
    request = release.submit(file_list=files[:1], **gate.query)
    os.kill(release.cluster.process(release.running()), signal.SIGKILL)
    wait_for(lambda: len(release.made(request)) == 2)
    gate.open()
    assert done(release, request, 1) == [2]
    assert "ended: Error (exit 137)" in release.log()


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("OOMKilled", "", r"ended: OOMKilled \(exit 137\)"),
        ("Evicted", "The node was low on resource: memory.", "ended: Evicted: The node was low on"),
    ],
)
def test_a_pod_without_memory_is_replaced(
    release: Release, files: list[str], gate: Gate, reason: str, message: str, told: str
) -> None:
    request = release.submit(file_list=files[:1], **gate.query)
    release.cluster.fail(release.running(), reason, message)
    wait_for(lambda: len(release.made(request)) == 2)
    gate.open()
    assert done(release, request, 1) == [2]
    assert re.search(f"pod servicex-{request}-.* {told}", release.log())


def test_a_pod_that_is_deleted_is_replaced(release: Release, files: list[str], gate: Gate) -> None:
    request = release.submit(file_list=files[:1], **gate.query)
    release.cluster.delete("pods", NAMESPACE, release.running())
    wait_for(lambda: len(release.made(request)) == 2)
    gate.open()
    assert done(release, request, 1) == [2]
    assert "was deleted before it was done" in release.log()


def test_only_the_file_that_a_pod_was_at_is_charged(
    release: Release, files: list[str], gate: Gate
) -> None:
    # both workers are kept busy, so that four files wait and each worker takes two of them
    busy = release.submit(file_list=files[:2], **gate.query)
    wait_for(lambda: len(release.transformers()) == 2)
    second = Gate(release.cluster, "second")
    request = release.submit(file_list=files, **second.query)
    gate.open()
    done(release, busy, 2)
    wait_for(lambda: len(release.made(request)) == 2)
    os.kill(release.cluster.process(release.running()), signal.SIGKILL)
    wait_for(lambda: len(release.made(request)) == 3)
    second.open()
    assert sorted(done(release, request, FILES)) == [1, 1, 1, 2]


def test_the_api_may_be_away(release: Release, files: list[str], gate: Gate) -> None:
    request = release.submit(file_list=files[:1], **gate.query)
    release.running()
    release.cluster.away.set()
    wait_for(lambda: "Kubernetes can't be asked for pods" in release.log())
    # what is asked for meanwhile is made when the API is back
    other = release.submit(file_list=files[1:2], selection=selection())
    gate.open()
    wait_for(lambda: list(release.folder(request).glob("*.root")))
    release.cluster.away.clear()
    assert done(release, request, 1) == done(release, other, 1) == [1]
    assert len(release.made(request)) == len(release.made(other)) == 1


def test_a_watch_that_is_too_old_begins_again(
    release: Release, files: list[str], gate: Gate
) -> None:
    request = release.submit(file_list=files[:1], **gate.query)
    release.running()
    release.cluster.forget()
    gate.open()
    assert done(release, request, 1) == [1]


def test_a_service_that_is_killed_finds_its_pods(
    release: Release, files: list[str], gate: Gate
) -> None:
    request = release.submit(file_list=files, **gate.query)
    wait_for(lambda: len(release.transformers()) == 2)
    release.running()

    release.crash()
    release.wait()
    assert run(release.adapter.get_transform_status(request)).status == "Running"
    gate.open()
    # no file was begun twice
    assert done(release, request, FILES) == [1] * FILES
    given = [number for batch in numbers(release.made(request)) for number in batch]
    assert sorted(given) == sorted(set(given))


def test_what_pods_did_while_the_service_was_dead_counts(
    release: Release, files: list[str], gate: Gate
) -> None:
    request = release.submit(file_list=files[:2], **gate.query)
    wait_for(lambda: len(release.transformers()) == 2)
    release.running()
    release.crash()
    gate.open()
    wait_for(lambda: len(list(release.folder(request).glob("*.root"))) == 2)
    release.wait()
    assert done(release, request, 2) == [1, 1]
    assert len(release.made(request)) == 2


def test_canceling_and_deleting_end_the_pods(
    release: Release, files: list[str], gate: Gate
) -> None:
    request = release.submit(file_list=files, **gate.query)
    release.running()
    run(release.adapter.cancel_transform(request))
    assert run(release.adapter.get_transform_status(request)).status == "Canceled"
    assert not release.transformers()
    assert not list(release.folder(request).iterdir())
    run(release.adapter.delete_transform(request))
    assert not release.folder(request).exists()


def test_a_quota_is_waited_for(release: Release, files: list[str]) -> None:
    cluster = release.cluster
    cluster.quota = len([key for key in cluster.objects if key[0] == "pods"])
    asked = len(cluster.asked)
    request = release.submit(file_list=files[:1], selection=selection())
    wait_for(lambda: ("create", "pods") in [what[1:3] for what in cluster.asked[asked:]])
    other = release.submit(file_list=files[:1], selection=selection())
    run(release.adapter.cancel_transform(other))
    assert not release.made(request)
    cluster.quota = None
    assert done(release, request, 1) == [1]
    assert not release.made(other)


def test_a_pod_that_nobody_waits_for_is_deleted(release: Release) -> None:
    pod = pod_template(release.objects)
    pod["metadata"]["name"] = "servicex-left"
    pod["spec"]["terminationGracePeriodSeconds"] = 1
    pod["spec"]["containers"][0]["command"] = ["sleep", "600"]
    release.cluster.create("pods", NAMESPACE, pod)
    release.running()
    release.cluster.forget()
    wait_for(lambda: not release.transformers())


def test_a_right_that_is_taken_away_is_named(release: Release, files: list[str]) -> None:
    (role,) = of_kind(release.objects, "Role")
    name, rules = role["metadata"]["name"], role["rules"]
    less = [{**rules[0], "verbs": ["delete", "get", "list", "watch"]}, *rules[1:]]
    release.cluster.update("roles", NAMESPACE, name, rules=less)
    try:
        request = release.submit(file_list=files, selection=selection())
        assert release.finished(request).files_failed == FILES
    finally:
        release.cluster.update("roles", NAMESPACE, name, rules=rules)
    (error,) = {entry["error"] for entry in release.entries(request)}
    account = f"system:serviceaccount:{NAMESPACE}:skims-looseleaf-servicex"
    assert error.startswith("Kubernetes doesn't let the service create pods in namespace physics: ")
    assert f'User "{account}" cannot create resource "pods"' in error
    assert "the chart's Role gives this right (rbac.create" in error


# what keeps pods from starting


@pytest.fixture(scope="module")
def impatient(cluster: Cluster, files: list[str], release: Release) -> Iterator[Release]:
    with released(cluster, {**PLAIN, "pendingSeconds": 1, "tries": 1}, "impatient") as it:
        yield it
        it.uninstall()


def no_node(cluster: Cluster, release: Release) -> None:
    cluster.unschedulable = "1 Insufficient memory"


def no_image(cluster: Cluster, release: Release) -> None:
    cluster.missing_images.add("looseleaf-servicex:0.1.0")


def no_claim(cluster: Cluster, release: Release) -> None:
    del cluster.objects["persistentvolumeclaims", NAMESPACE, release.claim_name]


def no_mount(cluster: Cluster, release: Release) -> None:
    cluster.unmountable = "MountVolume.SetUp failed: mount.nfs: Connection timed out"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (no_mount, "FailedMount: MountVolume.SetUp failed: mount.nfs: Connection timed out"),
        (no_node, "Unschedulable: 0/1 nodes are available: 1 Insufficient memory."),
        (no_image, 'ImagePullBackOff: Back-off pulling image "looseleaf-servicex:0.1.0"'),
        (no_claim, 'persistentvolumeclaim "impatient-looseleaf-servicex-results" not found'),
    ],
)
def test_what_keeps_a_pod_from_starting_is_told(
    impatient: Release, files: list[str], fault: Callable[[Cluster, Release], None], reason: str
) -> None:
    cluster = impatient.cluster
    kept = dict(cluster.objects)
    fault(cluster, impatient)
    try:
        request = impatient.submit(file_list=files, selection=selection())
        assert impatient.finished(request).files_failed == FILES
    finally:
        cluster.unschedulable = cluster.unmountable = None
        cluster.missing_images.clear()
        key = ("persistentvolumeclaims", NAMESPACE, impatient.claim_name)
        cluster.objects[key] = kept[key]
    for entry in impatient.entries(request):
        assert "did not start within 1 s: " in entry["error"]
        assert reason in entry["error"]
    wait_for(impatient.is_tidy)


def test_a_service_without_rights_says_so(cluster: Cluster, release: Release) -> None:
    bare = Release(cluster, {"rbac": {"create": False}}, "bare")
    bare.install()
    wait_for(lambda: bare.service in cluster.containers)
    wait_for(lambda: "error: Kubernetes doesn't let the service get configmaps" in bare.log())
    assert "with rbac.create=false, bind it to the service account" in bare.log()
    bare.uninstall()


def test_a_volume_without_room_for_a_task_is_named(
    cluster: Cluster, release: Release, files: list[str]
) -> None:
    place = Release(cluster, PLAIN, "small").volume()
    with disk(place) as volume:
        place.chmod(0o777)
        with released(cluster, PLAIN, "small") as small:
            done(small, small.submit(file_list=files[:1], selection=selection()), 1)
            with volume.full():
                request = small.submit(file_list=files[1:3], selection=selection())
                assert small.finished(request).status == "Fatal"
                # no pod was asked to start without its task
                assert small.made(request) == []
                assert "No space left on device" in small.log()
            wait_for(small.is_tidy)
            done(small, small.submit(file_list=files[1:3], selection=selection()), 2)
            small.uninstall()


def test_uninstalling_ends_the_transformers(
    cluster: Cluster, release: Release, files: list[str], gate: Gate
) -> None:
    with released(cluster, PLAIN, "leaving") as leaving:
        leaving.submit(file_list=files, **gate.query)
        leaving.running()
        pods: list[Object] = leaving.transformers()
        leaving.uninstall()
        wait_for(lambda: not leaving.transformers())
    assert len(pods) > 0
    # the claims stay, with what stands on them
    assert ("persistentvolumeclaims", NAMESPACE, leaving.claim_name) in cluster.objects
