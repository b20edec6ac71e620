"""Python queries: a user's `run_query(path)` on one file, in a process with nothing to steal.

A query is arbitrary code. It runs in an interpreter of its own, with an environment that holds
none of the service's settings, an empty folder as its home, and limits of memory and processor
time. It is still a process of the service's Unix user: what that user may read, it may read.
"""

import json
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak

from looseleaf.cost import Stopwatch
from looseleaf.errors import ConfigError, DataFileError
from looseleaf.files import adler32, whole
from looseleaf.nanoaod import TREE, open_events
from looseleaf.servicex.formats import create
from looseleaf.servicex.service.queries import FUNCTION
from looseleaf.servicex.transform import WEIGHT, FileResult, Sums, collections_of, steps

LIBRARY_PATH = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class PythonTask:
    """A function's source and the file to run it on; limits in bytes and seconds."""

    name: str
    urls: tuple[str, ...]
    source: str
    output: str
    format: str
    memory: int
    seconds: int


def run_python(task: PythonTask) -> FileResult:
    """Run a python query; the result stands whole at `task.output` or not at all.

    Raises `DataFileError` with the last line of what went wrong in the query.
    """
    watch = Stopwatch()
    output = Path(task.output)
    environment = {name: os.environ[name] for name in LIBRARY_PATH if name in os.environ}
    with whole(output) as part, TemporaryDirectory(prefix="query-") as home:
        done = subprocess.run(
            # isolated: no PYTHON* variables, no packages of the user, not the working folder
            [sys.executable, "-I", "-m", __name__],
            input=json.dumps({**asdict(task), "part": str(part)}),
            env={**environment, "HOME": home},
            cwd=home,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        try:
            told = json.loads(done.stdout)
        except ValueError:
            lines = done.stderr.strip().splitlines()
            why = lines[-1] if lines else f"it ended with status {done.returncode}"
            raise DataFileError(f"{task.name}: the python query failed: {why}") from None
        if "problem" in told:
            raise DataFileError(f"{task.name}: {told['problem']}")
        if part.is_symlink() or not part.is_file():
            raise DataFileError(f"{task.name}: the python query took its result away")
    return FileResult(
        source=task.name,
        source_url=told["url"],
        passed_over=[],
        source_uuid=told["source_uuid"],
        output=output.name,
        bytes=output.stat().st_size,
        adler32=adler32(output),
        uuid=told["uuid"],
        events_in=told["events_in"],
        events_out=told["events_out"],
        sum_of_weights_in=told["sum_of_weights_in"],
        sum_of_weights_out=told["sum_of_weights_in"],
        eft_sums_in=None,
        lumi_sections=None,
        cost=watch.cost(told["events_in"], 0).to_json(),
    )


def _limit(memory: int, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _trees(returned: Any) -> dict[str, ak.Array]:
    """What `run_query` gave back, as trees: an array of records, or several by name."""
    trees = returned if isinstance(returned, Mapping) else {TREE: returned}
    arrays = {}
    for name, value in trees.items():
        array = ak.Array(value)
        arrays[str(name)] = array if array.fields else ak.zip({str(name): array}, depth_limit=1)
    if not arrays:
        raise ConfigError(f"{FUNCTION} returned no tree")
    return arrays


def _carry_out(task: dict[str, Any]) -> dict[str, Any]:
    problems = []
    for url in task["urls"]:
        try:
            with open_events(url) as file:
                known, sums = file.uuid, Sums()
                there = file.tree.keys(recursive=False)
                for arrays in steps(file.tree, url, [WEIGHT] if WEIGHT in there else there[:1]):
                    sums.add(arrays, None)
            break
        except DataFileError as problem:
            problems.append(str(problem))
    else:
        return {"problem": "; ".join(problems)}
    scope: dict[str, Any] = {"__name__": "query"}
    exec(compile(task["source"], "<python query>", "exec"), scope)
    trees = _trees(scope[FUNCTION](url))
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{task['output']}:{known}")
    with create(Path(task["part"]), task["format"], identity) as result:
        for name, arrays in trees.items():
            result.extend(name, arrays, collections_of(arrays.fields, set(arrays.fields)))
        result.describe(
            {"source": task["name"], "events": sums.events_in, "sum_of_weights": sums.weights_in}
        )
    return {
        "url": url,
        "source_uuid": known,
        "uuid": str(identity),
        "events_in": sums.events_in,
        "events_out": len(next(iter(trees.values()))),
        "sum_of_weights_in": sums.weights_in,
    }


def _main() -> None:
    # the answer goes where the query doesn't print
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    _limit(task["memory"], task["seconds"])
    try:
        told = _carry_out(task)
    except MemoryError:
        told = {"problem": f"the python query needs more than {task['memory']:,} bytes of memory"}
    except Exception as problem:
        told = {"problem": f"the python query failed: {type(problem).__name__}: {problem}"}
    json.dump(told, answer)
    answer.close()


if __name__ == "__main__":
    _main()
