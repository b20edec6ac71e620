"""NanoAOD files for benchmarks."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from looseleaf.files import adler32
from looseleaf.processing.fileset import EventsSource

# the first identity of a file that was made from another
FIRST = uuid.UUID("5ca1e000-0000-4000-8000-000000000000").int


def write(path: Path, steps: Iterable[Mapping[str, Any]], compression: Any) -> None:
    """A file of the events that come in steps, with all columns in each, whole or not at all."""
    part = path.with_suffix(".part")
    with uproot.recreate(part, compression=compression) as root:
        tree = None
        for columns in steps:
            types = {name: ak.type(value).content for name, value in columns.items()}
            tree = tree or root.mktree("Events", types)
            tree.extend(columns)
    part.rename(path)


def nanoaod(folder: Path, number: int, events: int) -> list[EventsSource]:
    """`number` files with `events` events each, and identities of their own."""
    folder.mkdir(exist_ok=True)
    files = []
    for index in range(number):
        columns = {
            "run": np.ones(events, np.uint32),
            "luminosityBlock": np.ones(events, np.uint32),
            "event": np.arange(index * events, (index + 1) * events, dtype=np.uint64),
            "genWeight": np.ones(events, np.float32),
            "MET_phi": np.zeros(events, np.float32),
            "MET_pt": np.random.default_rng(index).exponential(30, events).astype(np.float32),
        }
        path = folder / f"{index}.root"
        with uproot.recreate(path) as file:
            file.mktree("Events", {name: column.dtype for name, column in columns.items()})
            file["Events"].extend(columns)
        files.append(source_of(path, events, float(events)))
    return files


def source_of(path: Path, events: int, sum_of_weights: float) -> EventsSource:
    """A written file as a manifest tells of it."""
    with uproot.open(path) as file:
        identity = str(file.file.uuid)
    size, checksum = path.stat().st_size, adler32(path)
    place = str(path)
    return EventsSource(path.name, place, place, identity, size, checksum, events, sum_of_weights)


def twins(files: list[EventsSource], folder: Path, number: int) -> list[EventsSource]:
    """`number` files of the same content as some others by turns, with identities of their own."""
    folder.mkdir(exist_ok=True)
    contents = [Path(file.url).read_bytes() for file in files]
    out = []
    for index in range(number):
        like, content = files[index % len(files)], contents[index % len(files)]
        identity = uuid.UUID(int=FIRST + index)
        path = folder / f"{index}.root"
        # the header has it, and every folder
        path.write_bytes(content.replace(uuid.UUID(like.uuid).bytes, identity.bytes))
        name, place = path.name, str(path)
        out.append(
            replace(
                like,
                name=name,
                url=place,
                source_url=place,
                uuid=str(identity),
                adler32=adler32(path),
            )
        )
    return out
