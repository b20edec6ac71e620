"""What runs in a transformer pod: a batch of files, carried out as on the service's own machine.

    python -m looseleaf.servicex.service.transformer FOLDER SECONDS CODE

The files and what is to be done with each stand in the folder, which the service has written, and
what became of each is left there. No way leads from here to the service or to Kubernetes.
"""

import pickle
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from looseleaf.codehash import code_hash
from looseleaf.files import whole, write_json
from looseleaf.servicex.service.workers import Job, Worker, told, transient
from looseleaf.servicex.transform import FileResult

MODULE, JOBS = "looseleaf.servicex.service.transformer", "jobs.pickle"


@dataclass(frozen=True)
class Outcome:
    """What became of a file: its result, or why there is none and whether another try may do."""

    result: FileResult | None = None
    error: str | None = None
    transient: bool = False


def code() -> str:
    """What a service and its transformers have to have in common."""
    return code_hash(
        __name__ if __name__ != "__main__" else "looseleaf.servicex.service.transformer"
    )


def give(folder: Path, jobs: Sequence[Job]) -> None:
    """Write down, for a pod, what it is to do."""
    with whole(folder / JOBS) as part:
        part.write_bytes(pickle.dumps(list(jobs)))


def outcome_of(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def _work(folder: Path, seconds: float) -> None:
    # written by the service, in a folder that only it and this pod see
    jobs: list[Job] = pickle.loads((folder / JOBS).read_bytes())
    worker = Worker()
    for job in jobs:
        try:
            outcome = Outcome(result=worker.call(job.function, job.task, seconds))
        except Exception as problem:
            outcome = Outcome(error=told(problem), transient=transient(problem))
        write_json(outcome_of(folder, job.number), asdict(outcome))
    worker.kill()


def main(folder: str, seconds: str, asked: str) -> None:
    # the first process of a container doesn't end on SIGTERM by itself
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if asked != code():
        sys.exit(
            f"this image has looseleaf's transformer {code()}, the service {asked}: "
            "give both the same image (image.tag)"
        )
    _work(Path(folder), float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
