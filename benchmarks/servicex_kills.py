"""Does a request come to the same, however often service, workers and client are killed?

    python benchmarks/servicex_kills.py [--kills 50]

Requests of the remote backend to a service of our own are disturbed by kill -9 at random moments,
five times each, until all kills are made; each has to come to the content of one that the embedded
backend made undisturbed: manifest, events and every value. Ends with 1 if one doesn't.
"""

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

REPO = Path(__file__).parent.parent
# what the tests use too
sys.path[0] = str(REPO / "tests")

from samples import qcd, skimmed  # noqa: E402
from service import Service  # noqa: E402
from test_servicex_remote import COLUMNS, disturbed, undisturbed, wanted  # noqa: E402

EACH = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    rounds = -(-parser.parse_args().kills // EACH)
    same = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        skimmed(folder, "q", {"q": qcd(4000, files=8)}, COLUMNS, None)
        das = folder / "q.das.json"
        expected = undisturbed(wanted(das), folder)
        for number in range(rounds):
            place = folder / str(number)
            with Service(place / "service") as service:
                os.chdir(service.state)
                found = disturbed(das, place, service, EACH, seed=number)
            same += found == expected and not list(place.rglob(".part-*"))
    print(f"{rounds} requests with {rounds * EACH} kills: {same} came to the same content")
    return 0 if same == rounds else 1


if __name__ == "__main__":
    sys.exit(main())
