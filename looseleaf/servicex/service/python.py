"""Python queries: a user's `run_query(path)` on one file, in a confined process.

A query is arbitrary code. It runs in its own interpreter, in a jail (`jail`) with the input file
and the result only. There it is one process, whose memory, processor time, threads and files are
limited. Its environment has none of the service's settings. The service itself reads what it needs
to know about the input, and fetches remote files, so that a query needs neither a network nor a
proxy.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from stat import S_IMODE
from tempfile import TemporaryFile
from typing import IO, Any

import awkward as ak

from looseleaf.cost import Stopwatch
from looseleaf.errors import ConfigError, DataFileError, reading
from looseleaf.files import adler32, whole
from looseleaf.nanoaod import TREE, open_events
from looseleaf.objects.branches import WEIGHT
from looseleaf.servicex.formats import create
from looseleaf.servicex.service.jail import give_up_rights, hand_over, jailed
from looseleaf.servicex.service.queries import FUNCTION
from looseleaf.servicex.transform import (
    FileResult,
    Sums,
    collections_of,
    counted,
    said_of,
    steps,
)

LIBRARY_PATH = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


# a worker has one core
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LONGEST_ANSWER, LONGEST_PROBLEM = 1 << 16, 1000
THREADS, OPEN_FILES = 256, 256
REFUSED = "in its jail a query is one process, without network, keyrings or shared memory"


@dataclass(frozen=True)
class PythonTask:
    """A function's source, and the file to run it on; limits in bytes and seconds.

    Without `confined` there is no jail.
    """

    name: str
    urls: tuple[str, ...]
    source: str
    output: str
    format: str
    memory: int
    seconds: int
    confined: bool = True


@dataclass(frozen=True)
class _Input:
    """A file on this machine, its origin, and its content."""

    path: Path
    url: str
    uuid: str
    original: dict[str, Any]


def run_python(task: PythonTask) -> FileResult:
    """Run a python query; `task.output` is written completely or not at all.

    Raises `DataFileError` with the last line of the query's error, and `RemoteReadFailed` for a
    remote file that can't be read at the moment.
    """
    watch = Stopwatch()
    output = Path(task.output)
    with _work(output) as work:
        with whole(work / output.name) as part, _input(task, work) as file:
            identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{task.output}:{file.uuid}")
            original, mode = file.original, part.stat().st_mode
            events = _asked(
                task,
                file.path,
                part,
                {**asdict(task), "path": str(file.path), "part": str(part)}
                | {"uuid": str(identity), "original": {**original, "source": task.name}},
            )
            if part.is_symlink() or not part.is_file():
                raise DataFileError(f"{task.name}: the python query took its result away")
            if os.geteuid() == 0:
                os.chown(part, 0, 0)
            if part.stat().st_mode != mode:
                # the query may have opened it to others
                part.chmod(S_IMODE(mode))
        os.replace(work / output.name, output)
    return FileResult(
        source=task.name,
        source_url=file.url,
        passed_over=[],
        source_uuid=file.uuid,
        output=output.name,
        bytes=output.stat().st_size,
        adler32=adler32(output),
        uuid=str(identity),
        events_in=original["events"],
        events_out=events,
        sum_of_weights_in=original["sum_of_weights"],
        sum_of_weights_out=original["held"]["sum_of_weights"],
        eft_sums_in=original["eft_sums"],
        theory_sums_in=original["theory_sums"],
        lumi_sections=original["lumi_sections"],
        normalised_by=original["normalised_by"],
        held=original["held"],
        not_finite={},
        missing={},
        bare=False,
        cost=watch.cost(original["held"]["events"], 0).to_json(),
    )


def work_folder(output: Path) -> Path:
    """All that a query leaves on the disk until its result stands at `output`; whoever ends the
    query's process removes it."""
    return output.with_name(f".part-{output.name}")


@contextmanager
def _work(output: Path) -> Iterator[Path]:
    folder = work_folder(output)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _input(task: PythonTask, folder: Path) -> Iterator[_Input]:
    """The first of a task's files that can be read, as a copy if it is remote."""
    problems: list[DataFileError] = []
    for url in task.urls:
        try:
            with open_events(url) as file:
                identity, sums = file.uuid, Sums()
                present = file.tree.keys(recursive=False)
                for arrays in steps(file.tree, url, [WEIGHT] if WEIGHT in present else present[:1]):
                    sums.add(arrays, None)
                original = said_of(file, url) or counted(sums, file, url, TREE)
        except DataFileError as problem:
            problems.append(problem)
            continue
        if "://" not in url:
            yield _Input(Path(url), url, identity, original)
            return
        copy = folder / "input.root"
        with reading(url):
            _fetch(url, str(copy))
        hand_over(copy)
        yield _Input(copy, url, identity, original)
        return
    raise type(problems[-1])("; ".join(map(str, problems)))


def _fetch(url: str, path: str) -> None:
    from fsspec.core import url_to_fs  # noqa: PLC0415 - for files elsewhere

    filesystem, place = url_to_fs(url)
    filesystem.get_file(place, path)


def _asked(task: PythonTask, path: Path, part: Path, question: dict[str, Any]) -> int:
    """Run a query in its own process; returns the number of events that it wrote."""
    # isolated: without PYTHON* variables, the user's packages and the working folder
    command = [sys.executable, "-I", "-m", __name__]
    home = part.parent / "home"
    home.mkdir()
    if task.confined:
        hand_over(part)
        command = jailed(command, [path], part, task.memory)
    with TemporaryFile() as asked:
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        status, answer, errors = _run(command, home, asked)
    try:
        reply = json.loads(answer)
    except ValueError:
        lines = errors.strip().splitlines()
        why = lines[-1] if lines else f"it ended with status {status}"
        reply = {"problem": f"the python query failed: {why}"}
    match reply:
        case {"events_out": int(events)}:
            return events
        case {"problem": str(problem)}:
            raise DataFileError(f"{task.name}: {problem[:LONGEST_PROBLEM]}")
    raise DataFileError(f"{task.name}: the python query answered in place of the service's code")


def _run(command: list[str], home: Path, asked: IO[bytes]) -> tuple[int, str, str]:
    """The status of a command, and the ends of its output and of its errors."""
    environment = {name: os.environ[name] for name in LIBRARY_PATH if name in os.environ}
    with (
        subprocess.Popen(
            command,
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, **ONE_CORE, "HOME": str(home)},
            cwd=home,
        ) as process,
        ThreadPoolExecutor(2) as readers,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        answer, errors = readers.map(_end_of, (process.stdout, process.stderr))
        return process.wait(), answer, errors


def _end_of(stream: IO[bytes]) -> str:
    """The end of what a process prints, of which there may be any amount."""
    kept = b""
    while block := os.read(stream.fileno(), LONGEST_ANSWER):
        kept = (kept + block)[-LONGEST_ANSWER:]
    return kept.decode(errors="replace")


def _limit(memory: int, seconds: int, confined: bool) -> None:
    """Set limits that the query can't raise; if `confined`, its user's threads are those in
    jails."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        # a result was in memory before
        (resource.RLIMIT_FSIZE, memory),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        *([(resource.RLIMIT_NPROC, THREADS)] if confined else []),
    ):
        resource.setrlimit(what, (most, most))


def _trees(returned: Any) -> dict[str, ak.Array]:
    """The return value of `run_query` as trees: an array of records, or several by name."""
    trees = returned if isinstance(returned, Mapping) else {TREE: returned}
    arrays = {}
    for name, value in trees.items():
        array = ak.Array(value)
        arrays[str(name)] = array if array.fields else ak.zip({str(name): array}, depth_limit=1)
    if not arrays:
        raise ConfigError(f"{FUNCTION} returned no tree")
    return arrays


def _carry_out(task: dict[str, Any]) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "query"}
    exec(compile(task["source"], "<python query>", "exec"), scope)
    trees = _trees(scope[FUNCTION](task["path"]))
    with create(Path(task["part"]), task["format"], uuid.UUID(task["uuid"])) as result:
        for name, arrays in trees.items():
            result.extend(name, arrays, collections_of(arrays.fields, set(arrays.fields)))
        events = len(next(iter(trees.values())))
        result.describe({**task["original"], "kept": len(trees.get(TREE, ()))})
    return {"events_out": events}


def _main() -> None:
    # the answer doesn't go where the query prints
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    if task["confined"]:
        give_up_rights()
    _limit(task["memory"], task["seconds"], task["confined"])
    try:
        reply = _carry_out(task)
    except MemoryError:
        reply = {"problem": f"the python query needs more than {task['memory']:,} bytes of memory"}
    except Exception as problem:
        text = f"the python query failed: {type(problem).__name__}: {problem}"
        refused = task["confined"] and getattr(problem, "errno", None) == errno.EPERM
        reply = {"problem": f"{text}; {REFUSED}" if refused else text}
    json.dump(reply, answer)
    answer.close()


if __name__ == "__main__":
    _main()
