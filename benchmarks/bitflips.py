"""One flipped bit in a source: how often it is noticed, without and with das.verify.

    .venv/bin/python benchmarks/bitflips.py [COMPRESSION...] [--tries 400]

A demo sample is written with each compression. At each try one bit of one basket that a transform
reads is flipped, its header included, and the file is transformed as one that stands elsewhere:
size and number of events are known, and the checksum where it is to be verified. That raises, or
gives the numbers of the sound file, or others.
"""

import argparse
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import numpy as np
import uproot

from looseleaf.das.lookup import lookup
from looseleaf.files import adler32, read_json
from looseleaf.samples.generate import generate
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file

REPO = Path(__file__).parent.parent
SETTINGS = {"seed": 7, "scale": 1.0, "step": 2000, "compression": "lz4"}
DATASET = {
    "das": "/flips/looseleaf-v1/NANOAODSIM",
    "process": "qcd",
    "data": False,
    "xsec_pb": 1.0,
    "sample": {"kind": "qcd", "events": 2000, "files": 1, "pthat": [20, 30], "flavour": "Muon"},
}
COMPRESSIONS: dict[str, Any] = {
    "zlib": uproot.ZLIB(1),
    "lzma": uproot.LZMA(1),
    "zstd": uproot.ZSTD(5),
    "lz4": uproot.LZ4(4),
    "none": None,
}
COLUMNS = ("run", "luminosityBlock", "event", "genWeight", "MET_pt", "Muon_pt", "Muon_eta")
READ = (*COLUMNS, "nMuon")
# numbers of a result that have to be the sound file's, beside its events
NUMBERS = ("events_in", "events_out", "sum_of_weights_in", "sum_of_weights_out")


@dataclass(frozen=True)
class Sound:
    """A file without fault, what is asked of it, and what comes out."""

    content: bytes
    baskets: list[tuple[str, int, int]]
    task: FileTask
    events: ak.Array
    numbers: list[Any]


def sample(folder: Path) -> ak.Array:
    """The events of the demo sample."""
    catalogue = folder / "catalogue.json"
    generate("flips", {"flips": DATASET}, SETTINGS, catalogue, str(REPO / "config/demo/truth.json"))
    lookup(DATASET["das"], folder / "das.json", [catalogue])
    (file,) = read_json(folder / "das.json")["files"]
    with uproot.open(file["url"]) as directory:
        return directory["Events"].arrays([name for name in READ if name != "nMuon"])


def written(path: Path, events: ak.Array, compression: Any) -> None:
    muons = ak.zip({name: events[f"Muon_{name}"] for name in ("pt", "eta")})
    single = {name: ak.to_numpy(events[name]) for name in COLUMNS if not name.startswith("Muon")}
    columns = {**single, "Muon": muons}
    with uproot.recreate(path, compression=compression) as root:
        root.mktree("Events", {name: ak.type(column).content for name, column in columns.items()})
        # several baskets a branch
        for start in range(0, len(events), 500):
            root["Events"].extend(
                {name: column[start : start + 500] for name, column in columns.items()}
            )


def sound(path: Path, output: Path) -> Sound:
    with uproot.open(path) as directory:
        branches = [directory["Events"][name] for name in READ]
        baskets = [
            (branch.name, int(seek), int(size))
            for branch in branches
            for seek, size in zip(
                branch.member("fBasketSeek"), branch.member("fBasketBytes"), strict=True
            )
            if size
        ]
        entries = directory["Events"].num_entries
    task = FileTask(
        name="/store/x.root",
        urls=(str(path),),
        expected_bytes=path.stat().st_size,
        expected_events=entries,
        expected_adler32=None,
        queries=(TreeQuery(columns=COLUMNS, cut="nMuon > 0"),),
        output=str(output),
        work="flips",
    )
    return Sound(path.read_bytes(), baskets, task, *outcome(task))


def outcome(task: FileTask) -> tuple[ak.Array, list[Any]]:
    result = transform_file(task)
    with uproot.open(task.output) as directory:
        events = directory["Events"].arrays()
    return events, [getattr(result, name) for name in NUMBERS]


def tried(file: Sound, path: Path, task: FileTask, dice: random.Random) -> tuple[str, str]:
    """What became of a file with one bit flipped, and in which branch."""
    branch, seek, size = dice.choice(file.baskets)
    content = bytearray(file.content)
    content[seek + dice.randrange(size)] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    try:
        events, numbers = outcome(replace(task, urls=(str(path),)))
    except Exception:
        # a library's own, too: the service tells it
        return "raised", branch
    same = numbers == file.numbers and alike(events, file.events)
    return "same" if same else "wrong", branch


def alike(one: ak.Array, other: ak.Array) -> bool:
    """Whether two results hold the same bits."""
    if one.fields != other.fields or len(one) != len(other):
        return False
    for name in one.fields:
        a, b = one[name], other[name]
        if a.ndim != b.ndim or (a.ndim > 1 and ak.any(ak.num(a) != ak.num(b))):
            return False
        if np.asarray(ak.flatten(a, None)).tobytes() != np.asarray(ak.flatten(b, None)).tobytes():
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("compressions", nargs="*", help=f"of {', '.join(COMPRESSIONS)}")
    parser.add_argument("--tries", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("| compression | das.verify | tried | raised | same numbers | wrong numbers | where |")
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as name:
        folder = Path(name)
        events = sample(folder)
        for compression in asked.compressions or COMPRESSIONS:
            path = folder / f"{compression}.root"
            written(path, events, COMPRESSIONS[compression])
            file = sound(path, folder / "out.root")
            held = replace(file.task, expected_adler32=adler32(path), verify=True)
            for label, task in (("no", file.task), ("yes", held)):
                dice = random.Random(asked.seed)
                found = [
                    tried(file, folder / "flipped.root", task, dice) for _ in range(asked.tries)
                ]
                count = Counter(what for what, _ in found)
                where = Counter(branch for what, branch in found if what == "wrong")
                told = ", ".join(f"{branch} {times}" for branch, times in where.most_common())
                print(
                    f"| {compression} | {label} | {asked.tries} | {count['raised']} "
                    f"| {count['same']} | {count['wrong']} | {told} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
