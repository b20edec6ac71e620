"""A topcoffea analysis in a notebook: configuration, dictionary, processor.

from coffea.processor import IterativeExecutor, Runner
from looseleaf.topcoffea.notebook import SkimmedNanoAOD, configured

fileset, processor = configured("config/analyses/tth_eft.yaml", "samples.cfg")
out = Runner(IterativeExecutor(), schema=SkimmedNanoAOD)(fileset, processor)
out["ht"].select(region="signal", systematic="nominal").at({"ctG": 1.0})
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from looseleaf.config.checks import check_columns, check_primaries, check_rising
from looseleaf.config.listed import read_samples, url_of
from looseleaf.config.schemas import check, schema
from looseleaf.config.settings import find, read_analysis
from looseleaf.errors import ConfigError
from looseleaf.files import read_json
from looseleaf.layout import workflow_folder
from looseleaf.nanoaod import TREE
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.rates import RateMap
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.stage import event_metadata
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.checks import check_processes, check_regions, check_years
from looseleaf.topcoffea.declaration import TopCoffea
from looseleaf.topcoffea.process import processor_of
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.yaml_files import read_yaml

__all__ = ["SkimmedNanoAOD", "configured"]


def configured(
    analysis: str | Path,
    samples: str | Path,
    working_points: str | Path = "config/working_points.yaml",
    measured: Sequence[str | Path] = (),
    maps: Mapping[str, str] | None = None,
    flips: str | None = None,
) -> tuple[dict[str, Any], TopCoffeaProcessor]:
    """The fileset for coffea's Runner, and the processor, for samples in TopEFT's form.

    An analysis with `nonprompt` needs the fake-rate analyses that it names, `measured`, and the
    files of their maps by collection, `maps`; one with `flips` needs the file of that map. The
    histograms have the weights of the files; only the workflow normalises them. Raises
    `ConfigError` naming the file and key for samples or an analysis that can't be used.
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
            "metadata": {**event_metadata(settings, sample), **settings.metadata(name, sample)},
        }
        for name, sample in declared.items()
    }
    return fileset, processor_of(settings, points, declared, RateMap.from_files(maps), flips)


def eft_analysis(
    path: Path,
    working_points: Path,
    samples: Mapping[str, Any],
    measured: Iterable[Path] = (),
) -> tuple[TopCoffeaAnalysis, dict[str, Any]]:
    """A topcoffea analysis and the working points, for samples other than its own.

    `measured` are the analyses whose maps it applies. The working points are taken from the working
    folder, the Snakefile's folder or the installed package. Raises `ConfigError` naming the file
    and key.
    """
    working_points = find(str(working_points), workflow_folder(), "working_points")
    base = working_points.parent.parent
    declared = read_analysis(path, base)
    if not isinstance(declared, TopCoffeaAnalysis):
        raise ConfigError(f"{path}: kind: {declared.kind!r} should be {TopCoffeaAnalysis.kind!r}")
    points = read_yaml(working_points)
    check(points, schema("working_points"), str(working_points))
    analyses: dict[str, Analysis] = {}
    for map_path in measured:
        measured_analysis = read_analysis(map_path, base)
        analyses[measured_analysis.name] = measured_analysis
    analysis = TopCoffea().completed(declared, analyses, samples, str(path))
    check_regions(analysis, str(path))
    check_processes((sample for sample in samples.values() if not sample["data"]), str(path))
    check_years(analysis, samples, str(path))
    data = {name: sample for name, sample in samples.items() if sample["data"]}
    check_primaries(analysis.triggers, data, str(path), complete=False)
    for name, observable in analysis.observables.items():
        check_rising(observable["edges"], f"{path}: observables.{name}")
    check_columns(analysis, samples.values(), WorkingPoints(points, str(working_points)), str(path))
    return analysis, points
