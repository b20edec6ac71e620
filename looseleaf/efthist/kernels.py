"""The inner loops of filling an EFT histogram, to be compiled by numba.

They are C functions of addresses and sizes, so that the compiled code runs without numba:
`looseleaf.efthist.machine` keeps and calls it. Callers check the arguments; bins and rows aren't
checked here. Arrays are contiguous, except that the sums of bins are `stride` bytes apart.
"""

import math
from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic
from numba.types import CPointer, float32, float64, int64, uint8, uint64, void

from looseleaf.efthist.machine import LANES, UNSURE

# how many events in advance an event's terms are prefetched, and the bytes of a cache line
AHEAD, LINE = 64, 64


def equal_bins(low, scale, size, near, under, values, events, out):
    """The bin of each value into `out`; returns the number that are UNSURE.

    These are within `near` bins of an edge.
    """
    unsure = 0
    for event in range(events):
        place = (values[event] - low) * scale
        # NaN is above all values, as in boost-histogram
        place = size + 0.5 if math.isnan(place) else max(min(place, size + 0.5), -0.5)
        index = math.floor(place)
        sure = min(place - index, index + 1 - place) >= near
        out[event] = index + under if sure else UNSURE
        unsure += not sure
    return unsure


def searched_bins(edges, last, first, cells, scale, under, values, events, out):
    """The bin of each value into `out`, by edges 0 to `last`.

    `first` is where the search starts, by equal cells.
    """
    for event in range(events):
        value = values[event]
        # NaN is above all values, as in boost-histogram
        if not value < edges[last]:
            out[event] = last + under
        elif value < edges[0]:
            out[event] = under - 1
        else:
            index = first[min(int((value - edges[0]) * scale), cells - 1)]
            while value >= edges[index + 1]:
                index += 1
            out[event] = index + under


@intrinsic
def _prefetch(_typing, _address):
    """Prefetch the cache line at an address; nothing is read, so it can't fail."""

    def emitted(context, builder, _signature, arguments):
        place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [place], kind)
        # for reading, into the second-level cache, as data
        how = [number(0), number(2), number(1)]
        builder.call(fetch, [builder.inttoptr(arguments[0], place), *how])
        return context.get_dummy_value()

    return void(uint64), emitted


@intrinsic
def _address(_typing, pointer):
    """A pointer as a number."""

    def emitted(_context, builder, _signature, arguments):
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return uint64(pointer), emitted


@intrinsic(prefer_literal=True)
def _add_lanes(_typing, terms, _into, _row, _term, _weight, lanes):
    """into[term + i] += weight * row[term + i] for all i < lanes at once.

    `into` is the address of doubles, `row` of numbers with the type of `terms`. A plain loop over a
    row is compiled for rows of thousands, and is slower for a hundred.
    """
    dtype, number = terms.dtype, lanes.literal_value

    def emitted(context, builder, _signature, arguments):
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

    return void(terms, uint64, uint64, uint64, float64, lanes), emitted


def add_terms(
    sums, stride, filled_up, bins, events, rows, in_order, weights, terms, length, number, size
):
    """Add each event's weighted terms to its bin; events with bin -1 are left out.

    There are `length` rows of a `number` of terms, `size` bytes each. `rows` are those of the
    events, unless they are in order. `filled_up` says that a bin's sums have room for whole lanes.
    """
    begin = _address(terms)
    lines = (size + uint64(LINE - 1)) // uint64(LINE)
    whole, wide = number // uint64(LANES), (number + uint64(LANES - 1)) // uint64(LANES)
    for event in range(events):
        ahead = event + AHEAD
        if ahead < events:
            line = begin + uint64(ahead if in_order else rows[ahead]) * size
            for _ in range(lines):
                _prefetch(line)
                line += uint64(LINE)
        if bins[event] < 0:
            continue
        # unsigned, or each index would be checked for counting from the end
        which = uint64(event if in_order else rows[event])
        into, row = sums + uint64(bins[event]) * stride, begin + which * size
        weight = weights[event]
        # after a row's end are the next row's terms, which are added to padding
        blocks = wide if filled_up and which + uint64(1) < length else whole
        term = uint64(0)
        for _ in range(blocks):
            _add_lanes(terms, into, row, term, weight, LANES)
            term += uint64(LANES)
        while term < number:
            _add_lanes(terms, into, row, term, weight, 1)
            term += uint64(1)


def add_columns(sums, width, bins, events, rows, in_order, weights, terms, number, columns):
    """`add_terms` if terms have other indices in the sums, or none (-1).

    A bin's sums are `width` doubles apart.
    """
    for event in range(events):
        index = bins[event]
        if index < 0:
            continue
        row, weight = event if in_order else rows[event], weights[event]
        for term in range(number):
            column = columns[term]
            if column >= 0:
                sums[index * width + column] += weight * terms[row * number + term]


TYPES = {
    "": void,
    "i": int64,
    "u": uint64,
    "d": float64,
    "B": CPointer(uint8),
    "I": CPointer(int64),
    "D": CPointer(float64),
    "F": CPointer(float32),
}


def compiled(name: str, returned: str, arguments: str) -> str:
    """The LLVM code of a loop, for a signature in the letters of TYPES."""
    return llvm_code(globals()[name], returned, arguments)


def llvm_code(function: Any, returned: str, arguments: str) -> str:
    """The LLVM code of a function, for a signature in the letters of TYPES.

    As in numpy, a division by zero gives infinity or NaN: an exception would need Python.
    """
    signature = TYPES[returned](*(TYPES[letter] for letter in arguments))
    how = {"forceinline": True, "error_model": "numpy"}
    text: str = numba.cfunc(signature, **how)(function).inspect_llvm()
    return text
