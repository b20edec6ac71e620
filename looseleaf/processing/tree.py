"""The order in which results are summed: it follows from what they are, and from nothing else.

The results of a dataset stand in the order of its files. Neighbours form groups; within a group
they are summed as a tree, each node the sum of its two halves, and groups are summed one after
the other. A sum in floating point then has the same bits wherever its parts are added, on workers
or on the client, however many there are, and in whatever order they finish.

A node is the range of the places that it sums in its group, such as range(4, 8).
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

GROUP = 16


def groups_of(names: Sequence[str]) -> list[range]:
    """Neighbouring places, at most 16 at a time, given a name for what stands at each.

    A group also ends after every name that says so, one in 16, so that what is added or changed
    changes the groups around it and no others.
    """
    groups, start = [], 0
    for place, name in enumerate(names):
        ends = zlib.crc32(name.encode()) % GROUP == 0
        if ends or place + 1 - start == GROUP or place + 1 == len(names):
            groups.append(range(start, place + 1))
            start = place + 1
    return groups


def halves(node: range) -> tuple[range, range]:
    """The two nodes that a node sums."""
    middle = (node.start + node.stop) // 2
    return range(node.start, middle), range(middle, node.stop)


def tree_sum(node: range, known: Callable[[range], T | None], add: Callable[[T, T], T]) -> T:
    """The sum of a node, given those that are known. Few parts are held at a time."""
    total = known(node)
    if total is not None:
        return total
    left, right = halves(node)
    return add(tree_sum(left, known, add), tree_sum(right, known, add))


def parents(root: range) -> dict[range, range]:
    """Every node below a root, and the node that it is a half of."""
    above: dict[range, range] = {}
    if len(root) > 1:
        for half in halves(root):
            above |= {half: root, **parents(half)}
    return above


def bundles(
    events: Mapping[int, int], root: range, most_events: int, most: int
) -> Iterator[list[int]]:
    """The places of a node that have events to read, bundled by nodes that hold few events.

    `events` has the number of events at each place; a bundle holds at most `most_events` of them
    and at most `most` places, or one place.
    """
    places = [place for place in root if place in events]
    small = len(places) <= most and sum(events[place] for place in places) <= most_events
    if places and (small or len(root) == 1):
        yield places
    elif places:
        for half in halves(root):
            yield from bundles(events, half, most_events, most)
