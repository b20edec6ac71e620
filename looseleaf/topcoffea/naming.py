"""Names of channels, processes and nuisances as Combine takes them.

Combine refuses a channel that begins with a digit, calls a nuisance that does `theta<name>` and
then misses its templates, reads `/` in a process as a folder, and takes a nuisance of the name of
one of its own parameters for that parameter. Read while the graph is parsed, so nothing heavy is
imported here.
"""

import re

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CHANNEL_PREFIX = "ch_"
# what was observed; no process is called so
OBSERVED = "data_obs"
# the signal strength, the mass, the axis and the category; and words of a card's grammar
RESERVED = frozenset({
    "r", "MH", "CMS_th1x", "CMS_channel", OBSERVED, "imax", "jmax", "kmax", "shapes", "bin",
    "observation", "process", "rate", "group", "nuisance",
})  # fmt: skip
# Combine's parameters of simulation's statistics begin so
STATISTICS_PREFIX = "prop_bin"


def card_channel(channel: str) -> str:
    """What a channel is called in cards and in the workspace: `2lss_4j` is `ch_2lss_4j`.

    All get the prefix, so that no two channels get one name.
    """
    return CHANNEL_PREFIX + channel


def is_reserved(name: str) -> bool:
    """Whether a nuisance or coefficient of this name would be something else to Combine."""
    return name in RESERVED or name.startswith(STATISTICS_PREFIX)
