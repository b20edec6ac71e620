"""How much faster are 38 datasets looked up some at a time than one after the other?

    python benchmarks/das_lookup.py

The 912 files of the 2021 measurement are asked for at a DBS on this machine, over TLS and with a
VOMS proxy (a token where voms-proxy-fake is not installed), which lets every answer wait for 100
ms as the way to CERN does. Both ways make one call for each dataset, in turns in the same run.
Ends with 1 if the ratio is below 8.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

REPO = Path(__file__).parent.parent
sys.path[:0] = [str(REPO / "tests"), str(REPO / "tests/support")]

from grid import VOMS_TOOL, Authority, DbsServer, dbs_row, serving  # noqa: E402

from looseleaf.das.ask import Asking, choose, records_of  # noqa: E402
from looseleaf.das.query import parse  # noqa: E402

LATENCY = 0.1
ROUNDS = 5
ASKED_FOR = 8
# of datasets that are named one by one
FILES = parse("file dataset=/*/*/*")


def seconds(asking: Asking, files: Mapping[str, list[str]]) -> float:
    """The time that one look-up of everything takes, connections included."""
    started = time.perf_counter()
    backend, _ = choose(asking, "file")
    found = records_of(backend, FILES, list(files), asking.parallel)
    elapsed = time.perf_counter() - started
    assert {name: [record.name for record in found[name]] for name in found} == files
    return elapsed


def main() -> int:
    files = json.loads((REPO / "tests/data/qcd_muenriched_2021.json").read_text())
    with TemporaryDirectory() as folder:
        authority = Authority(Path(folder) / "authority")
        os.environ["X509_CERT_DIR"] = str(authority.certificates)
        token = None
        if which(VOMS_TOOL):
            os.environ.pop("BEARER_TOKEN", None)
            os.environ.pop("BEARER_TOKEN_FILE", None)
            os.environ["X509_USER_PROXY"] = str(authority.proxy("x509up", "-hours", "1"))
        else:
            os.environ["BEARER_TOKEN"] = token = "a.b.c"
        server = DbsServer(authority, token)
        server.files = {
            name: [dbs_row(file, name) for file in listed] for name, listed in files.items()
        }
        server.hold = lambda: time.sleep(LATENCY)
        with serving(server):
            at_once = Asking("dbs", host=server.url)
            one_by_one = replace(at_once, parallel=1)
            times = [(seconds(one_by_one, files), seconds(at_once, files)) for _ in range(ROUNDS)]
        calls = len(server.asked)
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{sum(map(len, files.values()))} files in {len(files)} datasets, {calls} calls, ", end=""
    )
    print(f"{'a token' if token else 'a proxy'}, {LATENCY * 1000:.0f} ms latency")
    print(
        f"one at a time: {slow:.2f} s; at most {at_once.parallel} at a time: {fast:.2f} s", end=""
    )
    print(f" (never more than {server.most_at_once})")
    print(f"ratio: {slow / fast:.1f} (median of {ROUNDS}; at least {ASKED_FOR} is asked for)")
    return 0 if slow / fast >= ASKED_FOR else 1


if __name__ == "__main__":
    sys.exit(main())
