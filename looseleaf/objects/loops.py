"""Loops over the objects of events as machine code.

Each does in one pass what numpy needs several arrays as long as a collection for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from looseleaf.efthist.machine import Loops, address

SIGNATURES = {
    "places_of": ("i", "IiBiBII"),
    "number_of": ("i", "IiBiI"),
    "farther": ("", "IIi{terms}{terms}IIi{terms}{terms}{terms}B"),
    "largest": ("", "IIi{terms}BD"),
    "cover": ("", "ddDiDDiDD"),
    "enter": ("", "IiDiDDD"),
    "cutflow": ("", "BiDiIDD"),
}


def _compiled(name: str, returned: str, arguments: str) -> str:
    from looseleaf.objects import kernels  # noqa: PLC0415 - numba is needed for this alone

    return kernels.compiled(name, returned, arguments)


LOOPS = Loops(Path(__file__).with_name("kernels.py"), SIGNATURES, _compiled)
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


def places_of(offsets: Integers, chosen: Flags, among: Flags) -> tuple[Integers, Integers]:
    """The places of the chosen objects in the events `among` all, and their events."""
    # the last is written over again and again once all are found
    index, event = (np.empty(len(chosen) + 1, np.int64) for _ in range(2))
    begins, marks, wanted = (
        np.ascontiguousarray(offsets, np.int64),
        np.ascontiguousarray(chosen, np.bool_),
        np.ascontiguousarray(among, np.bool_),
    )
    number = -1
    if len(begins) == len(wanted) + 1:
        number = LOOPS("places_of")(
            address(begins),
            len(wanted),
            address(marks),
            len(marks),
            address(wanted),
            address(index),
            address(event),
        )
    if number < 0:
        raise ValueError("lists don't have as many objects as their events count")
    return index[:number].copy(), event[:number].copy()


def number_of(offsets: Integers, chosen: Flags) -> Integers:
    """How many objects of each event are chosen."""
    begins, marks = np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(chosen, np.bool_)
    out = np.empty(len(begins) - 1, np.int64)
    if not LOOPS("number_of")(address(begins), len(out), address(marks), len(marks), address(out)):
        raise ValueError("lists don't have as many objects as their events count")
    return out


def farther(
    event: Integers,
    index: Integers,
    directions: tuple[NDArray[Any], NDArray[Any]],
    other_event: Integers,
    other_index: Integers,
    other_directions: tuple[NDArray[Any], NDArray[Any]],
    least: float,
) -> Flags:
    """Which others are farther than `least` from all objects of their event.

    `directions` are eta and phi by the `index` of an object; both are in the order of events.
    """
    kind = np.result_type(np.float32, *directions, *other_directions)
    eta, phi, other_eta, other_phi, given = (
        np.ascontiguousarray(values, kind)
        for values in (*directions, *other_directions, (np.pi, least))
    )
    out = np.empty(len(other_event), np.bool_)
    LOOPS("farther", kind.itemsize)(
        address(event),
        address(index),
        len(event),
        address(eta),
        address(phi),
        address(other_event),
        address(other_index),
        len(other_event),
        address(other_eta),
        address(other_phi),
        address(given),
        address(out),
    )
    return out


def largest(
    event: Integers, index: Integers, values: NDArray[Any], chosen: Flags, events: int
) -> Floats:
    """The largest of the chosen values in each event, 0 if it has none.

    The objects are in the order of events, their values by `index`. NaN counts if there is nothing
    else.
    """
    values = np.ascontiguousarray(values, np.result_type(np.float32, values))
    out = np.zeros(events)
    LOOPS("largest", values.itemsize)(
        address(event),
        address(index),
        len(event),
        address(values),
        address(chosen),
        address(out),
    )
    return out


def cover(
    low: float, high: float, edges: Floats, values: ArrayLike, weights: Floats
) -> tuple[Floats, Floats]:
    """How many values are below, within and above an axis by bin of `edges`, and their weights.

    The first and the last bin are those beyond the edges. Weights count absolutely; those of zero,
    and values that are NaN, are left out.
    """
    edges, numbers, weights = (
        np.ascontiguousarray(array, np.float64) for array in (edges, values, weights)
    )
    if numbers.shape != weights.shape:
        raise ValueError("there is not one weight for each value")
    counts, sums = (np.zeros((3, len(edges) + 1)) for _ in range(2))
    LOOPS("cover")(
        low,
        high,
        address(edges),
        len(edges),
        address(numbers),
        address(weights),
        len(weights),
        address(counts),
        address(sums),
    )
    return counts, sums


def enter(places: Integers, weights: Floats, counts: Floats, sums: Floats, squares: Floats) -> None:
    """Add the absolute weights of entries to `sums` at their places, and their squares.

    There is a place for each entry, or one for all. Weights of zero are left out.
    """
    weights = np.ascontiguousarray(weights, np.float64)
    if len(places) not in (1, len(weights)):
        raise ValueError("there is not one weight for each entry")
    LOOPS("enter")(
        address(places),
        int(len(places) > 1),
        address(weights),
        len(weights),
        address(counts),
        address(sums),
        address(squares),
    )


def cutflow(cuts: Sequence[Flags], weights: Floats) -> tuple[NDArray[Any], ...]:
    """Of events before any cut and after each: their number, the sum of their weights, and that
    of their squares.

    A cut has an answer for each event.
    """
    weights = np.ascontiguousarray(weights, np.float64)
    # an array of no cuts has a shape too
    answers = np.array(cuts, np.bool_).reshape(len(cuts), len(weights))
    counts = np.zeros(len(cuts) + 1, np.int64)
    sums, squares = np.zeros((2, len(cuts) + 1))
    LOOPS("cutflow")(
        address(answers),
        len(cuts),
        address(weights),
        len(weights),
        address(counts),
        address(sums),
        address(squares),
    )
    # who passes a cut has passed those before it
    return tuple(np.cumsum(last[::-1])[::-1] for last in (counts, sums, squares))
