"""Names of channels, processes and nuisances in the form that Combine accepts.

Combine refuses a channel that begins with a digit, renames such a nuisance to `theta<name>` and
then misses its templates, reads `/` in a process as a folder, and confuses a nuisance with its own
parameter of the same name. Read while the graph is parsed, so nothing heavy is imported here.
"""

import re

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CHANNEL_PREFIX = "ch_"
# observed data; no process has this name
OBSERVED = "data_obs"
# signal strength, mass, axis and category, and keywords of a card
RESERVED = frozenset({
    "r", "MH", "CMS_th1x", "CMS_channel", OBSERVED, "imax", "jmax", "kmax", "shapes", "bin",
    "observation", "process", "rate", "group", "nuisance",
})  # fmt: skip
# prefixes of Combine's parameters for the statistics of simulation
STATISTICS_PREFIX = "prop_bin"


def card_channel(channel: str) -> str:
    """The name of a channel in cards and the workspace: `2lss_4j` becomes `ch_2lss_4j`.

    All channels get the prefix, so that names stay unique.
    """
    return CHANNEL_PREFIX + channel


def is_reserved(name: str) -> bool:
    """Whether Combine gives another meaning to a nuisance or coefficient of this name."""
    return name in RESERVED or name.startswith(STATISTICS_PREFIX)
