"""The axes of EFT histograms, and the events beyond them."""

from looseleaf.histograms.coverage import losses_beyond, observable_edges
from looseleaf.histograms.typed import Plain
from looseleaf.losses import Loss
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis

PROCESS, CHANNEL, REGION, SYSTEMATIC = "process", "channel", "region", "systematic"
NOMINAL = "nominal"
# leptons whose rates weigh events, and those of them with a capped rate or none
FAILING, CAPPED, UNMEASURED = "failing", "capped", "unmeasured"


def beyond_axes(analysis: TopCoffeaAnalysis, covered: Plain) -> list[Loss]:
    """The events outside the observables' edges; an event counts in each of its channels."""
    return losses_beyond(
        covered,
        observable_edges(analysis),
        "events",
        "the flow bins hold them, which cards and workspaces add to the outermost bins",
        analysis.allow.beyond,
    )
