"""What the datasets of a topcoffea analysis are normalised with, and what they declare of it."""

from collections.abc import Mapping
from typing import Any

from looseleaf.efthist import quadratic_terms
from looseleaf.errors import DataFileError
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.weights import scale_to_luminosity
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis, varies
from looseleaf.topcoffea.processor import NOMINAL

# a sum that a sample file states and one that was made of its events, in single precision
SUM_TOLERANCE = 1e-4


def check_coefficients(name: str, declared: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    """Hold the Wilson coefficients that a dataset declares against what its files carry.

    Raises `DataFileError` naming the declaring file and key if there is another number of terms,
    or nothing is declared of some. A skim may not say how many it has.
    """
    names, sums = declared.get("wc_names", []), original["eft_sums"]
    file = declared["declared_in"]
    where = f"{file}: " + ("WCnames" if file.endswith(".json") else f"{name}.wc_names")
    if not names:
        if sums is not None:
            raise DataFileError(
                f"{where}: there are none, but the files carry {EFT_COEFFICIENTS}: of which Wilson "
                "coefficients?"
            )
        return
    expected = len(quadratic_terms(names))
    if sums and len(sums) != expected:
        raise DataFileError(
            f"{where}: {len(names)} coefficients ({', '.join(names)}) make {expected} terms, an "
            f"event of the files has {len(sums)}"
        )


def factors_of(
    name: str,
    dataset: Mapping[str, Any],
    analysis: TopCoffeaAnalysis,
    original: Mapping[str, Any],
) -> dict[str, float]:
    """What the weights of a dataset are multiplied with, by variation where theory weights have
    sums of their own.

    `original` is what the ledger says of the dataset's original events. Raises `DataFileError` if
    a sum isn't positive, if the ledger lacks one, and, naming file and key, if a sum or the number
    of events isn't what is declared.
    """
    lumi = analysis.luminosity_of(dataset.get("year"))
    total = _sum_of_weights(name, dataset, analysis.normalise, original)
    factors = {NOMINAL: scale_to_luminosity(name, dataset, lumi, total)}
    for systematic, theory in analysis.systematics.theory.items():
        if dataset["data"] or not varies(theory, dataset["process"]):
            continue
        for direction in ("Up", "Down"):
            own = _theory_sum(name, dataset, analysis, theory, direction, original)
            factors[systematic + direction] = scale_to_luminosity(name, dataset, lumi, own)
    return factors


def _theory_sum(
    name: str,
    dataset: Mapping[str, Any],
    analysis: TopCoffeaAnalysis,
    theory: Mapping[str, Any],
    direction: str,
    original: Mapping[str, Any],
) -> float:
    """The ledger's sum of a theory weight, held against what the dataset declares of it."""
    key = theory.get("sums", "") + direction
    stated: float | None = dataset.get("sums_of_weights", {}).get(key)
    if analysis.normalise == "declared":
        _check_complete(name, dataset, original)
        assert stated is not None
        return stated
    branch, place = theory["branch"], theory[direction.lower()]
    sums = original["theory_sums"].get(branch, [])
    if place >= len(sums):
        raise DataFileError(
            f"dataset {name}: its files sum up {len(sums)} weights of {branch}, but number {place} "
            "is asked for (the first is 0). If they are a skim that left them out, declare the "
            "sums and say normalise: declared in the analysis"
        )
    total: float | None = sums[place]
    if total is None:
        raise DataFileError(f"dataset {name}: {branch}[{place}] is not a number in some events")
    # what is stated speaks of all files
    complete = not original.get("left_out")
    if stated is not None and complete and abs(total - stated) > SUM_TOLERANCE * stated:
        of = f"nSumOfWeights_{key}" if "listed" in dataset else f"{name}.sums_of_weights.{key}"
        raise DataFileError(
            f"{dataset['declared_in']}: {of}: {stated:g} is stated; the {original['events']} "
            f"events of the files of {name} sum {branch}[{place}] up to {total:g}"
        )
    return total


def _sum_of_weights(
    name: str, dataset: Mapping[str, Any], source: str, original: Mapping[str, Any]
) -> float:
    """The ledger's sum over the original events; it and their number are held against what the
    sample's file states."""
    listed = dataset.get("listed")
    if listed is not None and source == "declared" and not dataset["data"]:
        _check_complete(name, dataset, original)
        declared: float = listed["sum_of_weights"]
        return declared
    total: float = original["sum_of_weights"]
    if dataset.get("wc_names"):
        if not original["eft_sums"]:
            raise DataFileError(
                f"dataset {name}: its files have no {EFT_COEFFICIENTS} that add up to a sum of "
                "weights; of a skim that doesn't say them, have a sample's file state it and say "
                "normalise: declared in the analysis"
            )
        total = original["eft_sums"][0]
    if listed is None or source == "declared":
        return total
    left_out = original.get("left_out", [])
    known = [file["events"] for file in left_out if file["events"] is not None]
    events = original["events"] + sum(known)
    # of a file that can't be opened any number may be stated
    fewer = len(known) == len(left_out) and events < listed["events"]
    if fewer or events > listed["events"]:
        raise DataFileError(
            f"{dataset['declared_in']}: nEvents: {listed['events']} are stated, the files of "
            f"{name} have {events}: is a file missing, or one too many? "
            "If they are a skim, say normalise: declared in the analysis"
        )
    if dataset["data"] or left_out:
        return total
    stated = listed["sum_of_weights"]
    if abs(total - stated) > SUM_TOLERANCE * stated:
        raise DataFileError(
            f"{dataset['declared_in']}: nSumOfWeights: {stated:g} is stated for "
            f"{listed['events']} events; the {original['events']} events of the files of {name} "
            f"sum up to {total:g}. If the files are a skim, say normalise: declared in the analysis"
        )
    return total


def _check_complete(name: str, dataset: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    """Refuse sums that are stated of all files, where some of them are left out."""
    left_out = original.get("left_out")
    if left_out:
        raise DataFileError(
            f"{dataset['declared_in']}: leave_out: the sums that are stated of {name} count "
            f"{left_out[0]['name']} too, which is left out. Say normalise: ledger in the analysis, "
            "or take the file out of the dataset and state the sums of the others"
        )
