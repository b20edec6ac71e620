"""Interval arithmetic: the bounds of an expression, given the bounds of its columns.

It can prove that a cut on events loses nothing that another expression would keep. The events that
the cut drops are covered by boxes, in which columns have bounds; in none of them may the other
expression be true. Whatever can't be decided is taken as possible. This module is imported while
the graph is parsed, so it imports nothing heavy.
"""

import ast
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from looseleaf.objects.expressions import Expression

COUNTER = re.compile(r"n[A-Z]\w*")
FLAG = re.compile(r"(HLT|L1|Flag)_\w+")
# more boxes than these are replaced by one without bounds
MOST_BOXES = 1000
# sums of counters up to this value are split into boxes
LARGEST_SUM = 10
# the relative error of single precision after a few operations
ROUNDING = 1e-5
_NEGATED: dict[type, type] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}  # fmt: skip
_MIRRORED: dict[type, type] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, ends included; `whole` if they are integers."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    @property
    def empty(self) -> bool:
        """Whether no number is in the range."""
        return self.low > self.high

    def within(self, other: "Range") -> "Range":
        """The numbers that are in both ranges."""
        whole = self.whole or other.whole
        return Range(max(self.low, other.low), min(self.high, other.high), whole)


ANY = Range()
Box = Mapping[str, Range]


def range_of(name: str, box: Box) -> Range:
    """The bounds of a column: those of the box, and those of every counter and flag."""
    bounds = ANY
    if COUNTER.fullmatch(name):
        bounds = Range(0, math.inf, True)
    elif FLAG.fullmatch(name):
        bounds = Range(0, 1, True)
    return bounds.within(box.get(name, ANY))


def _is_whole(name: str) -> bool:
    """Whether a column holds non-negative integers, as counters and flags do."""
    return COUNTER.fullmatch(name) is not None or FLAG.fullmatch(name) is not None


def dropped_by(cut: Expression) -> list[Box]:
    """Boxes that cover every event that a cut drops, and perhaps others.

    An event is dropped also if a value is missing, as `max` of an empty list. Nothing bounds such a
    value, so its box is without bounds.
    """
    try:
        boxes = _boxes(cut.body, False)
    except RecursionError:
        return [{}]
    if len(boxes) > MOST_BOXES:
        return [{}]
    return [box for box in boxes if not any(range_of(name, box).empty for name in box)]


def may_hold(cut: Expression, ranges: Callable[[str], Range]) -> bool:
    """Whether a cut can be true, given the bounds of its columns; True if that isn't known."""
    try:
        return _truth(cut.body, ranges) is not False
    except RecursionError:
        return True


def _is_boolean(node: ast.expr) -> bool:
    """Whether a part is surely a yes or no; `&`, `|` and `~` of integers aren't."""
    match node:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool()):
            return True
        case ast.Name(id=name):
            return FLAG.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return _is_boolean(operand)
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr(), left=left, right=right):
            return _is_boolean(left) and _is_boolean(right)
    return False


# the boxes in which a cut is true, or false


def _boxes(node: ast.expr, truth: bool) -> list[dict[str, Range]]:
    """Boxes that hold every event for which a condition has the value `truth`; where that isn't
    known, one box without bounds."""
    match node:
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand) if _is_boolean(operand):
            return _boxes(operand, not truth)
        case ast.BoolOp(op=op, values=parts):
            return _combined(isinstance(op, ast.And), parts, truth)
        case ast.BinOp(op=op, left=left, right=right) if _is_boolean(node):
            return _combined(isinstance(op, ast.BitAnd), [left, right], truth)
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            return _compared(left, type(op) if truth else _NEGATED[type(op)], right)
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [left, *others]
            parts = [
                ast.Compare(left=a, ops=[op], comparators=[b])
                for a, op, b in zip(sides[:-1], ops, sides[1:], strict=True)
            ]
            return _combined(True, parts, truth)
        case ast.Name(id=name) if FLAG.fullmatch(name):
            return [{name: Range(1, 1, True) if truth else Range(0, 0, True)}]
        case ast.Constant(value=bool(value)):
            return [{}] if value == truth else []
    return [{}]


def _combined(both: bool, parts: list[ast.expr], truth: bool) -> list[dict[str, Range]]:
    alternatives = [_boxes(part, truth) for part in parts]
    if both != truth:
        return [box for boxes in alternatives for box in boxes]
    if math.prod(map(len, alternatives)) > MOST_BOXES:
        return [{}]
    return [_together(boxes) for boxes in product(*alternatives)]


def _together(boxes: tuple[dict[str, Range], ...]) -> dict[str, Range]:
    out: dict[str, Range] = {}
    for box in boxes:
        for name, bounds in box.items():
            out[name] = out.get(name, ANY).within(bounds)
    return out


def _compared(left: ast.expr, op: type, right: ast.expr) -> list[dict[str, Range]]:
    """The bounds that a comparison sets for its columns."""
    if op is ast.Eq:
        return [
            _together((a, b))
            for a in _compared(left, ast.LtE, right)
            for b in _compared(left, ast.GtE, right)
        ]
    if op is ast.NotEq:
        return _compared(left, ast.Lt, right) + _compared(left, ast.Gt, right)
    exact = _on_one_side(left, right)
    if exact is None:
        return [{}]
    sums, limit = exact
    if op in (ast.Gt, ast.GtE):
        sums, op, limit = {n: -f for n, f in sums.items()}, _MIRRORED[op], -limit
    if len(sums) > 1 and min(sums.values()) > 0 and limit <= LARGEST_SUM:
        return _split(list(sums.items()), int(_highest(limit, op is ast.Lt, True)))
    return [_bounded(sums, op, limit)]


def _on_one_side(left: ast.expr, right: ast.expr) -> tuple[dict[str, float], float] | None:
    """Factors by column and the limit of a comparison, as `sum of factor * column (op) limit`.

    None if no column remains, or if the comparison isn't exact in both precisions.
    """
    terms, constant = _linear(left, 1), _linear(right, -1)
    if terms is None or constant is None:
        return None
    sums: dict[str, float] = {}
    for name, factor in [*terms.items(), *constant.items()]:
        sums[name] = sums.get(name, 0) + factor
    limit = -sums.pop("", 0)
    sums = {name: factor for name, factor in sums.items() if factor}
    if not sums or (len(sums) > 1 and not all(map(_is_whole, sums))):
        return None
    if any(abs(factor) != 1 and not _is_whole(name) for name, factor in sums.items()):
        return None
    return sums, limit


def _split(sums: list[tuple[str, float]], limit: int) -> list[dict[str, Range]]:
    """The combinations of counters whose sum is at most a limit, as in `nMuon + nElectron <= 1`."""
    (name, factor), *rest = sums
    if not rest:
        return [{name: Range(high=_highest(limit / factor, False, True), whole=True)}]
    return [
        {name: Range(number, number, True), **box}
        for number in range(int(limit // factor) + 1)
        for box in _split(rest, int(limit - factor * number))
    ]


def _bounded(sums: Mapping[str, float], op: type, limit: float) -> dict[str, Range]:
    """The bounds of each column in `sum of factor * column (op) limit`, where op is < or <=."""
    box = {}
    for name, factor in sums.items():
        # the others are counters or flags, which are not negative
        rest = [f for other, f in sums.items() if other != name]
        if any(f < 0 for f in rest):
            continue
        whole = _is_whole(name)
        if factor > 0:
            box[name] = Range(high=_highest(limit / factor, op is ast.Lt, whole), whole=whole)
        else:
            lowest = -_highest(limit / -factor, op is ast.Lt, whole)
            box[name] = Range(low=lowest, whole=whole)
    return box


def _highest(limit: float, strict: bool, whole: bool) -> float:
    """The largest value below a limit (`strict`), or up to it."""
    if not math.isfinite(limit):
        return limit
    if whole:
        return math.ceil(limit) - 1 if strict else math.floor(limit)
    single = _single(limit)
    # a single-precision column is compared with the limit rounded to its precision
    return math.nextafter(limit, -math.inf) if strict and single == limit else max(limit, single)


def _single(value: float) -> float:
    try:
        single: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return single


def _linear(node: ast.expr, sign: float) -> dict[str, float] | None:
    """The factors of a sum of columns, by name, and its constant under ""; None if it isn't a
    sum."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            exact = abs(value) < 2**53
            return {"": sign * value} if exact else None
        case ast.Name(id=name):
            return {name: sign}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _linear(operand, -sign)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _linear(operand, sign)
        case ast.BinOp(op=ast.Add() | ast.Sub() as op, left=left, right=right):
            a = _linear(left, sign)
            b = _linear(right, sign if isinstance(op, ast.Add) else -sign)
            if a is None or b is None:
                return None
            total = {name: a.get(name, 0) + b.get(name, 0) for name in (*a, *b)}
            names = [name for name in total if name]
            # sums of other columns are rounded
            exact = all(map(_is_whole, names)) and float(total.get("", 0)).is_integer()
            return total if exact else None
    return None


# what values an expression can take


def _truth(node: ast.expr, ranges: Callable[[str], Range]) -> bool | None:
    """True or False if a condition has that value for all values of its columns, None if
    unknown."""
    match node:
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand) if _is_boolean(operand):
            truth = _truth(operand, ranges)
            return None if truth is None else not truth
        case ast.BoolOp(op=op, values=parts):
            return _joined(isinstance(op, ast.And), [_truth(part, ranges) for part in parts])
        case ast.BinOp(op=op, left=left, right=right) if _is_boolean(node):
            both = [_truth(side, ranges) for side in (left, right)]
            return _joined(isinstance(op, ast.BitAnd), both)
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_range(side, ranges) for side in (left, *others)]
            each = zip(sides[:-1], ops, sides[1:], strict=True)
            return _joined(True, [_relation(type(op), a, b) for a, op, b in each])
        case ast.Constant(value=bool(value)):
            return value
        case ast.Name() | ast.BinOp():
            bounds = _range(node, ranges)
            zero = _relation(ast.Eq, bounds, Range(0, 0))
            return None if zero is None else not zero
    return None


def _joined(both: bool, parts: list[bool | None]) -> bool | None:
    if (not both) in parts:
        return not both
    return None if None in parts else both


def _relation(op: type, a: Range, b: Range) -> bool | None:
    if a.empty or b.empty:
        return False
    match op:
        case ast.Lt:
            return True if a.high < b.low else False if a.low >= b.high else None
        case ast.LtE:
            return True if a.high <= b.low else False if a.low > b.high else None
        case ast.Gt | ast.GtE:
            return _relation(_MIRRORED[op], b, a)
        case ast.Eq:
            if a.low == a.high == b.low == b.high:
                return True
            return False if a.high < b.low or b.high < a.low else None
    equal = _relation(ast.Eq, a, b)
    return None if equal is None else not equal


def _range(node: ast.expr, ranges: Callable[[str], Range]) -> Range:
    match node:
        case ast.Name(id=name):
            return ranges(name)
        case ast.Constant(value=bool(value)):
            return Range(int(value), int(value), True)
        case ast.Constant(value=int(value)):
            return Range(value, value, True) if abs(value) < 2**53 else ANY
        case ast.Constant(value=float(value)) if math.isfinite(value):
            single = _single(value)
            return Range(min(value, single), max(value, single))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _range(operand, ranges)
            return Range(-inner.high, -inner.low, inner.whole)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _range(operand, ranges)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _COMPUTED:
            return _COMPUTED[type(op)](_range(left, ranges), _range(right, ranges))
        case ast.Call(func=ast.Name(id="abs"), args=[of]):
            inner = _range(of, ranges)
            low = 0 if inner.low <= 0 <= inner.high else min(abs(inner.low), abs(inner.high))
            return Range(low, max(abs(inner.low), abs(inner.high)), inner.whole)
    return ANY


def _sum(a: Range, b: Range) -> Range:
    return _rounded(a.low + b.low, a.high + b.high, a.whole and b.whole)


def _difference(a: Range, b: Range) -> Range:
    return _sum(a, Range(-b.high, -b.low, b.whole))


def _product(a: Range, b: Range) -> Range:
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    if any(map(math.isnan, corners)):
        return ANY
    return _rounded(min(corners), max(corners), a.whole and b.whole)


def _rounded(low: float, high: float, whole: bool) -> Range:
    """Bounds after a computation, widened for rounding unless the values are integers."""
    if math.isnan(low) or math.isnan(high):
        return ANY
    if whole:
        return Range(low, high, True)
    room = 1e-30 + ROUNDING * max(abs(v) for v in (low, high, 0) if math.isfinite(v))
    return Range(low - room, high + room)


_COMPUTED = {ast.Add: _sum, ast.Sub: _difference, ast.Mult: _product}
