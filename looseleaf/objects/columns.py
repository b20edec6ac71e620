"""Which NanoAOD branches an analysis reads, told from its configuration alone.

Light enough to be imported while Snakemake parses the graph. An entry `A|B` asks for whichever
of the alternatives a file has, and for at least one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.objects.branches import EFT_COEFFICIENTS, WEIGHT
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.years import of_year

# NanoAODSchema needs these three to make events
IDENTITY = frozenset({"run", "luminosityBlock", "event"})
MET = frozenset({"MET_pt", "MET_phi"})
KINEMATICS = ("pt", "eta", "phi", "mass", "charge")


def used_points(analysis: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The working points that an analysis speaks of, as (collection, name)."""
    if analysis["kind"] in ("application", "topcoffea"):
        return [
            (collection, roles[role])
            for collection, roles in analysis["working_points"].items()
            for role in ("loose", "tight")
        ]
    if analysis["kind"] == "flips":
        return [("Electron", analysis["electron"])]
    collection = analysis["lepton"]["collection"]
    mine = [(collection, analysis[role]) for role in ("denominator", "loose", "tight")]
    return [*mine, *analysis["veto"].items()]


def cut_columns(cuts: Iterable[str]) -> set[str]:
    """The branches behind expressions over NanoAOD branches.

    A collection's counter nX is read by itself or, where a file has none, from its momenta.
    """
    columns = set()
    for text in cuts:
        for name in Expression(text).names:
            if name[0] == "n" and name[1:2].isupper():
                columns.add(f"{name}|{name[1:]}_pt")
            else:
                columns.add(name)
    return columns


def _leptons(analysis: Mapping[str, Any], points: WorkingPoints) -> set[str]:
    columns: set[str] = set()
    for collection, name in used_points(analysis):
        columns |= {f"{collection}_{field}" for field in KINEMATICS}
        columns |= points.columns(collection, name)
    return columns


def fakerate_columns(analysis: Mapping[str, Any], points: WorkingPoints) -> set[str]:
    columns = MET | _leptons(analysis, points)
    columns |= {"Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass"}
    if analysis["momentum"] == "cone":
        columns |= points.cone_columns(analysis["lepton"]["collection"], analysis["tight"])
    columns |= cut_columns(analysis.get("cuts", {}).values())
    columns |= cut_columns(o["expression"] for o in analysis.get("observables", {}).values())
    return columns | {"|".join(trigger["paths"]) for trigger in analysis["triggers"]}


# what a channel's expression may speak of, beside the working points' counts
EVENT_QUANTITIES = (
    "n_lep",
    "n_mu",
    "n_ele",
    "charge",
    "n_jet",
    "n_bjet",
    "ht",
    "met",
    "lep0_pt",
    "lep1_pt",
    "lep0_mt",
    "lep2_pt",
    "lep0_charge",
    "m_z",
)

# those that are computed of several branches, or of leptons at another momentum
COMPUTED = ("lep0_pt", "lep1_pt", "lep2_pt", "lep0_mt", "m_z")


def multilepton_columns(analysis: Mapping[str, Any], points: WorkingPoints) -> set[str]:
    """What channels and observables of events with several leptons need."""
    columns = MET | _leptons(analysis, points)
    jets = analysis["jets"]
    columns |= {"Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass", f"Jet_{jets['btag']['branch']}"}
    columns |= {"|".join(trigger["paths"]) for trigger in analysis["triggers"]}
    for collection, roles in analysis.get("working_points", {}).items():
        if roles["momentum"] == "cone":
            columns |= points.cone_columns(collection, roles["tight"])
    known = set(EVENT_QUANTITIES)
    for where, text in _multilepton_expressions(analysis):
        unknown = Expression(text).names - known
        if unknown:
            raise ConfigError(
                f"{where}: {text!r} speaks of {sorted(unknown)[0]!r}; known are "
                + ", ".join(EVENT_QUANTITIES)
            )
    return columns


def _multilepton_expressions(analysis: Mapping[str, Any]) -> list[tuple[str, str]]:
    texts = [(f"cuts.{name}", text) for name, text in analysis.get("cuts", {}).items()]
    # a channel that isn't an expression is made of named cuts
    texts += [(f"channels.{n}", t) for n, t in analysis["channels"].items() if isinstance(t, str)]
    texts += [
        (f"observables.{name}.expression", value["expression"])
        for name, value in analysis["observables"].items()
    ]
    for name, shape in analysis.get("systematics", {}).get("shape", {}).items():
        texts += [
            (f"systematics.shape.{name}.weight.{direction}", text)
            for direction, text in shape.get("weight", {}).items()
        ]
    return texts


def corrected_collection(
    name: str, correction: Mapping[str, Any], collections: Iterable[str]
) -> str:
    """Of which of the collections of leptons a correction is, told from its inputs.

    Raises `ConfigError` if it is of none, or of several.
    """
    branches = cut_columns(correction["inputs"].values())
    found = sorted({branch.partition("_")[0] for branch in branches} & set(collections))
    if len(found) != 1:
        raise ConfigError(
            f"corrections.{name}.inputs: a weight of leptons takes branches of one collection of "
            f"{', '.join(collections)}, not of {' and '.join(found) or 'none'}"
        )
    return found[0]


def varies(systematic: Mapping[str, Any], process: str) -> bool:
    """Whether a declared systematic varies a simulated process: each, if it names none."""
    return process in systematic.get("processes", [process])


def topcoffea_columns(analysis: Mapping[str, Any], dataset: Mapping[str, Any]) -> set[str]:
    """What a topcoffea analysis reads of simulation alone: origins of leptons, theory weights."""
    columns = set()
    if "flips" in analysis and "Electron" in analysis["working_points"]:
        columns |= {"Electron_genPartIdx", "GenPart_pdgId"}
    if "nonprompt" in analysis:
        columns |= {f"{collection}_genPartFlav" for collection in analysis["working_points"]}
    for theory in analysis.get("systematics", {}).get("theory", {}).values():
        if varies(theory, dataset["process"]):
            columns.add(theory["branch"])
    return columns


def analysis_columns(
    analysis: Mapping[str, Any], dataset: Mapping[str, Any], points: WorkingPoints
) -> set[str]:
    """Branches that an analysis reads from a dataset, both as declared in the configuration."""
    columns = set(IDENTITY)
    if analysis["kind"] == "topcoffea":
        analysis = of_year(analysis, dataset.get("year"))
    if analysis["kind"] == "fakerate":
        columns |= fakerate_columns(analysis, points)
    elif analysis["kind"] == "flips":
        columns |= _leptons(analysis, points)
        columns |= {"|".join(trigger["paths"]) for trigger in analysis["triggers"]}
    else:
        columns |= multilepton_columns(analysis, points)
    if analysis["kind"] == "topcoffea" and "wc_names" in dataset:
        columns.add(EFT_COEFFICIENTS)
    if analysis["kind"] == "topcoffea" and not dataset["data"]:
        columns |= topcoffea_columns(analysis, dataset)
    if not dataset["data"]:
        columns.add(WEIGHT)
        if analysis["kind"] == "application":
            columns |= {f"{collection}_genPartFlav" for collection in analysis["maps"]}
        for correction in analysis.get("corrections", {}).values():
            columns |= cut_columns(correction["inputs"].values())
    return columns
