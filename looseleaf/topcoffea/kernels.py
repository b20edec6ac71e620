"""The loops over events that filling an EFT histogram consists of, compiled.

They are nogil. What they are handed is checked before, by `EFTHist.fill`: bins and rows are not.
"""

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

# the index of a value too close to an edge to tell how it rounds
UNSURE = -2
# how many events ahead of its addition an event's terms are fetched, by cache lines of bytes
AHEAD, LINE = 64, 64
# terms that a processor adds at once: those of a bin begin at multiples of as many
LANES = 4


@numba.njit
def address(array):  # type: ignore[no-untyped-def]
    """Where an array begins; numpy's own way there takes as long as adding hundreds of events."""
    return array.ctypes.data


@numba.njit(nogil=True)
def equal_bins(low, scale, size, near, under, values):  # type: ignore[no-untyped-def]
    """The bin of each value, and how many are UNSURE: within `near` bins of an edge."""
    out, unsure = np.empty(len(values), np.int64), 0
    for event in range(len(values)):
        place = (values[event] - low) * scale
        # NaN lies above all, as boost-histogram has it
        place = size + 0.5 if math.isnan(place) else max(min(place, size + 0.5), -0.5)
        index = math.floor(place)
        sure = min(place - index, index + 1 - place) >= near
        out[event] = index + under if sure else UNSURE
        unsure += not sure
    return out, unsure


@numba.njit(nogil=True)
def searched_bins(edges, first, scale, under, values):  # type: ignore[no-untyped-def]
    """The bin of each value; `first` is where its search begins, by equal cells."""
    out = np.empty(len(values), np.int64)
    last = len(edges) - 1
    for event in range(len(values)):
        value = values[event]
        # NaN lies above all, as boost-histogram has it
        if not value < edges[last]:
            out[event] = last + under
        elif value < edges[0]:
            out[event] = under - 1
        else:
            index = first[min(int((value - edges[0]) * scale), len(first) - 1)]
            while value >= edges[index + 1]:
                index += 1
            out[event] = index + under
    return out


@intrinsic
def _prefetch(_typing, _address):  # type: ignore[no-untyped-def]
    """Have the processor fetch the cache line at an address; nothing is read, or can go wrong."""

    def emitted(context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [place], kind)
        # to be read, into the second cache, as data
        how = [number(0), number(2), number(1)]
        builder.call(fetch, [builder.inttoptr(arguments[0], place), *how])
        return context.get_dummy_value()

    return numba.types.void(numba.types.uint64), emitted


@intrinsic(prefer_literal=True)
def _add_lanes(_typing, terms, _into, _row, _term, _weight, lanes):  # type: ignore[no-untyped-def]
    """into[term + i] += weight * row[term + i] for i < lanes at once.

    `into` is the address of doubles, `row` of numbers of the kind that `terms` has. A plain loop
    over a row is compiled for rows of thousands, and takes longer for a hundred.
    """
    dtype, number = terms.dtype, lanes.literal_value

    def emitted(context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        _, into, row, term, weight, _ = arguments

        def place(address: Any, kind: Any) -> Any:
            first = builder.gep(builder.inttoptr(address, kind.as_pointer()), [term])
            return builder.bitcast(first, ir.VectorType(kind, number).as_pointer())

        sums = place(into, ir.DoubleType())
        doubles = sums.type.pointee
        source = place(row, context.get_value_type(dtype))
        added = builder.load(source, align=1)
        if added.type != doubles:
            added = builder.fpext(added, doubles)
        weights = ir.Constant(doubles, ir.Undefined)
        for lane in range(number):
            weights = builder.insert_element(weights, weight, ir.IntType(32)(lane))
        product = builder.fmul(added, weights, flags=["contract"])
        total = builder.fadd(builder.load(sums, align=8), product, flags=["contract"])
        builder.store(total, sums, align=8)
        return context.get_dummy_value()

    uint64 = numba.types.uint64
    return numba.types.void(terms, uint64, uint64, uint64, numba.types.float64, lanes), emitted


@numba.njit(nogil=True)
def add_terms(sums, bins, rows, weights, terms):  # type: ignore[no-untyped-def]
    """Add each event's weighted terms to its bin; events of bin -1 have none.

    `sums` and `terms` lie side by side for each bin and event, as `EFTHist` has them.
    `rows` are those of the events in `terms`, None if they are one after the other. The sums
    between the rows keep a processor from seeing that these mostly are, so it is told which come.
    """
    if sums.shape[1] > 1 and sums.strides[1] != sums.itemsize:
        raise ValueError("the sums of a bin should lie side by side")
    # unsigned, or each index would be asked whether it counts from the end
    uint = numba.uint64
    number, item = uint(terms.shape[1]), uint(terms.itemsize)
    begin, size = uint(terms.ctypes.data), number * item
    lines = (size + uint(LINE - 1)) // uint(LINE)
    first, stride = uint(sums.ctypes.data), uint(sums.strides[0])
    whole, wide = number // uint(LANES), (number + uint(LANES - 1)) // uint(LANES)
    filled_up = len(sums) > 1 and stride >= wide * uint(LANES * sums.itemsize)
    for event in range(len(bins)):
        ahead = event + AHEAD
        if ahead < len(bins):
            line = begin + uint(ahead if rows is None else rows[ahead]) * size
            for _ in range(lines):
                _prefetch(line)
                line += uint(LINE)
        if bins[event] < 0:
            continue
        which = uint(event if rows is None else rows[event])
        into, row, weight = first + uint(bins[event]) * stride, begin + which * size, weights[event]
        # beyond a row's end are the next one's terms, which go where nothing is kept
        blocks = wide if filled_up and which + uint(1) < uint(len(terms)) else whole
        term = uint(0)
        for _ in range(blocks):
            _add_lanes(terms, into, row, term, weight, LANES)
            term += uint(LANES)
        while term < number:
            _add_lanes(terms, into, row, term, weight, 1)
            term += uint(1)


@numba.njit(nogil=True)
def add_columns(sums, bins, rows, weights, terms, columns):  # type: ignore[no-untyped-def]
    """`add_terms` where a term has another place in the sums, or none (-1)."""
    for event in range(len(bins)):
        index = bins[event]
        if index < 0:
            continue
        row, weight = event if rows is None else rows[event], weights[event]
        for term in range(terms.shape[1]):
            column = columns[term]
            if column >= 0:
                sums[index, column] += weight * terms[row, term]
