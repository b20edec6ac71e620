"""Small NanoAOD files for benchmarks."""

from pathlib import Path

import numpy as np
import uproot

from looseleaf.files import adler32
from looseleaf.processing.fileset import EventsSource


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
        with uproot.open(path) as file:
            uuid = str(file.file.uuid)
        size = path.stat().st_size
        files.append(
            EventsSource(
                path.name, str(path), str(path), uuid, size, adler32(path), events, float(events)
            )
        )
    return files
