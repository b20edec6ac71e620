"""Loops over the objects of events, to be compiled by numba; `looseleaf.objects.loops` calls them.

As in `looseleaf.efthist.kernels`, these are C functions of addresses and sizes. Callers check the
arguments.
"""

import math

from looseleaf.efthist.kernels import llvm_code


def places_of(offsets, events, chosen, size, among, index, event):
    """The places of chosen objects of events `among` all into `index`, their events into `event`.

    Returns their number, or -1 if the offsets don't rise from 0 to `size`.
    """
    number = end = 0
    for of in range(events):
        counts = among[of]
        begin, end = offsets[of], offsets[of + 1]
        if begin < 0 or end < begin or end > size:
            return -1
        for place in range(begin, end):
            # written always and kept if chosen, since a jump that can't be predicted takes longer
            index[number] = place
            event[number] = of
            number += counts & chosen[place]
    return number if end == size else -1


def number_of(offsets, events, chosen, size, out):
    """How many objects of each event are chosen.

    Returns whether the offsets rise from 0 to `size`.
    """
    end = 0
    for of in range(events):
        begin, end = offsets[of], offsets[of + 1]
        if begin < 0 or end < begin or end > size:
            return 0
        number = 0
        for place in range(begin, end):
            number += chosen[place]
        out[of] = number
    return int(end == size)


def farther(
    event, index, size, eta, phi, other_event, other_index, others, other_eta, other_phi, given, out
):
    """Whether each of the others is farther from all objects of its event than `given[1]`.

    Both are in the order of their events; `given[0]` is pi. Everything is computed in the precision
    of the angles, in the order of coffea's vectors.
    """
    half = given[0]
    turn = half + half
    first = 0
    for other in range(others):
        while first < size and event[first] < other_event[other]:
            first += 1
        away = 1
        place = first
        while place < size and event[place] == other_event[other]:
            d_phi = phi[index[place]] - other_phi[other_index[other]] + half
            # most angles need no remainder, which takes longer than all the rest
            if d_phi < 0 or d_phi >= turn:
                d_phi %= turn
            d_phi -= half
            d_eta = eta[index[place]] - other_eta[other_index[other]]
            away &= math.sqrt(d_phi * d_phi + d_eta * d_eta) > given[1]
            place += 1
        out[other] = away


def largest(event, index, size, values, chosen, out):
    """The largest of the chosen values of each event; NaN only if there is nothing else."""
    last = -1
    for place in range(size):
        if not chosen[place]:
            continue
        value = values[index[place]]
        if event[place] != last:
            last = event[place]
            out[last] = value
        elif value > out[last] or math.isnan(out[last]):
            out[last] = value


def cover(low, high, edges, size, values, weights, number, counts, sums):
    """Count values, and sum the absolute weights, by side of an axis and by bin of `edges`.

    Bins are for each side below and above the edges as well. Weights of zero and NaN are left out.
    """
    for entry in range(number):
        value, weight = values[entry], weights[entry]
        if weight == 0 or math.isnan(value):
            continue
        begin, length = 0, size
        # the number of edges up to the value
        while length > 0:
            half = length // 2
            if edges[begin + half] <= value:
                begin += half + 1
                length -= half + 1
            else:
                length = half
        place = ((value >= low) + (value >= high)) * (size + 1) + begin
        counts[place] += 1
        sums[place] += abs(weight)


def enter(places, step, weights, number, counts, sums, squares):
    """Count entries, and sum the absolute weights and their squares, by place.

    The place of entry i is `places[i * step]`. Weights of zero are left out.
    """
    for entry in range(number):
        weight = abs(weights[entry])
        if weight == 0:
            continue
        place = places[entry * step]
        counts[place] += 1
        sums[place] += weight
        squares[place] += weight * weight


def cutflow(cuts, steps, weights, events, counts, sums, squares):
    """Count events, and sum their weights and the squares of these, by the cuts that they pass
    before the first that they don't.

    `cuts` has the answers for all events of the first cut, then those of the second, and so on.
    """
    for event in range(events):
        step = 0
        while step < steps and cuts[step * events + event]:
            step += 1
        weight = weights[event]
        counts[step] += 1
        sums[step] += weight
        squares[step] += weight * weight


def compiled(name: str, returned: str, arguments: str) -> str:
    """The LLVM code of a loop."""
    return llvm_code(globals()[name], returned, arguments)
