"""A Kubernetes of one machine, as far as a release of the chart needs one.

The API server speaks REST over TLS to bearer tokens: it evaluates the Roles and RoleBindings that
it holds, validates what it is given with the schemas of Kubernetes and the Pod Security Standard
"restricted", and answers refusals with Status objects. Lists carry resource versions and watches
go on from them. Behind it stand a scheduler that knows claims, a Deployment controller, garbage
collection by owner, and a kubelet that runs a container's command as a process: in a mount
namespace with a root of its own, in which is the checkout instead of an image and nothing else but
the container's mounts, as the user that the pod names, without capabilities.

It schedules nothing, limits no memory, and knows no network but this machine's.
"""

import base64
import copy
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler
from itertools import product
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from conftest import REPO
from grid import Authority, TlsServer

VERSION = "1.37.0"
Object = dict[str, Any]
Key = tuple[str, str, str]
# plural names by group, and what they are called in objects
KINDS = {
    "": {
        "namespaces": "Namespace",
        "pods": "Pod",
        "configmaps": "ConfigMap",
        "secrets": "Secret",
        "services": "Service",
        "serviceaccounts": "ServiceAccount",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "events": "Event",
    },
    "apps": {"deployments": "Deployment"},
    "networking.k8s.io": {"networkpolicies": "NetworkPolicy"},
    "rbac.authorization.k8s.io": {"roles": "Role", "rolebindings": "RoleBinding"},
    "authorization.k8s.io": {"selfsubjectaccessreviews": "SelfSubjectAccessReview"},
}
PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[a-z0-9.]+))/v1(?:/namespaces/(?P<namespace>[a-z0-9-]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[a-z0-9.-]+))?$"
)
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ENDED = ("Succeeded", "Failed")


class Refusal(Exception):
    """A request that is answered by a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }


def invalid(kind: str, name: str, why: str) -> Refusal:
    return Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {why}')


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def _validator() -> Any:
    import kubernetes_validate  # noqa: PLC0415 - half a second

    return kubernetes_validate


def check_schema(value: Object) -> None:
    """`Refusal` unless Kubernetes' schema, taken strictly, allows an object."""
    validator = _validator()
    try:
        validator.validate(value, VERSION, strict=True)
    except validator.ValidationError as problem:
        name = (value.get("metadata") or {}).get("name", "")
        where = ".".join(map(str, problem.path))
        raise invalid(str(value.get("kind")), name, f"{where}: {problem.message}") from None


def check_pod(pod: Object) -> None:
    """What the API server finds wrong with a pod beyond its schema, and "restricted" forbids."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes") or []]
    for container in spec["containers"]:
        mounts = container.get("volumeMounts") or []
        paths = [mount["mountPath"] for mount in mounts]
        if len(set(paths)) < len(paths):
            raise invalid("Pod", name, f"spec.containers[0].volumeMounts: Duplicate: {paths}")
        for mount in mounts:
            if mount["name"] not in volumes:
                raise invalid("Pod", name, f'volumeMounts: Not found: "{mount["name"]}"')
            sub = mount.get("subPath", "")
            if sub.startswith("/") or ".." in sub.split("/"):
                raise invalid("Pod", name, f'volumeMounts.subPath: Invalid value: "{sub}"')
    for container in spec["containers"]:
        both = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        right = {
            "allowPrivilegeEscalation != false": both.get("allowPrivilegeEscalation") is False,
            "unrestricted capabilities": both.get("capabilities") == {"drop": ["ALL"]},
            "runAsNonRoot != true": both.get("runAsNonRoot") is True,
            "runAsUser=0": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile") == {"type": "RuntimeDefault"},
        }
        wrong = ", ".join(what for what, fine in right.items() if not fine)
        if wrong:
            text = f'pods "{name}" is forbidden: violates PodSecurity "restricted:latest": {wrong}'
            raise Refusal(403, "Forbidden", text)


class Cluster:
    """The machine; `folder` holds what stands on its claims."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self.lock = threading.Condition(threading.RLock())
        self.objects: dict[Key, Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.version, self.oldest = 1, 0
        self.admin = secrets.token_hex(16)
        self.users = {self.admin: "admin"}
        # what was asked for, by whom; and what is to go wrong
        self.asked: list[tuple[str, str, str, str]] = []
        self.made: list[Object] = []
        self.away = threading.Event()
        self.quota: int | None = None
        self.unschedulable: str | None = None
        self.unmountable: str | None = None
        self.missing_images: set[str] = set()
        self.hold = threading.Event()
        self.containers: dict[str, Container] = {}
        self.server = TlsServer(self._handler(), self.authority, token="bearer")
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def ca(self) -> Path:
        return self.authority.folder / "ca.pem"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        with self.lock:
            running = list(self.containers.values())
            self.objects.clear()
        for container in running:
            container.end(0)
        self.server.shutdown()
        self.server.server_close()

    # objects

    def claim(self, namespace: str, name: str) -> Path:
        """Where a claim's content stands on this machine."""
        return self.folder / "claims" / namespace / name

    def record(self, kind: str, resource: str, value: Object) -> None:
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind, resource, copy.deepcopy(value)))
        self.lock.notify_all()

    def forget(self) -> None:
        """Lose the history, as an API server does after a while: watches from before are Gone."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self.history.clear()
            self.lock.notify_all()

    def create(self, resource: str, namespace: str, value: Object, user: str = "admin") -> Object:
        kind = value.get("kind", "")
        check_schema(value)
        metadata = value["metadata"]
        if metadata.get("namespace", namespace) != namespace:
            raise Refusal(400, "BadRequest", "the object's namespace is not the request's")
        name = metadata.get("name", "")
        if not DNS_1123.fullmatch(name) or len(name) > 253:
            raise invalid(kind, name, f'metadata.name: Invalid value: "{name}": RFC 1123')
        for label, text in (metadata.get("labels") or {}).items():
            if not LABEL.fullmatch(text) or len(text) > 63:
                raise invalid(kind, name, f'metadata.labels: Invalid value: "{text}" of {label}')
        with self.lock:
            if (resource, namespace, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{resource} "{name}" already exists')
            value = copy.deepcopy(value)
            value["metadata"] |= {
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now(),
            }
            self._admit(resource, value, user)
            self.objects[resource, namespace, name] = value
            self.record("ADDED", resource, value)
            made = copy.deepcopy(value)
            if resource == "pods":
                self.made.append(made)
            owners = {owner["uid"] for owner in value["metadata"].get("ownerReferences") or []}
            there = {other["metadata"]["uid"] for other in self.objects.values()}
        if owners and not owners & there:
            # what is made for an owner that has gone is collected too
            self.delete(resource, namespace, name)
            return made
        self._react(resource, namespace, name)
        return made

    def apply(
        self, resource: str, namespace: str, name: str, value: Object, user: str
    ) -> tuple[int, Object]:
        """Server-side apply by the one who owns all of an object."""
        with self.lock:
            if (resource, namespace, name) not in self.objects:
                return 201, self.create(resource, namespace, value, user)
            check_schema(value)
            metadata = {**self.get(resource, namespace, name)["metadata"], **value["metadata"]}
            self.update(resource, namespace, name, **{**value, "metadata": metadata})
            return 200, self.get(resource, namespace, name)

    def _admit(self, resource: str, value: Object, user: str) -> None:
        if resource == "pods":
            check_pod(value)
            pods = [key for key in self.objects if key[0] == "pods"]
            if self.quota is not None and len(pods) >= self.quota:
                name = value["metadata"]["name"]
                raise Refusal(
                    403,
                    "Forbidden",
                    f'pods "{name}" is forbidden: exceeded quota: small, requested: pods=1, '
                    f"used: pods={len(pods)}, limited: pods={self.quota}",
                )
            value["status"] = {"phase": "Pending"}
        elif resource == "roles":
            self._check_escalation(value, user)
        elif resource == "persistentvolumeclaims":
            place = self.claim(value["metadata"]["namespace"], value["metadata"]["name"])
            place.mkdir(parents=True, exist_ok=True)
            value["status"] = {"phase": "Bound", "accessModes": value["spec"]["accessModes"]}

    def _check_escalation(self, role: Object, user: str) -> None:
        """Nobody gives a right that he hasn't."""
        namespace, name = role["metadata"]["namespace"], role["metadata"]["name"]
        for rule in role["rules"]:
            for group, resource, verb, of in product(
                rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""])
            ):
                if not self.allowed(user, verb, group, resource, namespace, of):
                    raise Refusal(
                        403,
                        "Forbidden",
                        f'roles "{name}" is forbidden: user "{user}" is attempting to grant RBAC '
                        f"permissions not currently held: {verb} {resource}",
                    )

    def get(self, resource: str, namespace: str, name: str) -> Object:
        with self.lock:
            found = self.objects.get((resource, namespace, name))
            if found is None:
                raise Refusal(404, "NotFound", f'{resource} "{name}" not found')
            return copy.deepcopy(found)

    def list(self, resource: str, namespace: str, selector: str = "") -> list[Object]:
        with self.lock:
            return [
                copy.deepcopy(value)
                for (kind, where, _), value in self.objects.items()
                if kind == resource and where in (namespace, "") and matches(value, selector)
            ]

    def update(self, resource: str, namespace: str, name: str, **parts: Any) -> None:
        """Change parts of an object, as a controller does."""
        with self.lock:
            found = self.objects.get((resource, namespace, name))
            if found is not None:
                found.update(copy.deepcopy(parts))
                self.record("MODIFIED", resource, found)

    def delete(self, resource: str, namespace: str, name: str) -> Object:
        with self.lock:
            found = self.get(resource, namespace, name)
            container = self.containers.get(name) if resource == "pods" else None
            if container is None or found["status"]["phase"] in ENDED:
                self._remove(resource, namespace, name)
                return found
            grace = found["spec"].get("terminationGracePeriodSeconds", 30)
            metadata = {**found["metadata"], "deletionTimestamp": now()}
            self.update(resource, namespace, name, metadata=metadata)

        def end() -> None:
            container.end(grace)
            self._remove(resource, namespace, name)

        threading.Thread(target=end, daemon=True).start()
        return self.get(resource, namespace, name)

    def _remove(self, resource: str, namespace: str, name: str) -> None:
        with self.lock:
            gone = self.objects.pop((resource, namespace, name), None)
            if gone is None:
                return
            self.record("DELETED", resource, gone)
            owned = [
                key
                for key, value in self.objects.items()
                for owner in value["metadata"].get("ownerReferences") or []
                if owner["uid"] == gone["metadata"]["uid"]
            ]
        for key in owned:
            with suppress(Refusal):
                self.delete(*key)

    # controllers

    def _react(self, resource: str, namespace: str, name: str) -> None:
        if resource == "deployments":
            deployment = self.get(resource, namespace, name)
            template = copy.deepcopy(deployment["spec"]["template"])
            template["metadata"] |= {
                "name": f"{name}-{secrets.token_hex(3)}",
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "name": name,
                        "uid": deployment["metadata"]["uid"],
                    }
                ],
            }
            self.create("pods", namespace, {"apiVersion": "v1", "kind": "Pod", **template})
        elif resource == "pods":
            threading.Thread(target=self._schedule, args=(namespace, name), daemon=True).start()

    def _schedule(self, namespace: str, name: str) -> None:
        """What scheduler and kubelet do until a pod's container runs."""
        while self.hold.is_set():
            time.sleep(0.02)
        with suppress(Refusal):
            pod = self.get("pods", namespace, name)
            why = self.unschedulable
            for volume in pod["spec"].get("volumes") or []:
                claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
                if claim and ("persistentvolumeclaims", namespace, claim) not in self.objects:
                    why = f'persistentvolumeclaim "{claim}" not found'
            if why is not None:
                condition = {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": f"0/1 nodes are available: {why}.",
                }
                self.update(
                    "pods", namespace, name, status={"phase": "Pending", "conditions": [condition]}
                )
                return
            if self.unmountable is not None:
                waiting = {"reason": "ContainerCreating"}
                self.update("pods", namespace, name, status=status_of(pod, waiting=waiting))
                event = {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"name": f"{name}.1", "namespace": namespace},
                    "involvedObject": {"kind": "Pod", "name": name, "namespace": namespace},
                    "type": "Warning",
                    "reason": "FailedMount",
                    "message": self.unmountable,
                }
                self.create("events", namespace, event)
                return
            image = pod["spec"]["containers"][0]["image"]
            if image in self.missing_images:
                waiting = {
                    "reason": "ImagePullBackOff",
                    "message": f'Back-off pulling image "{image}"',
                }
                self.update("pods", namespace, name, status=status_of(pod, waiting=waiting))
                return
            with self.lock:
                self.containers[name] = Container(self, pod)

    def process(self, name: str) -> int:
        """The process of a pod's container, once it runs."""
        return self.containers[name].pid

    def fail(self, name: str, reason: str, message: str) -> None:
        """Let a pod fail as a kubelet does that evicts it, or as the kernel does that has no memory
        left."""
        self.containers[name].fate = (reason, message)
        self.containers[name].end(0)

    # the API

    def allowed(self, user: str, verb: str, group: str, resource: str, ns: str, name: str) -> bool:
        """Whether a Role that is bound to the user lets it."""
        if user == "admin":
            return True
        for binding in self.list("rolebindings", ns):
            bound = {
                f"system:serviceaccount:{subject.get('namespace', ns)}:{subject['name']}"
                if subject["kind"] == "ServiceAccount"
                else subject["name"]
                for subject in binding["subjects"]
            }
            if user not in bound:
                continue
            for rule in self.get("roles", ns, binding["roleRef"]["name"])["rules"]:
                if (
                    group in rule["apiGroups"]
                    and resource in rule["resources"]
                    and verb in rule["verbs"]
                    and ("resourceNames" not in rule or name in rule["resourceNames"])
                ):
                    return True
        return False

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cluster = self

        class Handler(Api):
            pass

        Handler.cluster = cluster
        return Handler


def validated(group: str) -> Object:
    """As much of a group's OpenAPI as says that the server checks the fields of what is applied."""
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": {
            f"/{plural}/{{name}}": {
                "patch": {
                    "parameters": [{"name": "fieldValidation", "in": "query"}],
                    "responses": {},
                    "x-kubernetes-group-version-kind": {
                        "group": group,
                        "version": "v1",
                        "kind": kind,
                    },
                }
            }
            for plural, kind in KINDS[group].items()
        },
    }


def matches(value: Object, selector: str) -> bool:
    labels = value["metadata"].get("labels") or {}
    return all(
        labels.get(name) == text
        for name, _, text in (part.partition("=") for part in selector.split(",") if part)
    )


class Api(BaseHTTPRequestHandler):
    """One connection to the API server."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *words: object) -> None:
        pass

    def _answer(self, code: int, value: Object) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.cluster.away.is_set():
            # as a server that is gone: no answer, and the connection ends
            self.close_connection = True
            return
        try:
            self._carry_out(body)
        except Refusal as problem:
            self._answer(problem.code, problem.status())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _handle  # noqa: N815

    def _user(self) -> str:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or token not in self.cluster.users:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        return self.cluster.users[token]

    def _discover(self, path: str) -> Object | None:
        """What the server tells of itself, which Helm asks for first."""
        groups = [
            {"name": group, "versions": [version], "preferredVersion": version}
            for group in KINDS
            if group
            for version in [{"groupVersion": f"{group}/v1", "version": "v1"}]
        ]
        match path.strip("/").split("/"):
            case ["version"]:
                return {"major": "1", "minor": "37", "gitVersion": f"v{VERSION}"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
            case ["openapi", "v3"]:
                names = ["api/v1", *(f"apis/{group}/v1" for group in KINDS if group)]
                return {"paths": {n: {"serverRelativeURL": f"/openapi/v3/{n}"} for n in names}}
            case ["openapi", "v3", "api", "v1"]:
                return validated("")
            case ["openapi", "v3", "apis", group, "v1"] if group in KINDS:
                return validated(group)
            case ["api", "v1"]:
                group = ""
            case ["apis", group, "v1"] if group in KINDS:
                pass
            case _:
                return None
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/v1".lstrip("/"),
            "resources": [
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "namespaced": plural != "namespaces",
                    "kind": kind,
                    "verbs": ["create", "delete", "get", "list", "patch", "watch"],
                }
                for plural, kind in KINDS[group].items()
            ],
        }

    def _carry_out(self, body: bytes) -> None:
        cluster, address = self.cluster, urlsplit(self.path)
        user = self._user()
        known = self._discover(address.path) if self.command == "GET" else None
        if known is not None:
            self._answer(200, known)
            return
        found = PATH.match(address.path)
        group = (found["group"] or "") if found else ""
        if found is None or found["resource"] not in KINDS.get(group, {}):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        resource, name = found["resource"], found["name"] or ""
        namespace = found["namespace"] or ""
        watching = query.get("watch") in ("true", "1", "True")
        verb = {
            "GET": "get" if name else "watch" if watching else "list",
            "POST": "create",
            "DELETE": "delete",
            "PATCH": "patch",
            "PUT": "update",
        }[self.command]
        if resource == "selfsubjectaccessreviews":
            self._review(user, json.loads(body))
            return
        cluster.asked.append((user, verb, resource, name))
        if not cluster.allowed(user, verb, group, resource, namespace, name):
            raise Refusal(
                403,
                "Forbidden",
                f'{resource}{f" {name!r}" if name else ""} is forbidden: User "{user}" cannot '
                f'{verb} resource "{resource}" in API group "{group}" in the namespace '
                f'"{namespace}"',
            )
        selector = query.get("labelSelector", "")
        match verb:
            case "create":
                self._answer(201, cluster.create(resource, namespace, json.loads(body), user))
            case "get":
                self._answer(200, cluster.get(resource, namespace, name))
            case "delete":
                self._answer(200, cluster.delete(resource, namespace, name))
            case "list":
                with cluster.lock:
                    items, version = cluster.list(resource, namespace, selector), cluster.version
                items = [v for v in items if fields(v, query.get("fieldSelector", ""))]
                kind = f"{KINDS[group][resource]}List"
                metadata = {"resourceVersion": str(version)}
                api = f"{group}/v1".lstrip("/")
                value = {"kind": kind, "apiVersion": api, "metadata": metadata, "items": items}
                self._answer(200, value)
            case "patch" if "apply-patch" in self.headers["Content-Type"]:
                self._answer(*cluster.apply(resource, namespace, name, yaml.safe_load(body), user))
            case "watch":
                self._watch(resource, namespace, selector, query)
            case _:
                raise Refusal(405, "MethodNotAllowed", f"{verb} is not supported here")

    def _review(self, user: str, value: Object) -> None:
        asked = value["spec"]["resourceAttributes"]
        allowed = self.cluster.allowed(
            user,
            asked["verb"],
            asked.get("group", ""),
            asked["resource"],
            asked["namespace"],
            asked.get("name", ""),
        )
        whole = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        self._answer(201, {**whole, **value, "status": {"allowed": allowed}})

    def _watch(self, of: str, namespace: str, selector: str, query: Mapping[str, str]) -> None:
        cluster, seen = self.cluster, int(query.get("resourceVersion") or 0)
        until = time.monotonic() + float(query.get("timeoutSeconds", 60))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            with cluster.lock:
                gone = seen < cluster.oldest
                news = [change for change in cluster.history if change[0] > seen]
                if not news and not gone:
                    cluster.lock.wait(0.1)
            if gone:
                text = f"too old resource version: {seen} ({cluster.oldest})"
                status = Refusal(410, "Expired", text).status()
                self._chunk({"type": "ERROR", "object": status})
            for version, kind, resource, value in news:
                seen = version
                if (resource, value["metadata"].get("namespace")) == (of, namespace) and matches(
                    value, selector
                ):
                    self._chunk({"type": kind, "object": value})
            if gone or time.monotonic() > until or cluster.away.is_set():
                break
        if cluster.away.is_set():
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, value: Object) -> None:
        data = json.dumps(value).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def fields(value: Object, selector: str) -> bool:
    """Whether an event is of the object and type that a field selector names."""
    for part in filter(None, selector.split(",")):
        path, _, wanted = part.partition("=")
        found: Any = value
        for key in path.split("."):
            found = (found or {}).get(key)
        if found != wanted:
            return False
    return True


def status_of(pod: Object, **state: Any) -> Object:
    """A pod's status with its one container waiting, running or terminated."""
    container = pod["spec"]["containers"][0]
    (kind,) = state
    told = {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": kind == "running",
        "started": kind == "running",
        "restartCount": 0,
        "state": state,
    }
    phase = {"waiting": "Pending", "running": "Running"}.get(kind)
    if phase is None:
        phase = "Succeeded" if state["terminated"]["exitCode"] == 0 else "Failed"
    scheduled = {"type": "PodScheduled", "status": "True"}
    return {"phase": phase, "conditions": [scheduled], "containerStatuses": [told]}


# $1 the new root, $2 user, $3 group, $4 rw or ro, $5 a file of mounts, $6 the log; then the command
SANDBOX = r"""
set -e
root=$1 user=$2 group=$3 mode=$4 mounts=$5; exec >>"$6" 2>&1; shift 6
mount -t tmpfs -o mode=755 tmpfs "$root"
while IFS='|' read -r source target how; do
    if [ -d "$source" ]; then mkdir -p "$root$target"; else
        mkdir -p "$(dirname "$root$target")"; touch "$root$target"; fi
    mount --bind "$source" "$root$target"
    [ "$how" = rw ] || mount -o remount,bind,ro "$root$target"
done <"$mounts"
for link in /bin /sbin /lib /lib64; do [ ! -L $link ] || cp -P $link "$root"; done
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,$mode "$root"
exec /usr/sbin/chroot "$root" /usr/bin/setpriv --reuid="$user" --regid="$group" --clear-groups \
    --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def needs_containers() -> None:
    """Skip a test where processes can't be given a root of their own."""
    probe = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "x", "/mnt"]
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("the stand-in's containers take root and unshare")
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")


class Container:
    """What a kubelet does for a pod: its mounts, its process, its status."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        self.cluster, self.pod = cluster, pod
        self.name, self.namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.folder = cluster.folder / "pods" / f"{self.name}-{pod['metadata']['uid'][:4]}"
        self.folder.mkdir(parents=True)
        self.log = self.folder / "log"
        self.log.touch()
        self.fate: tuple[str, str] | None = None
        self.ending = False
        self.process = self._run()
        threading.Thread(target=self._follow, daemon=True).start()

    @property
    def pid(self) -> int:
        """The container's first process, with which all others end."""
        outer = self.process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children")
        return int(wait_for(lambda: children.read_text().split())[0])

    def _sources(self) -> dict[str, Path]:
        """Where the pod's volumes stand on this machine."""
        spec, found = self.pod["spec"], {}
        user, group = spec["securityContext"]["runAsUser"], spec["securityContext"]["fsGroup"]
        for volume in spec.get("volumes") or []:
            place = self.folder / "volumes" / volume["name"]
            match volume:
                case {"persistentVolumeClaim": {"claimName": claim}}:
                    place = self.cluster.claim(self.namespace, claim)
                    if not volume["persistentVolumeClaim"].get("readOnly"):
                        os.chown(place, 0, group)
                        place.chmod(0o2775)
                case {"configMap": {"name": name}}:
                    data = self.cluster.get("configmaps", self.namespace, name)["data"]
                    _files(place, {key: text.encode() for key, text in data.items()}, group)
                case {"secret": {"secretName": name}}:
                    data = self.cluster.get("secrets", self.namespace, name)["data"]
                    decoded = {key: base64.b64decode(text) for key, text in data.items()}
                    _files(place, decoded, group)
                case _:
                    place.mkdir(parents=True, exist_ok=True)
                    os.chown(place, user, group)
            found[volume["name"]] = place
        return found

    def _mounts(self) -> list[tuple[Path, str, str]]:
        image = [Path("/usr"), Path("/etc"), REPO, Path(sys.prefix), Path(sys.base_prefix)]
        mounts = [(path, str(path), "ro") for path in image]
        sources = self._sources()
        for mount in self.pod["spec"]["containers"][0].get("volumeMounts") or []:
            source = sources[mount["name"]] / mount.get("subPath", "")
            how = "ro" if mount.get("readOnly") else "rw"
            mounts.append((source, mount["mountPath"], how))
        if self.pod["spec"].get("automountServiceAccountToken", True):
            mounts.append((self._account(), ACCOUNT, "ro"))
        # what is mounted at /tmp must not hide a checkout below it
        return sorted(mounts, key=lambda mount: len(Path(mount[1]).parts))

    def _account(self) -> Path:
        account = self.pod["spec"].get("serviceAccountName", "default")
        self.cluster.get("serviceaccounts", self.namespace, account)
        token = secrets.token_hex(16)
        self.cluster.users[token] = f"system:serviceaccount:{self.namespace}:{account}"
        folder = self.folder / "account"
        content = {
            "token": token,
            "namespace": self.namespace,
            "ca.crt": self.cluster.ca.read_text(),
        }
        _files(folder, {key: text.encode() for key, text in content.items()}, 0, 0o444)
        return folder

    def _run(self) -> "subprocess.Popen[bytes]":
        container = self.pod["spec"]["containers"][0]
        security = {**self.pod["spec"]["securityContext"], **container["securityContext"]}
        root, mounts = self.folder / "root", self.folder / "mounts"
        root.mkdir(exist_ok=True)
        lines = [f"{source}|{target}|{how}\n" for source, target, how in self._mounts()]
        mounts.write_text("".join(lines))
        address = urlsplit(self.cluster.url)
        environment = {
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
            **{each["name"]: each["value"] for each in container.get("env") or []},
        }
        mode = "ro" if security.get("readOnlyRootFilesystem") else "rw"
        command = [
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", SANDBOX, "sandbox"),
            *map(str, (root, security["runAsUser"], security["runAsGroup"], mode)),
            *map(str, (mounts, self.log)),
            *container["command"],
            *(container.get("args") or []),
        ]
        with open(self.folder / "unshare", "wb") as told:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )
        running = {"startedAt": now()}
        self._tell(status_of(self.pod, running=running))
        return process

    def _tell(self, status: Object) -> None:
        self.cluster.update("pods", self.namespace, self.name, status=status)

    def _follow(self) -> None:
        """Wait for the process, and tell how it ended, or start it again."""
        while True:
            code = self.process.wait()
            if (self.folder / "unshare").read_text():
                # it can't pass on that its child was killed
                code = 128 + signal.SIGKILL
            if self.ending:
                return
            if self.fate is None and self.pod["spec"].get("restartPolicy", "Always") == "Always":
                # a back-off, of a kind
                time.sleep(0.2)
                self.process = self._run()
                continue
            reason = "Completed" if code == 0 else "Error"
            end = {"exitCode": code if code >= 0 else 128 - code, "reason": reason}
            if code:
                end["message"] = self.log.read_text(errors="replace")[-2048:]
            status = status_of(self.pod, terminated=end)
            if self.fate is not None and self.fate[0] == "OOMKilled":
                end["reason"] = "OOMKilled"
            elif self.fate is not None:
                status |= dict(zip(("reason", "message"), self.fate, strict=True))
            self._tell(status)
            return

    def end(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        self.ending = self.fate is None
        with suppress(OSError, AssertionError):
            if grace > 0:
                os.kill(self.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(grace)
            if self.process.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
        self.process.wait()


def _files(folder: Path, content: Mapping[str, bytes], group: int, mode: int = 0o440) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, data in content.items():
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        os.chown(path, 0, group)
        path.chmod(mode)


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """What a question is answered with, once that is something."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.05)
    return found
