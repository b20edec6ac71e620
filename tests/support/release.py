"""A release of the chart on the stand-in, asked by ServiceX's own client."""

import base64
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, Object, wait_for
from conftest import REPO
from kubernetes import client, utils
from service import Asked
from servicex.servicex_adapter import ServiceXAdapter

from looseleaf.files import read_json

CHART = REPO / "charts/looseleaf-servicex"
NAMESPACE, NAME, TOKEN = "physics", "skims", "a token of the physicists"
LARGE = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "4Gi"}}


def rendered(
    values: Mapping[str, Any], name: str = NAME, namespace: str = NAMESPACE
) -> list[Object]:
    """The chart's objects, rendered by Helm."""
    helm = pytest.importorskip("helm_python", reason="there is no Helm for this system on PyPI")
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        texts = chart.render(dict(values), name=name, namespace=namespace)
    objects = [
        value
        for path, text in texts.items()
        if path.endswith(".yaml")
        for value in yaml.safe_load_all(text)
        if value
    ]
    order = ["ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Role", "RoleBinding"]
    place = {kind: number for number, kind in enumerate(order)}
    return sorted(objects, key=lambda value: place.get(value["kind"], len(order)))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [value for value in objects if value["kind"] == kind]


def pod_template(objects: list[Object]) -> Object:
    (config,) = of_kind(objects, "ConfigMap")
    return yaml.safe_load(config["data"]["pod.yaml"])


def deep(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over each other, as Helm does it."""
    out: dict[str, Any] = {}
    for value in values:
        for key, part in value.items():
            both = isinstance(part, Mapping) and isinstance(out.get(key), Mapping)
            out[key] = deep(out[key], part) if both else part
    return out


def connected(cluster: Cluster, token: str) -> client.ApiClient:
    """Kubernetes' own client, as somebody."""
    configuration = client.Configuration()
    configuration.host, configuration.ssl_ca_cert = cluster.url, str(cluster.ca)
    configuration.api_key["BearerToken"] = f"Bearer {token}"
    return client.ApiClient(configuration)


def install(cluster: Cluster, objects: list[Object], token: str | None = None) -> None:
    """Apply objects with Kubernetes' own client, as the administrator or somebody else."""
    with connected(cluster, token or cluster.admin) as api:
        for value in objects:
            utils.create_from_dict(api, value, namespace=NAMESPACE)


def secret(name: str, kind: str, content: Mapping[str, bytes]) -> Object:
    data = {key: base64.b64encode(text).decode() for key, text in content.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": data}


def claim(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Release(Asked):
    """The service of a release, which clients trust by the cluster's authority (SSL_CERT_FILE)."""

    def __init__(self, cluster: Cluster, values: Mapping[str, Any], name: str = NAME) -> None:
        self.cluster, self.port, self.name = cluster, free_port(), name
        plain = {
            "tls": {"existingSecret": "certificate"},
            "token": {"existingSecret": "token"},
            "service": {"containerPort": self.port},
            "transformer": {"resources": LARGE},
        }
        self.objects = rendered(deep(plain, values), name)
        (self.config,) = of_kind(self.objects, "ConfigMap")
        self.claim_name = pod_template(self.objects)["spec"]["volumes"][0]["persistentVolumeClaim"][
            "claimName"
        ]

    def install(self) -> None:
        authority = self.cluster.authority.folder
        pair = {
            "tls.crt": (authority / "host.pem").read_bytes(),
            "tls.key": (authority / "host.key").read_bytes(),
        }
        secrets = [
            secret("certificate", "kubernetes.io/tls", pair),
            secret("token", "Opaque", {"token": TOKEN.encode()}),
        ]
        there = {name for kind, _, name in self.cluster.objects if kind == "secrets"}
        secrets = [value for value in secrets if value["metadata"]["name"] not in there]
        install(self.cluster, [*secrets, *self.objects])

    def wait(self) -> None:
        """Until the service answers."""
        try:
            wait_for(self._answers)
        except AssertionError:
            raise AssertionError(self.log()) from None

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def adapter(self) -> ServiceXAdapter:
        return ServiceXAdapter(f"https://localhost:{self.port}", TOKEN)

    def pods(self, component: str) -> list[Object]:
        """The release's pods that there are."""
        labels = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        return self.cluster.list("pods", NAMESPACE, labels)

    @property
    def service(self) -> str:
        """The name of the service's pod."""
        (pod,) = self.pods("service")
        return pod["metadata"]["name"]

    def log(self) -> str:
        """What the service has said, through all its starts."""
        return self.cluster.containers[self.service].log.read_text()

    def crash(self) -> None:
        """kill -9 of the service, which its kubelet starts again."""
        container = self.cluster.containers[self.service]
        killed = container.process
        os.kill(container.pid, signal.SIGKILL)
        wait_for(lambda: container.process is not killed)

    def transformers(self) -> list[Object]:
        return self.pods("transformer")

    def made(self, request: str) -> list[Object]:
        """Every pod that was made for a request, as it was asked for."""
        return [pod for pod in self.cluster.made if request in pod["metadata"]["name"]]

    def running(self) -> str:
        """The name of a transformer pod that runs, once there is one."""

        def found() -> str | None:
            for pod in self.transformers():
                if pod["status"]["phase"] == "Running":
                    return pod["metadata"]["name"]
            return None

        return wait_for(found)

    def volume(self) -> Path:
        return self.cluster.claim(NAMESPACE, self.claim_name)

    def folder(self, request: str, subdir: str = "transforms") -> Path:
        return self.volume() / subdir / request

    def entries(self, request: str) -> list[dict[str, Any]]:
        """The files of a finished request, from its manifest."""
        return read_json(self.folder(request) / "manifest.json")["files"]

    def is_tidy(self) -> bool:
        """Whether no transformer pod is left, nor anything that one has left beside results."""
        work = self.volume() / "transforms/.work"
        return not self.transformers() and not (work.is_dir() and list(work.iterdir()))

    def uninstall(self) -> None:
        """Delete what Helm would."""
        for kind, plural in (("Deployment", "deployments"), ("ConfigMap", "configmaps")):
            for value in of_kind(self.objects, kind):
                self.cluster.delete(plural, NAMESPACE, value["metadata"]["name"])


@contextmanager
def released(cluster: Cluster, values: Mapping[str, Any], name: str = NAME) -> Iterator[Release]:
    """A release that answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(cluster.ca))
        release = Release(cluster, values, name)
        release.install()
        release.wait()
        yield release
