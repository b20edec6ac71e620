"""Processing the datasets of a topcoffea analysis."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from looseleaf.histograms.coverage import losses_dominated
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import COVERAGE, ENTRIES, FLIP_CORRECTION
from looseleaf.objects.rates import RateMap, losses_beyond_maps
from looseleaf.processing.fileset import Fileset
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.axes import beyond_axes
from looseleaf.topcoffea.flip_map import FlipMap
from looseleaf.topcoffea.normalisation import check_coefficients, factors_of
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.topcoffea.store import write_histograms


def coefficients_of(
    analysis: TopCoffeaAnalysis, datasets: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The Wilson coefficients that the analysis lists, or else all of its samples, in their
    order."""
    if analysis.coefficients is not None:
        return list(analysis.coefficients)
    names = [name for dataset in datasets.values() for name in dataset.get("wc_names", [])]
    return list(dict.fromkeys(names))


def squares_of(
    analysis: TopCoffeaAnalysis, coefficients: Sequence[str]
) -> bool | list[dict[str, float]]:
    """How `EFTHist` keeps the squared weights: `exact`, or at points.

    The points are the Standard Model, the analysis' points, and those from which the templates of a
    datacard are made: +-1 and +-2 in each coefficient, and 1 in each pair.
    """
    if analysis.exact_squares:
        return True
    single = [{name: float(value)} for name in coefficients for value in (1, -1, 2, -2)]
    pairs = [{a: 1.0, b: 1.0} for a, b in combinations(coefficients, 2)]
    points = analysis.points.values()
    return [{}, *[{n: float(v) for n, v in point.items()} for point in points], *single, *pairs]


def processor_of(
    analysis: TopCoffeaAnalysis,
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, RateMap],
    flips: str | None = None,
) -> TopCoffeaProcessor:
    """The processor of an analysis, which applies `rates` by collection and the map of charge flips
    in the file `flips`.

    It also runs under coffea's own Runner: `event_metadata` and the analysis' `metadata` are the
    metadata of a dataset.
    """
    coefficients = coefficients_of(analysis, declared)
    flip_map = None
    if flips is not None:
        assert analysis.flips is not None
        flip_map = FlipMap.from_file(flips, analysis.flips.get("correction", FLIP_CORRECTION))
    return TopCoffeaProcessor(
        analysis,
        WorkingPoints(points),
        coefficients,
        squares_of(analysis, coefficients),
        rates,
        flip_map,
        Corrections.from_files(analysis.corrections),
    )


def process(
    analysis: TopCoffeaAnalysis,
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    maps: Mapping[str, str] | None = None,
    flips: str | None = None,
    whole: TopCoffeaAnalysis | None = None,
    stated: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Process every dataset of a topcoffea analysis on one cluster.

    `declared` has the datasets' declarations, `datasets` their files; `whole` and `stated` are the
    analysis and declarations with the keys that don't affect events, if these lack them. For each
    dataset, a file with the observables' EFT histograms and the cutflow is written. Raises
    `DataFileError` as `check_coefficients` and `factors_of` do, before any event is read.
    """

    def refuse(fileset: Fileset) -> None:
        name, original = fileset.dataset, fileset.original
        dataset = (stated or declared)[name]
        check_coefficients(name, dataset, original)
        factors_of(name, dataset, whole or analysis, original)

    working_points = WorkingPoints(points)
    rates = RateMap.from_files(maps)
    process_datasets(
        processor_of(analysis, points, declared, rates, flips),
        datasets,
        running,
        f"topcoffea {analysis.name}",
        Reading.of(analysis, declared, working_points),
        write_histograms,
        refuse,
        lambda _, accumulator: [
            *beyond_axes(analysis, accumulator[COVERAGE]),
            *losses_beyond_maps(accumulator[COVERAGE], rates),
            *losses_dominated(accumulator[ENTRIES], "events", "channel "),
        ],
    )
