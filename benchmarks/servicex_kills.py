"""Does a request come to the same, however often service, workers and client are killed?

    python benchmarks/servicex_kills.py [--rounds 50]

In each round two requests run, one of the remote backend and one for results on the service's own
volume, in the three formats by turns, while the service, one of its workers and the client are
each killed (kill -9) once, in random order at random moments. Both have to come to the content of
requests that nothing disturbed: the manifests less times and tries, the trees, every column's type
and bytes in its order; nothing half written may stay. Ends with 1 if a round doesn't.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

REPO = Path(__file__).parent.parent
# what the tests use too
sys.path[:1] = [str(REPO / "tests"), str(REPO / "tests/support")]

from samples import qcd, skimmed  # noqa: E402
from service import Service  # noqa: E402
from test_servicex_remote import COLUMNS, calm, disturbed  # noqa: E402

from looseleaf.servicex.formats import SUFFIXES  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    same = struck = 0
    started = time.monotonic()
    with TemporaryDirectory() as name:
        folder = Path(name)
        skimmed(folder, "q", {"q": qcd(24_000, files=24)}, COLUMNS, None)
        das = folder / "q.das.json"
        expected = {output: calm(das, folder / output, output) for output in SUFFIXES}
        for number in range(rounds):
            place, output = folder / str(number), list(SUFFIXES)[number % len(SUFFIXES)]
            with Service(place / "service") as service:
                os.chdir(service.state)
                found, hits = disturbed(das, place, service, output, seed=number)
            good = found == expected[output] and not list(place.rglob(".part-*"))
            same, struck = same + good, struck + hits
            if not good:
                print(f"round {number} ({output}) came to something else", flush=True)
    print(
        f"{rounds} rounds with {3 * rounds} kills, {struck} of them under way: {same} came to the "
        f"same content ({time.monotonic() - started:.0f} s)"
    )
    return 0 if same == rounds else 1


if __name__ == "__main__":
    sys.exit(main())
