"""The normalisation of a topcoffea analysis' datasets, and checks of what they declare."""

from collections.abc import Mapping
from typing import Any

from looseleaf.efthist import quadratic_terms
from looseleaf.errors import DataFileError
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.weights import scale_to_luminosity
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis, varies
from looseleaf.topcoffea.axes import NOMINAL

# the tolerance between a stated sum and one computed from events in single precision
SUM_TOLERANCE = 1e-4


def check_coefficients(name: str, declared: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    """Check the Wilson coefficients that a dataset declares against those in its files.

    Raises `DataFileError` naming the file and key of the declaration if the numbers of terms
    differ, or if the files have terms and nothing is declared. A skim may not state how many it
    has.
    """
    names, sums = declared.get("wc_names", []), original["eft_sums"]
    file = declared["declared_in"]
    where = f"{file}: " + ("WCnames" if file.endswith(".json") else f"{name}.wc_names")
    if not names:
        if sums is not None:
            raise DataFileError(
                f"{where}: is missing, but the files have {EFT_COEFFICIENTS}; name their Wilson "
                "coefficients"
            )
        return
    expected = len(quadratic_terms(names))
    if sums and len(sums) != expected:
        raise DataFileError(
            f"{where}: {len(names)} coefficients ({', '.join(names)}) make {expected} terms, but "
            f"an event of the files has {len(sums)}"
        )


def factors_of(
    name: str,
    dataset: Mapping[str, Any],
    analysis: TopCoffeaAnalysis,
    original: Mapping[str, Any],
) -> dict[str, float]:
    """The factors for the weights of a dataset, `nominal` and by variation of theory weights.

    Theory weights are normalised to sums of their own. `original` is what the ledger says about the
    dataset's original events. Raises `DataFileError` if a sum isn't positive or if the ledger lacks
    one; and, naming the file and key, if a sum or the number of events differs from the
    declaration.
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
    """The ledger's sum of a theory weight, checked against the dataset's declaration."""
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
            f"dataset {name}: its files have sums of {len(sums)} weights of {branch}, but number "
            f"{place} is needed (the first is 0). If they are a skim that left them out, declare "
            "the sums, and set normalise: declared in the analysis"
        )
    total: float | None = sums[place]
    if total is None:
        raise DataFileError(f"dataset {name}: {branch}[{place}] is NaN or infinite in some events")
    # a stated sum is over all files
    complete = not original.get("left_out")
    if stated is not None and complete and abs(total - stated) > SUM_TOLERANCE * stated:
        of = f"nSumOfWeights_{key}" if "listed" in dataset else f"{name}.sums_of_weights.{key}"
        raise DataFileError(
            f"{dataset['declared_in']}: {of}: states {stated:g}, but in the {original['events']} "
            f"events of {name} {branch}[{place}] adds up to {total:g}"
        )
    return total


def _sum_of_weights(
    name: str, dataset: Mapping[str, Any], source: str, original: Mapping[str, Any]
) -> float:
    """The ledger's sum over the original events.

    It and their number are checked against the sample's file.
    """
    listed = dataset.get("listed")
    if listed is not None and source == "declared" and not dataset["data"]:
        _check_complete(name, dataset, original)
        declared: float = listed["sum_of_weights"]
        return declared
    total: float = original["sum_of_weights"]
    if dataset.get("wc_names"):
        if not original["eft_sums"]:
            raise DataFileError(
                f"dataset {name}: its files have no {EFT_COEFFICIENTS} from which to compute a sum "
                "of weights. If they are a skim without these sums, state the sum in a sample's "
                "file and set normalise: declared in the analysis"
            )
        total = original["eft_sums"][0]
    if listed is None or source == "declared":
        return total
    left_out = original.get("left_out", [])
    known = [file["events"] for file in left_out if file["events"] is not None]
    events = original["events"] + sum(known)
    # a file that can't be opened may have any number of events
    fewer = len(known) == len(left_out) and events < listed["events"]
    if fewer or events > listed["events"]:
        raise DataFileError(
            f"{dataset['declared_in']}: nEvents: states {listed['events']}, but the files of "
            f"{name} have {events}: is a file missing, or one too many? "
            "If they are a skim, set normalise: declared in the analysis"
        )
    if dataset["data"] or left_out:
        return total
    stated = listed["sum_of_weights"]
    if abs(total - stated) > SUM_TOLERANCE * stated:
        raise DataFileError(
            f"{dataset['declared_in']}: nSumOfWeights: states {stated:g} for {listed['events']} "
            f"events, but the weights of the {original['events']} events of {name} add up to "
            f"{total:g}. If its files are a skim, set normalise: declared in the analysis"
        )
    return total


def _check_complete(name: str, dataset: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    """Refuse stated sums over all files if some of the files are left out."""
    left_out = original.get("left_out")
    if left_out:
        raise DataFileError(
            f"{dataset['declared_in']}: leave_out: the stated sums of {name} include "
            f"{left_out[0]['name']}, which is left out. Set normalise: ledger in the analysis, "
            "or remove the file from the dataset and state the sums of the others"
        )
