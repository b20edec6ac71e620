"""The chart as Helm renders it: its values, its claims, its rights; pods as the service reads them.

Whether Kubernetes would take what comes out is held against its schemas, strictly.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, Object, check_pod, check_schema
from kubernetes.utils import FailToCreateError
from planted import Planted
from release import CHART, NAMESPACE, deep, install, of_kind, pod_template, rendered

from looseleaf.errors import ConfigError, DataFileError, RemoteReadFailed
from looseleaf.servicex.service.pods import read_outcome, read_template
from looseleaf.servicex.service.transformer import JOBS, MODULE, code, give
from looseleaf.servicex.transform import FileResult

TLS: dict[str, Any] = {"tls": {"existingSecret": "certificate"}}
EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example/servicex", "pullSecrets": [{"name": "pull"}]},
    "transformer": {
        "persistence": {
            "storageClass": "cephfs",
            "size": "2Ti",
            "annotations": {"backup": "no"},
            "subdir": "cms/skims",
        },
        "inputs": [{"claim": "store", "mountPath": "/store", "subPath": "cms"}],
        "labels": {"group": "top"},
        "annotations": {"team": "fake rates"},
        "env": [{"name": "X509_USER_PROXY", "value": "/proxy/x509"}],
        "extraVolumes": [{"name": "proxy", "secret": {"secretName": "proxy"}}],
        "extraVolumeMounts": [{"name": "proxy", "mountPath": "/proxy", "readOnly": True}],
        "nodeSelector": {"kind": "batch"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "low",
    },
    "token": {"existingSecret": "token"},
    "state": {"storageClass": "-", "size": "2Gi"},
    "service": {"type": "LoadBalancer", "annotations": {"dns": "servicex.example"}},
    "nodeSelector": {"kind": "service"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
# files and folders of this machine that a pod can't see
SECRET = "/etc/passwd"


def persistence(**values: Any) -> dict[str, Any]:
    return deep(TLS, {"transformer": {"persistence": values}})


def claims(objects: list[Object]) -> dict[str, Object]:
    found = of_kind(objects, "PersistentVolumeClaim")
    return {value["metadata"]["name"]: value for value in found}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(Exception, match=r".") as problem:
        rendered(values)
    assert type(problem.value).__name__ in ("HelmValuesError", "HelmRenderError")
    return str(problem.value)


# the story


def test_story_persistence_values_are_all_there() -> None:
    values = persistence(
        storageClass="cephfs", size="2Ti", annotations={"backup": "no"}, subdir="cms/skims"
    )
    objects = rendered(values)
    results = claims(objects)["skims-looseleaf-servicex-results"]
    assert results["spec"]["storageClassName"] == "cephfs"
    assert results["spec"]["resources"] == {"requests": {"storage": "2Ti"}}
    assert results["metadata"]["annotations"]["backup"] == "no"
    (deployment,) = of_kind(objects, "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--subdir=cms/skims" in arguments

    objects = rendered(persistence(existingClaim="group-space"))
    assert list(claims(objects)) == ["skims-looseleaf-servicex-state"]
    (deployment,) = of_kind(objects, "Deployment")
    for spec in (deployment["spec"]["template"]["spec"], pod_template(objects)["spec"]):
        (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "results"]
        assert volume["persistentVolumeClaim"] == {"claimName": "group-space"}


def test_story_no_claim_given_makes_a_read_write_many_claim_for_the_release() -> None:
    for name in ("one", "other"):
        results = claims(rendered(TLS, name))[f"{name}-looseleaf-servicex-results"]
        assert results["spec"] == {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "100Gi"}},
        }
        # results outlive the release
        assert results["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        spec = pod_template(rendered(TLS, name))["spec"]
        assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == (
            f"{name}-looseleaf-servicex-results"
        )
    none = claims(rendered(persistence(storageClass="-")))["skims-looseleaf-servicex-results"]
    assert none["spec"]["storageClassName"] == ""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An API server on which nothing is started."""
    with Cluster(tmp_path) as it:
        it.hold.set()
        yield it
        it.objects.clear()
        it.hold.clear()


def test_story_a_right_to_create_claims_is_needed_only_where_none_is_given(
    cluster: Cluster,
) -> None:
    given = {"state": {"existingClaim": "state"}, "serviceAccount": {"name": "servicex"}}
    with_claim = rendered(deep(persistence(existingClaim="group-space"), given), "with")
    kinds = {
        "": ["serviceaccounts", "configmaps", "services"],
        "apps": ["deployments"],
        "rbac.authorization.k8s.io": ["roles", "rolebindings"],
        "networking.k8s.io": ["networkpolicies"],
    }
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "installer", "namespace": NAMESPACE},
        "rules": [
            {"apiGroups": [group], "resources": plurals, "verbs": ["create"]}
            for group, plurals in kinds.items()
        ]
        # nobody can give rights that he hasn't
        + of_kind(with_claim, "Role")[0]["rules"],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "installer", "namespace": NAMESPACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "installer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}],
    }
    install(cluster, [role, binding])
    cluster.users["somebody's token"] = "somebody"
    install(cluster, with_claim, "somebody's token")
    without = rendered(deep(TLS, given), "without")
    with pytest.raises(FailToCreateError, match=r"cannot create resource .*claims"):
        install(cluster, of_kind(without, "PersistentVolumeClaim"), "somebody's token")
    # the service itself never may
    account = f"system:serviceaccount:{NAMESPACE}:servicex"
    install(cluster, of_kind(without, "Role") + of_kind(without, "RoleBinding"))
    for verb in ("create", "delete", "patch", "update"):
        assert not cluster.allowed(account, verb, "", "persistentvolumeclaims", NAMESPACE, "")


def test_the_service_has_no_right_that_it_does_not_need() -> None:
    objects = rendered(TLS)
    (role,) = of_kind(objects, "Role")
    rights = {
        (resource, verb, tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    pods = {("pods", verb, ()) for verb in ("create", "delete", "get", "list", "watch")}
    own = ("skims-looseleaf-servicex",)
    assert rights == {*pods, ("events", "list", ()), ("configmaps", "get", own)}
    assert not of_kind(objects, "ClusterRole")
    (binding,) = of_kind(objects, "RoleBinding")
    (account,) = of_kind(objects, "ServiceAccount")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": NAMESPACE}
    ]
    assert account["automountServiceAccountToken"] is False
    assert not of_kind(rendered({**TLS, "rbac": {"create": False}}), "Role")


# values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (persistence(subdir="/etc"), "at '/transformer/persistence/subdir': '/etc' does not match"),
        (persistence(subdir="../x"), "persistence/subdir': '../x'"),
        (persistence(subdir="a/../../x"), "persistence/subdir': 'a/../../x'"),
        (persistence(subdir="a//b"), "persistence/subdir': 'a//b'"),
        (persistence(subdir=".work"), "persistence/subdir': '.work'"),
        (persistence(subdir="a" * 201), "persistence/subdir': maxLength"),
        (persistence(existingClaim="Group_Space"), "persistence/existingClaim': 'Group_Space'"),
        (persistence(size="much"), "at '/transformer/persistence/size': 'much'"),
        (persistence(size=100), "at '/transformer/persistence/size': got number, want string"),
        (persistence(annotations={"a": 1}), "annotations/a': got number, want string"),
        (persistence(claim="x"), "persistence': additional properties 'claim' not allowed"),
        (deep(TLS, {"workers": 0}), "at '/workers': minimum: got 0, want 1"),
        (deep(TLS, {"user": 0}), "at '/user': minimum: got 0, want 1"),
        (deep(TLS, {"tokens": {}}), "additional properties 'tokens' not allowed"),
        (deep(TLS, {"service": {"type": "ExternalName"}}), "at '/service/type'"),
        ({}, "tls.existingSecret: name a secret of type kubernetes.io/tls"),
        (deep(TLS, {"serviceAccount": {"create": False}}), "serviceAccount.name: name the account"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


@pytest.mark.parametrize("values", [TLS, deep(TLS, EVERYTHING)])
def test_kubernetes_takes_every_object(values: dict[str, Any], tmp_path: Path) -> None:
    objects = rendered(values)
    pod = pod_template(objects)
    check_schema(pod)
    check_pod(deep(pod, {"metadata": {"name": "x"}}))
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    done = subprocess.run(
        [Path(sys.executable).parent / "kubernetes-validate", "--strict", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == len(objects)


def test_helm_finds_nothing_to_complain_of() -> None:
    helm = pytest.importorskip("helm_python", reason="there is no Helm for this system on PyPI")
    told = helm.lint(CHART, TLS, strict=True)
    assert told["errors"] == []
    assert {message["error"] for message in told["messages"]} == {"icon is recommended"}


def test_operators_values_reach_the_transformers() -> None:
    pod = pod_template(rendered(deep(TLS, EVERYTHING)))
    spec, asked = pod["spec"], EVERYTHING["transformer"]
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert spec[key] == asked[key]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    (container,) = spec["containers"]
    assert container["image"] == "registry.example/servicex:0.1.0"
    assert asked["env"][0] in container["env"]
    assert asked["extraVolumes"][0] in spec["volumes"]
    assert asked["extraVolumeMounts"][0] in container["volumeMounts"]
    store = {"name": "input-0", "mountPath": "/store", "subPath": "cms", "readOnly": True}
    assert store in container["volumeMounts"]
    assert pod["metadata"]["labels"]["group"] == "top"
    assert pod["metadata"]["annotations"]["team"] == "fake rates"
    assert container["resources"]["limits"] == {"memory": "4Gi"}


def checksum(values: dict[str, Any]) -> str:
    (deployment,) = of_kind(rendered(values), "Deployment")
    return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]


def test_a_changed_config_map_starts_the_service_again() -> None:
    more = deep(TLS, {"transformer": {"resources": {"limits": {"memory": "8Gi"}}}})
    assert checksum(TLS) == checksum(deep(TLS, {"service": {"port": 8443}}))
    assert checksum(TLS) != checksum(more)


def test_pods_of_a_release_are_known_by_what_no_upgrade_changes() -> None:
    labels = pod_template(rendered(TLS))["metadata"]["labels"]
    assert labels == {
        "app.kubernetes.io/name": "looseleaf-servicex",
        "app.kubernetes.io/instance": "skims",
        "app.kubernetes.io/component": "transformer",
    }
    (policy,) = of_kind(rendered(TLS), "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert policy["spec"]["ingress"] == []


def test_the_image_is_of_the_user_that_the_chart_names(repo: Path) -> None:
    text = (repo / "charts/Dockerfile").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert f"USER {values['user']}\n" in text
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'__version__ = "{chart["appVersion"]}"' in (repo / "looseleaf/__init__.py").read_text()


def test_helm_installs_upgrades_and_uninstalls(cluster: Cluster) -> None:
    helm = pytest.importorskip("helm_python", reason="there is no Helm for this system on PyPI")
    name, key = "skims-looseleaf-servicex", "checksum/config"

    def annotations() -> dict[str, str]:
        deployment = cluster.get("deployments", NAMESPACE, name)
        return deployment["spec"]["template"]["metadata"]["annotations"]

    with helm.Config(
        namespace=NAMESPACE,
        kube_apiserver=cluster.url,
        kube_token=cluster.admin,
        kube_ca_file=cluster.ca,
        storage_driver="memory",
    ) as api:
        made = api.install(str(CHART), "skims", TLS, timeout=60)
        assert made["status"] == "deployed"
        assert annotations()[key] == checksum(TLS)
        more = deep(TLS, {"transformer": {"resources": {"limits": {"memory": "8Gi"}}}})
        assert api.upgrade(str(CHART), "skims", more, timeout=60)["revision"] == 2
        assert annotations()[key] == checksum(more) != checksum(TLS)
        api.uninstall("skims")
    # results and what is known of them stay
    left = {(resource, of) for resource, _, of in cluster.objects}
    assert left == {("persistentvolumeclaims", f"{name}-{what}") for what in ("results", "state")}


# what the service reads


def test_templates_that_are_no_transformers_are_refused(tmp_path: Path) -> None:
    good = pod_template(rendered(TLS))
    path = tmp_path / "pod.yaml"

    def told(change: Any) -> str:
        pod = copy.deepcopy(good)
        change(pod)
        path.write_text(yaml.safe_dump(pod))
        with pytest.raises(ConfigError) as problem:
            read_template(path)
        return str(problem.value)

    assert "should be a Pod in YAML" in told(lambda pod: pod.update(kind="Job"))
    assert "metadata.labels" in told(lambda pod: pod["metadata"].update(labels={}))
    assert "none called transformer" in told(lambda pod: pod["spec"].update(containers=[]))
    empty = [{"name": "results", "emptyDir": {}}]
    assert "results would be lost" in told(lambda pod: pod["spec"].update(volumes=empty))
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"pod\.yaml"):
        read_template(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_template(tmp_path / "none.yaml")


@pytest.fixture
def account(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Where a pod says what became of a file, its result, and what it says."""
    output = tmp_path / "result.root"
    output.write_bytes(b"12345")
    result = {
        "source": "a",
        "source_url": "/a",
        "passed_over": [],
        "source_uuid": "u",
        "output": output.name,
        "bytes": 5,
        "adler32": "00000000",
        "uuid": "u",
        "events_in": 2,
        "events_out": 1,
        "sum_of_weights_in": 2.0,
        "sum_of_weights_out": 1.0,
        "eft_sums_in": None,
        "theory_sums_in": {},
        "lumi_sections": {"1": [[1, 2]]},
        "normalised_by": "Events",
        "held": {"events": 2, "sum_of_weights": 2.0},
        "not_finite": {},
        "missing": {},
        "bare": False,
        "cost": {"events": 2, "bytes_read": 9, "wall_s": 1, "cpu_s": 1, "peak_rss_bytes": 9},
    }
    return tmp_path / "1.json", output, result


def test_what_a_pod_says_is_read(account: tuple[Path, Path, dict[str, Any]]) -> None:
    path, output, result = account
    path.write_text(json.dumps({"result": result}))
    assert read_outcome(path, output) == FileResult(**result)
    path.write_text(json.dumps({"error": "no such branch", "transient": False}))
    told = read_outcome(path, output)
    assert (type(told), str(told)) == (DataFileError, "no such branch")
    path.write_text(json.dumps({"error": "timed out", "transient": True}))
    assert isinstance(read_outcome(path, output), RemoteReadFailed)
    # on a network file system the result may be seen later
    path.write_text(json.dumps({"result": {**result, "bytes": 6}}))
    assert read_outcome(path, output) is None


@pytest.mark.parametrize("trick", ["link", "pipe", "garbage", "types", "name", "result a link"])
def test_what_a_pod_says_is_not_believed(
    account: tuple[Path, Path, dict[str, Any]], trick: str
) -> None:
    path, output, result = account
    told = json.dumps({"result": result})
    match trick:
        case "link":
            elsewhere = path.with_name("elsewhere")
            elsewhere.write_text(told)
            path.symlink_to(elsewhere)
        case "pipe":
            os.mkfifo(path)
        case "garbage":
            path.write_text("{")
        case "types":
            path.write_text(json.dumps({"result": {**result, "events_in": "many"}}))
        case "name":
            path.write_text(json.dumps({"result": {**result, "output": "../other.root"}}))
        case "result a link":
            path.write_text(told)
            output.unlink()
            output.symlink_to(SECRET)
    problem = read_outcome(path, output)
    assert type(problem) is DataFileError
    assert str(problem) == "result.root: the pod left no account of it that can be read"


def test_an_image_with_other_code_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(tmp_path), "10", "0123456789ab", "0" * 64],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the service 0123456789ab: give both the same image (image.tag)" in done.stderr


def test_what_somebody_else_wrote_for_a_pod_is_not_executed(tmp_path: Path) -> None:
    """On a volume that is open to others: the pod's arguments say what the service wrote."""
    digest = give(tmp_path, [])
    bomb = pickle.dumps(Planted(tmp_path / "hacked"))
    for content, status in (((tmp_path / JOBS).read_bytes(), 0), (bomb, 1)):
        (tmp_path / JOBS).write_bytes(content)
        command = [sys.executable, "-m", MODULE, str(tmp_path), "10", code(), digest]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
    assert "jobs.pickle isn't what the service wrote: who else may write there?" in done.stderr
    assert not (tmp_path / "hacked").exists()
    # what the test would miss if the file itself did nothing
    pickle.loads(bomb)
    assert (tmp_path / "hacked").exists()
