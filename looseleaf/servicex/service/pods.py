"""Transformer pods: files of a service carried out on Kubernetes, on the volume that both mount.

A pod is made from the operator's template, for a batch of files of one request. On the volume it
sees that request's folder and one of its own, with its task and the outcome of each file. It needs
no connection to the service, no token, and none of the service's secrets. Its outcomes are read as
untrusted input.

A pod's name follows from its batch. So a request for a pod can be repeated if its answer is lost,
and a service that was killed finds its pods.
"""

import copy
import json
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from pydantic import TypeAdapter, ValidationError
from urllib3.exceptions import HTTPError

from looseleaf.errors import ConfigError, DataFileError, LooseleafError, RemoteReadFailed
from looseleaf.retries import Retries
from looseleaf.servicex.request import request_folder
from looseleaf.servicex.service.transformer import MODULE, code, give, outcome_of
from looseleaf.servicex.service.workers import Batch, Job, WorkerDied
from looseleaf.servicex.transform import FileResult

CONTAINER, RESULTS, WORK = "transformer", "results", ".work"
COMMAND = ["python", "-m", MODULE]
REQUEST, FILES, OWNER = (f"servicex.looseleaf/{name}" for name in ("request", "files", "owner"))
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# seconds: for a pod to end by itself; between two looks at files; for which a network file system
# may hide a file; for which the API may be away; for one answer of the API; until the log says that
# a pod waits; until a pod is given up that its node doesn't end
GRACE, POLL, VISIBLE, PATIENCE, ANSWER, SAY, GONE = 1, 0.5, 60.0, 300.0, 30.0, 30.0, 60.0
# larger than the outcome of a file with all luminosity sections of a year
LONGEST_OUTCOME = 64 << 20
# the rights that the service needs, checked when it starts
RIGHTS = [(verb, "pods") for verb in ("create", "delete", "get", "list", "watch")]
RIGHTS += [("list", "events")]


@dataclass(frozen=True)
class Outcome:
    """A pod's report on a file: its result, or the error and whether another try may work."""

    result: FileResult | None = None
    error: str | None = None
    transient: bool = False


OUTCOME = TypeAdapter(Outcome)


class NotAllowed(LooseleafError):
    """Kubernetes refuses a request of the service, and would refuse it again."""


class NotStarted(WorkerDied):
    """A pod waits for something that doesn't come."""


@dataclass(frozen=True)
class PodSettings:
    """How pods are made and run.

    `template` is a Pod in YAML with a container `transformer` and a volume `results`, the claim
    that the service has mounted as its volume. `workers` pods run at a time, each with up to `most`
    files; a pod that hasn't started after `pending` seconds is given up.
    """

    template: Path
    workers: int
    most: int
    pending: float


class Pods:
    """The transformer pods of a service; raises `ConfigError` for an unsuitable template or
    rights."""

    def __init__(self, settings: PodSettings, volume: Path, subdir: str) -> None:
        self.most, self.pending = settings.most, settings.pending
        self.volume, self.closing = volume, threading.Event()
        self._work = request_folder(volume, subdir, WORK)
        self._template = read_template(settings.template)
        # once, before there are threads: CPython 3.11 can't parse in several at a time
        self._code = code()
        self._namespace = _connect(self._template)
        api = client.ApiClient()
        self._core = client.CoreV1Api(api)
        self._plain: Callable[[Any], Any] = api.sanitize_for_serialization
        self._owners = self._owner()
        self._check_rights(client.AuthorizationV1Api(api))
        labels = self._template["metadata"]["labels"]
        self._selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        self._changed = threading.Condition()
        self._pods: dict[str, dict[str, Any]] = {}
        self._kept: set[str] = set()
        self._killed: set[str] = set()
        self.workers = [PodWorker(self) for _ in range(settings.workers)]

    # calls of the engine

    def standing(self) -> Mapping[str, Sequence[int]]:
        listed = self._ask("list", "pods", self._list)["items"]
        self._pods = {pod["metadata"]["name"]: pod for pod in listed}
        batches = {}
        for pod in listed:
            name = pod["metadata"]["name"]
            numbers = (pod["metadata"].get("annotations") or {}).get(FILES)
            if numbers is not None and "deletionTimestamp" not in pod["metadata"]:
                batches[name.removeprefix("servicex-")] = json.loads(numbers)
        self._kept = set(map(pod_name, batches))
        if self._work.is_dir():
            for folder in self._work.iterdir():
                if folder.name not in batches:
                    shutil.rmtree(folder, ignore_errors=True)
        threading.Thread(target=self._follow, daemon=True).start()
        return batches

    def drop(self, batch: str) -> None:
        self.end(batch)

    # calls of a worker for its pod

    def work(self, batch: str) -> Path:
        return self._work / batch

    def begin(self, batch: Batch, seconds: float) -> None:
        """Make sure that a batch's pod exists."""
        name = pod_name(batch.name)
        with self._changed:
            if name in self._kept:
                return
            self._kept.add(name)
        work = self.work(batch.name)
        work.mkdir(parents=True, exist_ok=True)
        batch.folder.mkdir(parents=True, exist_ok=True)
        digest = give(work, batch.jobs)
        # the client takes a dict as well as its own V1Pod
        body: Any = self._pod(batch, seconds, digest)
        until = time.monotonic() + self.pending
        while True:
            try:
                self._ask(
                    "create",
                    "pods",
                    lambda: self._core.create_namespaced_pod(
                        self._namespace, body, _request_timeout=ANSWER
                    ),
                )
            except ApiException as problem:
                # the answer to the first request was lost
                if problem.status == 409:
                    return
                if not _over_quota(problem):
                    raise NotAllowed(f"Kubernetes refuses the pod: {_message(problem)}") from None
                if time.monotonic() > until:
                    raise NotStarted(f"no pod for it: {_message(problem)}") from None
                # no quota, or `kill` was called
                with self._changed:
                    self._changed.wait_for(lambda: batch.name in self._killed, timeout=5)
                    if batch.name in self._killed:
                        raise WorkerDied("canceled") from None
            else:
                return

    def end(self, batch: str) -> None:
        """Delete a batch's pod and its files, except results; returns when it is gone."""
        name = pod_name(batch)
        with suppress(LooseleafError):
            self._delete(name)
            with self._changed:
                self._changed.wait_for(lambda: name not in self._pods, timeout=GONE)
        with self._changed:
            # a pod that can't be deleted now is deleted when the API is back
            self._kept.discard(name)
            self._killed.discard(batch)
        shutil.rmtree(self.work(batch), ignore_errors=True)

    def kill(self, batch: str) -> None:
        with self._changed:
            self._killed.add(batch)
            self._changed.notify_all()

    def look(self, batch: str) -> dict[str, Any] | None:
        """A batch's pod as last seen, after a moment or a change; `WorkerDied` if it was killed."""
        with self._changed:
            self._changed.wait(POLL)
            if batch in self._killed:
                raise WorkerDied("canceled")
            pod = self._pods.get(pod_name(batch))
        # the list may be older than the pod
        return pod or self._get(pod_name(batch))

    def why_waiting(self, pod: Mapping[str, Any]) -> str:
        """Why a pod doesn't start, as far as Kubernetes tells."""
        status = pod.get("status") or {}
        for container in status.get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{waiting['reason']}: {waiting.get('message', '')}"
        for condition in status.get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason')}: {condition.get('message', '')}"
        name = pod["metadata"]["name"]
        with suppress(LooseleafError, ApiException):
            events = self._ask(
                "list",
                "events",
                lambda: self._core.list_namespaced_event(
                    self._namespace,
                    field_selector=f"involvedObject.name={name},type=Warning",
                    _request_timeout=ANSWER,
                ),
            )["items"]
            if events:
                return f"{events[-1].get('reason')}: {events[-1].get('message', '')}"
        return "Kubernetes gives no reason"

    # Kubernetes

    def _pod(self, batch: Batch, seconds: float, digest: str) -> dict[str, Any]:
        pod, work = copy.deepcopy(self._template), self.work(batch.name)
        metadata, spec = pod["metadata"], pod["spec"]
        metadata |= {"name": pod_name(batch.name), "ownerReferences": self._owners}
        metadata["labels"][REQUEST] = batch.request
        metadata["annotations"][FILES] = json.dumps([job.number for job in batch.jobs])
        spec |= {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE,
            "activeDeadlineSeconds": _seconds_of(batch, seconds),
        }
        container = _container(pod)
        arguments = [str(work), f"{seconds:g}", self._code, digest]
        container |= {"command": COMMAND, "args": arguments}
        container["terminationMessagePolicy"] = "FallbackToLogsOnError"
        mounts = [
            {
                "name": RESULTS,
                "mountPath": str(folder),
                "subPath": str(folder.relative_to(self.volume)),
            }
            for folder in (batch.folder, work)
        ]
        container["volumeMounts"] = [*(container.get("volumeMounts") or []), *mounts]
        return pod

    def _list(self) -> Any:
        return self._core.list_namespaced_pod(
            self._namespace, label_selector=self._selector, _request_timeout=ANSWER
        )

    def _get(self, name: str) -> dict[str, Any] | None:
        try:
            pod: dict[str, Any] = self._ask(
                "get",
                "pods",
                lambda: self._core.read_namespaced_pod(
                    name, self._namespace, _request_timeout=ANSWER
                ),
            )
            return pod
        except ApiException as problem:
            if problem.status == 404:
                return None
            raise NotAllowed(f"pod {name}: {_message(problem)}") from None

    def _delete(self, name: str) -> None:
        with suppress(ApiException):
            self._ask(
                "delete",
                "pods",
                lambda: self._core.delete_namespaced_pod(
                    name, self._namespace, _request_timeout=ANSWER
                ),
            )

    def _follow(self) -> None:
        """Watch the pods, and delete those that nobody waits for."""
        pause = POLL
        while not self.closing.is_set():
            try:
                listed = self._plain(self._list())
                pause = POLL
                with self._changed:
                    self._pods = {pod["metadata"]["name"]: pod for pod in listed["items"]}
                    left = set(self._pods) - self._kept
                    self._changed.notify_all()
                for name in left:
                    self._delete(name)
                self._watch(listed["metadata"]["resourceVersion"])
            except Exception as problem:
                # the watch is too old to continue, so list again at once
                if not (isinstance(problem, ApiException) and problem.status == 410):
                    say(f"Kubernetes can't be asked for pods: {_message(problem)}")
                    self.closing.wait(pause)
                    pause = min(2 * pause, ANSWER)

    def _watch(self, version: str) -> None:
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            self._namespace,
            label_selector=self._selector,
            resource_version=version,
            timeout_seconds=60,
            _request_timeout=(ANSWER, 90),
        )
        for event in events:
            pod = event["raw_object"]
            with self._changed:
                if event["type"] == "DELETED":
                    self._pods.pop(pod["metadata"]["name"], None)
                elif event["type"] in ("ADDED", "MODIFIED"):
                    self._pods[pod["metadata"]["name"]] = pod
                self._changed.notify_all()
            if self.closing.is_set():
                return

    def _ask(self, verb: str, resource: str, call: Callable[[], Any]) -> Any:
        """The answer of Kubernetes as plain JSON, tried again while it is away.

        Raises `NotAllowed` for a missing right, `WorkerDied` if it stays away, and `ApiException`
        for other refusals.
        """
        try:
            retries = Retries(Exception, _away, seconds=PATIENCE, pause=0.2, longest=10)
            return retries.call(lambda: self._plain(call()), sleep=self.closing.wait)
        except ApiException as problem:
            if problem.status in (401, 403) and not _over_quota(problem):
                raise NotAllowed(self._right(verb, resource, _message(problem))) from None
            if not _away(problem):
                raise
            raise WorkerDied(f"the Kubernetes API fails: {_message(problem)}") from None
        except (HTTPError, OSError) as problem:
            raise WorkerDied(f"the Kubernetes API can't be reached: {problem}") from None

    def _right(self, verb: str, resource: str, message: str) -> str:
        if "cannot" not in message and "denied" not in message:
            return f"Kubernetes refuses to {verb} {resource}: {message}"
        return (
            f"Kubernetes doesn't let the service {verb} {resource} in namespace "
            f"{self._namespace}: {message}; the chart's Role gives this right (rbac.create; with "
            "rbac.create=false, bind it to the service account serviceAccount.name yourself)"
        )

    def _owner(self) -> list[dict[str, Any]]:
        """The config map that owns the pods, so that none remains after the release."""
        name = self._template["metadata"]["annotations"].pop(OWNER, None)
        if name is None:
            return []
        try:
            owner = self._ask(
                "get",
                f"configmaps/{name}",
                lambda: self._core.read_namespaced_config_map(
                    name, self._namespace, _request_timeout=ANSWER
                ),
            )
        except (ApiException, LooseleafError) as problem:
            raise ConfigError(_message(problem)) from None
        uid = owner["metadata"]["uid"]
        return [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}]

    def _check_rights(self, api: Any) -> None:
        for verb, resource in RIGHTS:
            right = {"verb": verb, "resource": resource, "namespace": self._namespace}
            review_of = partial(
                api.create_self_subject_access_review,
                {"spec": {"resourceAttributes": right}},
                _request_timeout=ANSWER,
            )
            try:
                review = self._ask("create", "selfsubjectaccessreviews", review_of)
            except (NotAllowed, ApiException):
                # the cluster doesn't tell; a missing right shows later
                return
            if not review["status"]["allowed"]:
                raise ConfigError(self._right(verb, resource, "access is denied"))


class PodWorker:
    """One pod after another."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    def carry_out(
        self, batch: Batch, seconds: float
    ) -> Iterator[tuple[int, FileResult | Exception]]:
        left = {job.number: job for job in batch.jobs}
        try:
            self._pods.begin(batch, seconds)
            for number, outcome in self._outcomes(batch, left, seconds):
                del left[number]
                yield number, outcome
        except NotStarted as problem:
            # the reason that stops one pod from starting also stops the next
            yield from ((number, WorkerDied(str(problem))) for number in left)
        except WorkerDied as problem:
            say(str(problem))
            yield next(iter(left)), problem
        except (LooseleafError, OSError) as problem:
            # the volume has no room for the task, or is closed
            yield from ((number, problem) for number in left)
        finally:
            if not self._pods.closing.is_set():
                self._pods.end(batch.name)

    def kill(self, batch: str) -> None:
        self._pods.kill(batch)

    def close(self) -> None:
        self._pods.closing.set()

    def _outcomes(
        self, batch: Batch, left: Mapping[int, Job], seconds: float
    ) -> Iterator[tuple[int, FileResult | Exception]]:
        """The outcomes of the pod, as they come; `WorkerDied` if it ends before all exist."""
        name, begun = pod_name(batch.name), time.monotonic()
        look = begun + SAY
        started = ended = None
        while left and not self._pods.closing.is_set():
            pod = self._pods.look(batch.name)
            yield from list(self._outcomes_left(batch, left))
            moment, phase = time.monotonic(), _phase(pod)
            if pod is not None and phase == "Pending":
                if moment > look:
                    reason = self._pods.why_waiting(pod)
                    say(f"pod {name} waits: {reason}")
                    look = moment + SAY
                if moment - begun > self._pods.pending:
                    reason = self._pods.why_waiting(pod)
                    raise NotStarted(
                        f"pod {name} did not start within {self._pods.pending:g} s: {reason}"
                    )
            elif phase == "Running":
                started = started or moment
                if moment - started > _seconds_of(batch, seconds) + self._pods.pending:
                    raise WorkerDied(f"pod {name} did not end within its time; is its node lost?")
            elif left:
                ended = ended or moment
                # a failed pod has written all that it will; otherwise a file may be late
                if phase != "Succeeded" or moment - ended > VISIBLE:
                    raise WorkerDied(f"pod {name} {_fate(pod)}")

    def _outcomes_left(
        self, batch: Batch, left: Mapping[int, Job]
    ) -> Iterator[tuple[int, FileResult | Exception]]:
        work = self._pods.work(batch.name)
        try:
            left_by_pod = set(os.listdir(work))
        except OSError:
            return
        for number, job in list(left.items()):
            path = outcome_of(work, number)
            if path.name in left_by_pod:
                outcome = read_outcome(path, batch.folder / Path(job.task.output).name)
                if outcome is not None:
                    yield number, outcome


def say(text: str) -> None:
    """Print a line to the service's log."""
    print(text, file=sys.stderr, flush=True)


def pod_name(batch: str) -> str:
    """A name of at most 63 lower-case characters: a UUID and two numbers."""
    return f"servicex-{batch}"


def read_outcome(path: Path, output: Path) -> FileResult | Exception | None:
    """A pod's outcome for a file; None while its result can't be seen."""
    bad = DataFileError(f"{output.name}: the pod left no account of it that can be read")
    try:
        # a link would make us read files that the pod can't
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > LONGEST_OUTCOME:
                return bad
            outcome = OUTCOME.validate_json(file.read())
    except (OSError, ValidationError):
        return bad
    if outcome.result is None:
        error = outcome.error or "the pod says nothing of it"
        return RemoteReadFailed(error) if outcome.transient else DataFileError(error)
    try:
        about = output.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(about.st_mode) or outcome.result.output != output.name:
        return bad
    return outcome.result if about.st_size == outcome.result.bytes else None


def read_template(path: Path) -> dict[str, Any]:
    """The operator's pod; `ConfigError` if it can't be used for transformers."""
    try:
        pod = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise ConfigError(f"{path}: {problem}") from None
    if not isinstance(pod, dict) or pod.get("kind") != "Pod":
        raise ConfigError(f"{path}: should be a Pod in YAML")
    metadata = pod.setdefault("metadata", {})
    if not metadata.get("labels"):
        raise ConfigError(f"{path}: metadata.labels: the service knows its pods by their labels")
    metadata["annotations"] = metadata.get("annotations") or {}
    spec = pod.get("spec") or {}
    if CONTAINER not in [container.get("name") for container in spec.get("containers") or []]:
        raise ConfigError(f"{path}: spec.containers: there is none called {CONTAINER}")
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or []}
    if "persistentVolumeClaim" not in volumes.get(RESULTS, {}):
        raise ConfigError(
            f"{path}: spec.volumes: the claim {RESULTS!r} is missing, so results would be lost"
        )
    return pod


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    return next(c for c in pod["spec"]["containers"] if c["name"] == CONTAINER)


def _connect(template: Mapping[str, Any]) -> str:
    """Configure the client, from inside the cluster or by kubeconfig; returns the namespace."""
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config()
            namespace = NAMESPACE_FILE.read_text().strip()
        else:
            config.load_kube_config()
            _, active = config.list_kube_config_contexts()
            namespace = active["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as problem:
        raise ConfigError(f"Kubernetes: {problem}") from None
    return str(template["metadata"].get("namespace", namespace))


def _seconds_of(batch: Batch, seconds: float) -> int:
    """The time limit of a batch, including its start."""
    return int(seconds * len(batch.jobs)) + 120


def _away(problem: BaseException) -> bool:
    if isinstance(problem, ApiException):
        return problem.status in (0, 429, 500, 502, 503, 504)
    return isinstance(problem, (HTTPError, OSError))


def _over_quota(problem: ApiException) -> bool:
    return problem.status == 403 and "exceeded quota" in _message(problem)


def _message(problem: Exception) -> str:
    """The message in Kubernetes' Status."""
    if isinstance(problem, ApiException):
        with suppress(ValueError, TypeError, KeyError):
            return str(json.loads(problem.body or "")["message"])
        return f"{problem.status} {problem.reason}"
    return str(problem) or type(problem).__name__


def _phase(pod: Mapping[str, Any] | None) -> str:
    if pod is None:
        return "Deleted"
    return (pod.get("status") or {}).get("phase") or "Pending"


def _fate(pod: Mapping[str, Any] | None) -> str:
    """How a pod ended, in a few words."""
    if pod is None:
        return "was deleted before it was done"
    status = pod["status"]
    if status.get("reason"):
        return f"ended: {status['reason']}: {status.get('message', '')}"
    for container in status.get("containerStatuses") or []:
        end = (container.get("state") or {}).get("terminated")
        if end and (end.get("exitCode") or end.get("reason") != "Completed"):
            last = (end.get("message") or "").strip().splitlines()[-1:]
            return ": ".join([f"ended: {end.get('reason')} (exit {end.get('exitCode')})", *last])
    return "ended without saying what became of the file"
