"""What runs in a transformer pod: a batch of files, carried out as on the service's own machine.

    python -m looseleaf.servicex.service.transformer FOLDER SECONDS CODE DIGEST

The files and what is to be done with each stand in the folder, which the service has written, and
what became of each is left there. Others may be able to write to the volume: what is read there is
executed only if its sha256 is DIGEST, which came with the pod. No way leads from here to the
service or to Kubernetes. The libraries are loaded by the worker process alone.
"""

import hashlib
import pickle
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from looseleaf.codehash import code_hash
from looseleaf.files import whole, write_json
from looseleaf.servicex.service.workers import Job, Worker, reason_of, transient

MODULE, JOBS = "looseleaf.servicex.service.transformer", "jobs.pickle"


def code() -> str:
    """What a service and its transformers have to have in common."""
    return code_hash(MODULE, "looseleaf.servicex.service.engine")


def give(folder: Path, jobs: Sequence[Job]) -> str:
    """Write down, for a pod, what it is to do; the sha256 of that."""
    calls = [(job.number, pickle.dumps((job.function, job.task))) for job in jobs]
    content = pickle.dumps(calls)
    with whole(folder / JOBS) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def outcome_of(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def carry_out(call: bytes) -> dict[str, Any]:
    function, task = pickle.loads(call)
    return asdict(function(task))


def _work(folder: Path, seconds: float, digest: str) -> None:
    content = (folder / JOBS).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        sys.exit(f"{folder / JOBS} isn't what the service wrote: who else may write there?")
    worker = Worker()
    for number, call in pickle.loads(content):
        try:
            outcome = {"result": worker.call(carry_out, call, seconds)}
        except Exception as problem:
            outcome = {"error": reason_of(problem), "transient": transient(problem)}
        write_json(outcome_of(folder, number), outcome)
    worker.kill()


def main(folder: str, seconds: str, asked: str, digest: str) -> None:
    if asked != code():
        sys.exit(
            f"this image has looseleaf's transformer {code()}, the service {asked}: "
            "give both the same image (image.tag)"
        )
    try:
        _work(Path(folder), float(seconds), digest)
    except OSError as problem:
        # the last line of the log is what the service hears of it
        sys.exit(reason_of(problem))


if __name__ == "__main__":
    main(*sys.argv[1:])
