"""The order in which results are summed, which depends on the results only.

The results of a dataset are in the order of its files. Neighbours form groups. Within a group they
are summed as a tree, each node the sum of its two halves, and groups are summed one after the
other. A floating-point sum then has the same bits whether it is made on workers or on the client,
however many workers there are, and in whatever order they finish.

A node is the range of the places that it sums in its group, such as range(4, 8).
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

GROUP = 16


def groups_of(names: Sequence[str]) -> list[range]:
    """Groups of at most 16 neighbouring places, given a name for each place.

    A group also ends after one in 16 names, chosen by the name itself, so that a change affects
    only the groups around it.
    """
    groups, start = [], 0
    for place, name in enumerate(names):
        ends = zlib.crc32(name.encode()) % GROUP == 0
        if ends or place + 1 - start == GROUP or place + 1 == len(names):
            groups.append(range(start, place + 1))
            start = place + 1
    return groups


def halves(node: range) -> tuple[range, range]:
    """The two halves of a node."""
    middle = (node.start + node.stop) // 2
    return range(node.start, middle), range(middle, node.stop)


def tree_sum(node: range, known: Callable[[range], T | None], add: Callable[[T, T], T]) -> T:
    """The sum of a node, from nodes whose sums are known. Few parts are in memory at a time."""
    total = known(node)
    if total is not None:
        return total
    left, right = halves(node)
    return add(tree_sum(left, known, add), tree_sum(right, known, add))


def parents(root: range) -> dict[range, range]:
    """Every node below a root, with its parent."""
    above: dict[range, range] = {}
    if len(root) > 1:
        for half in halves(root):
            above |= {half: root, **parents(half)}
    return above


def bundles(
    events: Mapping[int, int], root: range, most_events: int, most: int
) -> Iterator[list[int]]:
    """The places of a node with events to read, in bundles.

    `events` has the number of events at each place. A bundle has at most `most_events` events and
    at most `most` places, or is a single place.
    """
    places = [place for place in root if place in events]
    small = len(places) <= most and sum(events[place] for place in places) <= most_events
    if places and (small or len(root) == 1):
        yield places
    elif places:
        for half in halves(root):
            yield from bundles(events, half, most_events, most)
