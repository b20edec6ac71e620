"""Which NanoAOD branches are read, from the configuration alone.

An entry `A|B` asks for whichever of the alternatives a file has; a file must have at least one.
Light enough to be imported while Snakemake parses the graph.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints

# NanoAODSchema needs these three to build events
IDENTITY = frozenset({"run", "luminosityBlock", "event"})
MET = frozenset({"MET_pt", "MET_phi"})
JETS = frozenset({"Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass"})
KINEMATICS = ("pt", "eta", "phi", "mass", "charge")
# lepton quantities computed from several branches, or at another momentum
COMPUTED = ("lep0_pt", "lep1_pt", "lep2_pt", "lep0_mt", "m_z")


def cut_columns(cuts: Iterable[str]) -> set[str]:
    """The branches that expressions over NanoAOD branches need.

    A collection's counter nX is read as such or, if a file has none, from the collection's pT.
    """
    columns = set()
    for text in cuts:
        for name in Expression(text).names:
            if name[0] == "n" and name[1:2].isupper():
                columns.add(f"{name}|{name[1:]}_pt")
            else:
                columns.add(name)
    return columns


def lepton_columns(used: Iterable[tuple[str, str]], working_points: WorkingPoints) -> set[str]:
    """The branches that leptons of the given working points, (collection, name), need."""
    columns: set[str] = set()
    for collection, name in used:
        columns |= {f"{collection}_{field}" for field in KINEMATICS}
        columns |= working_points.columns(collection, name)
    return columns


def trigger_columns(triggers: Sequence[Mapping[str, Any]]) -> set[str]:
    """The trigger paths, the alternatives of a trigger as one entry `A|B`."""
    return {"|".join(trigger["paths"]) for trigger in triggers}


def corrected_collection(
    name: str, correction: Mapping[str, Any], collections: Iterable[str]
) -> str:
    """The collection whose leptons a correction weighs, from its inputs.

    Raises `ConfigError` if its inputs are of none of the `collections`, or of several.
    """
    branches = cut_columns(correction["inputs"].values())
    matching = sorted({branch.partition("_")[0] for branch in branches} & set(collections))
    if len(matching) != 1:
        raise ConfigError(
            f"corrections.{name}.inputs: a lepton weight takes branches of exactly one of "
            f"{', '.join(collections)}, not of {' and '.join(matching) or 'none'}"
        )
    return matching[0]
