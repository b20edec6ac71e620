"""The results of a processor in our own runner and in coffea's."""

from pathlib import Path
from typing import Any

import uproot
from coffea.processor import IterativeExecutor, Runner

from looseleaf.objects.processor import BranchesProcessor
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Chunk, EventsSource
from looseleaf.processing.runner import process_task


def of_both_runners(
    processor: BranchesProcessor, path: str | Path, **metadata: Any
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The bytes of each histogram of a file, by our own runner and by coffea's on NanoEvents."""
    with uproot.open({path: None}) as file:
        events, uuid = file["Events"].num_entries, str(file.file.uuid)
    source = EventsSource("f", str(path), str(path), uuid, 0, None, events, 0.0)
    about = {"dataset": "d", **metadata}
    ours, _ = process_task(processor, [Chunk("d", source, 0, events)], about)
    run = Runner(IterativeExecutor(status=False), schema=SkimmedNanoAOD, chunksize=1 << 30)
    theirs = run({"d": {"files": {str(path): "Events"}, "metadata": metadata}}, processor)
    ours, theirs = (
        {name: histogram.view(flow=True).tobytes() for name, histogram in found.items()}
        for found in (ours, theirs)
    )
    return ours, theirs
