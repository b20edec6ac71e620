"""Comparing names of datasets: parts, versions and patterns that have the same events.

Light, since it is used while the configuration is checked.
"""

import re

# each version of the prompt reconstruction has its own runs
PROMPT = re.compile(r"Run\d{4}[A-Z]-Prompt\w*-v\d+")


def parts_of(das: str) -> tuple[str, str, str]:
    """Primary dataset, processed dataset and data tier of /primary/processed/tier."""
    primary, processed, tier = das.strip("/").split("/")
    return primary, processed, tier


def unversioned(processed: str) -> str:
    """The processed dataset without its version; two versions have the same events."""
    return processed if PROMPT.fullmatch(processed) else re.sub(r"-v\d+$", "", processed)


def unextended(processed: str) -> str:
    """The processed dataset without its version and extension."""
    return re.sub(r"_ext\d+(?=-|$)", "", re.sub(r"-v\d+$", "", processed))


def campaign(processed: str) -> str:
    """The campaign of a simulation: RunIISummer20UL16APV of RunIISummer20UL16NanoAODAPVv9-106X_...

    A primary dataset has the same events in all NanoAOD versions of a campaign.
    """
    return re.sub(r"(Nano|Mini)AOD(APV)?v\d+$", r"\2", processed.partition("-")[0])


def same_events(das: str) -> tuple[str, str, str]:
    """What two versions of a dataset have in common, and no other two datasets."""
    primary, processed, tier = parts_of(das)
    return primary, unversioned(processed), tier


def pattern_of_both(one: str, other: str) -> str | None:
    """The pattern that matches a dataset and its extension; None for other datasets."""
    (primary, first, tier), (b, second, same) = parts_of(one), parts_of(other)
    if (primary, tier) != (b, same) or unextended(first) != unextended(second):
        return None
    return f"/{primary}/{unextended(first)}*/{tier}"


def may_match_the_same(one: str, other: str) -> bool:
    """Whether some name matches both patterns, with * for any characters."""
    reached, left = {(0, 0)}, [(0, 0)]
    while left:
        i, j = left.pop()
        a, b = one[i : i + 1], other[j : j + 1]
        if not a and not b:
            return True
        # a * ends, or matches a character of the other pattern
        steps = {(i + 1, j + 1)} if a == b != "*" else set()
        steps |= {(i + 1, j)} | ({(i, j + 1)} if b else set()) if a == "*" else set()
        steps |= {(i, j + 1)} | ({(i + 1, j)} if a else set()) if b == "*" else set()
        left += steps - reached
        reached |= steps
    return False
