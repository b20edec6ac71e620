"""A topcoffea analysis in a notebook: configuration, dictionary, processor.

from coffea.processor import IterativeExecutor, Runner
from looseleaf.topcoffea.notebook import SkimmedNanoAOD, configured

fileset, processor = configured("config/analyses/tth_eft.yaml", "samples.cfg")
out = Runner(IterativeExecutor(), schema=SkimmedNanoAOD)(fileset, processor)
out["ht"].select(region="signal", systematic="nominal").at({"ctG": 1.0})
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from looseleaf.config import eft_analysis
from looseleaf.files import read_json
from looseleaf.nanoaod import TREE
from looseleaf.processing.runner import SkimmedNanoAOD
from looseleaf.topcoffea.process import metadata_of, processor_of
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.topcoffea.samples import read_samples, url_of

__all__ = ["SkimmedNanoAOD", "configured"]


def configured(
    analysis: str | Path,
    samples: str | Path,
    working_points: str | Path = "config/working_points.yaml",
    measured: Sequence[str | Path] = (),
    maps: Mapping[str, str] | None = None,
    flips: str | None = None,
) -> tuple[dict[str, Any], TopCoffeaProcessor]:
    """The fileset that coffea's Runner takes, and the processor, for samples in TopEFT's form.

    An analysis with a `nonprompt` takes the fake-rate analyses that it names, `measured`, and
    their map files by collection, `maps`; one with `flips` the file of their map. The histograms
    are of events as they are weighted in the files: what normalises them is the workflow's. Raises
    `ConfigError` naming file and key for samples or an analysis that can't be used.
    """
    declared = read_samples(Path(samples))
    settings, points = eft_analysis(
        Path(analysis), Path(working_points), declared, map(Path, measured)
    )
    fileset = {
        name: {
            "files": {
                url_of(sample, file): TREE
                for file in read_json(sample["listed"]["file"])["files"]
                if file not in sample.get("leave_out", [])
            },
            "metadata": metadata_of(settings, sample),
        }
        for name, sample in declared.items()
    }
    return fileset, processor_of(settings, points, declared, maps, flips)
