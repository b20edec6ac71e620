"""The evaluation of expressions on numpy and awkward arrays.

- **Integers** are computed in 64 bits, whatever the width of their column; yes and no count as 1
  and 0. A result that doesn't fit into 64 bits is refused. A quotient of integers, a power
  whose exponent is negative or a column of signed integers, and an integer compared or computed
  with a floating-point number, is in double precision.
- **Floating-point columns** keep their precision, and a number in the expression takes that of the
  column that it meets: `pt > 25.1` compares with the float32 nearest to 25.1, as numpy does.
- **NaN** (0/0, the logarithm of -1) leaves a comparison undecided. `&`, `|`, `and`, `or` and `not`
  decide if the other side suffices: a no and anything is a no. An event whose cut stays undecided
  is dropped and counted: see `Undecided`.
- **A missing value**, such as `first`, `max` and `min` of an empty list, isn't a yes either: such
  events are dropped. Here too a yes or anything is a yes, a no and anything is a no; and `where`
  needs only the value that it chooses: `where(nJet > 0, max(Jet_pt), 0)` has a value everywhere.
"""

import ast
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.losses import Loss
from looseleaf.objects.expressions import COMPARISONS, OF_LISTS, Expression, shown
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import CONE_PT
from looseleaf.objects.needed_branches import COMPUTED

LARGEST = 2**63 - 1
# the accumulator's key for the counts of values that aren't finite
NOT_FINITE, VALUELESS = "not_finite", "valueless"
_ARITHMETIC = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Pow: np.power}
_BITWISE = {ast.BitAnd: np.bitwise_and, ast.BitOr: np.bitwise_or}
_DEVIATES = {"cos": np.cos, "exp": np.exp, "log": np.log, "sin": np.sin, "sqrt": np.sqrt}


class _Wrong(Exception):
    """An operation that isn't defined for its operands; the message says why."""


class _Truth(NamedTuple):
    """Yes or no, as `sure` and `possible`, which differ where the answer is undecided."""

    sure: Any
    possible: Any

    @property
    def undecided(self) -> Any:
        """Where the answer is undecided; None if it is decided everywhere."""
        if self.sure is self.possible:
            return None
        return np.logical_and(self.possible, np.logical_not(self.sure))


def value_of(expression: Expression, columns: Mapping[str, Any] | Any) -> Any:
    """The value of an expression: an array, or a number if it reads no column. Undecided is no.

    Of `Flat` objects, it is a flat array.
    """
    if isinstance(columns, Flat) and not _by_object(expression, columns):
        lists = value_of(expression, columns.lists)
        return lists if getattr(lists, "ndim", 0) != 2 else _flattened(lists, columns)
    value = _evaluated(expression, columns)
    return value.sure if isinstance(value, _Truth) else value


def _by_object(expression: Expression, objects: Flat) -> bool:
    """Whether an expression can be evaluated for each object by itself, from numbers."""
    return not any(_takes_lists(node) for node, _ in expression.steps) and all(
        isinstance(objects[name], np.ndarray) for name in expression.names
    )


def _takes_lists(node: ast.expr) -> bool:
    match node:
        case ast.Subscript():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in OF_LISTS
    return False


def _flattened(lists: Any, objects: Flat) -> NDArray[Any]:
    """A value for each object, from lists; one that is missing is a no, or NaN."""
    flat = ak.flatten(lists, axis=1)
    missing = False if _kind(flat) == "b" else np.nan
    values: NDArray[Any] = ak.to_numpy(ak.fill_none(flat, missing, axis=0))
    if len(values) != len(objects):
        raise ConfigError("an expression gives lists of other lengths than the collection's")
    return values


def _evaluated(expression: Expression, columns: Any) -> Any:
    """The value of an expression, a yes or no as `_Truth`."""
    # an error in reading a column isn't the expression's fault
    read = {name: _column(expression, name, columns) for name in sorted(expression.names)}
    with np.errstate(all="ignore"):
        return _computed(expression, read)


def _computed(expression: Expression, columns: Mapping[str, Any]) -> Any:
    values: list[Any] = []
    lost: list[Any] = []
    for node, number in expression.steps:
        operands = values[len(values) - number :]
        del values[len(values) - number :]
        try:
            values.append(
                columns[node.id] if isinstance(node, ast.Name) else _step(node, operands, lost)
            )
        except _Wrong as problem:
            raise ConfigError(f"expression {shown(expression.text)}: {problem}") from None
        except (ValueError, TypeError, OverflowError, RuntimeError):
            raise ConfigError(
                f"expression {shown(expression.text)}: {ast.unparse(node)[:80]!r} combines lists "
                "of different lengths, or values of types that don't go together"
            ) from None
    value = values[0]
    if not lost:
        return value
    undecided = reduce(np.logical_or, lost)
    if _is_truth(value):
        truth = _truth(value)
        return _Truth(truth.sure & ~undecided, truth.possible | undecided)
    return _with_nan(_number(value), undecided)


def _column(expression: Expression, name: str, columns: Any) -> Any:
    value = columns[name]
    if isinstance(value, ak.Array):
        value = ak.materialize(value)
        if _leaf(value.layout) is None:
            raise ConfigError(
                f"expression {shown(expression.text)}: {name!r} is not a numeric branch"
            )
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
        raise ConfigError(f"expression {shown(expression.text)}: {name!r} is not a numeric branch")
    return value


def _step(node: ast.expr, operands: list[Any], lost: list[Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.BinOp(op=op):
            return _binary(op, *operands)
        case ast.UnaryOp(op=op):
            return _unary(op, operands[0])
        case ast.BoolOp(op=op):
            combine = _and if isinstance(op, ast.And) else _or
            return reduce(combine, map(_truth, operands))
        case ast.Compare(ops=ops):
            pairs = zip(operands[:-1], ops, operands[1:], strict=True)
            return reduce(_and, [_compared(op, a, b) for a, op, b in pairs])
        case ast.Subscript():
            values, mask = operands
            return _chosen(values, mask, lost)
        case ast.Call(func=ast.Name(id=name)) if name in OF_LISTS:
            return _of_lists(name, operands[0])
        case ast.Call(func=ast.Name(id=name)):
            return _function(name, operands)
    raise AssertionError(ast.dump(node))


# types of values


def _leaf(layout: Any) -> Any:
    """The array of numbers within lists; None if there is none, as in records."""
    while layout.is_list or layout.is_option or layout.is_indexed:
        layout = layout.content
    return layout if layout.is_numpy or layout.is_unknown else None


def _kind(value: Any) -> str:
    """The kind of numbers, as numpy writes it: b for yes and no, i, u and f."""
    if isinstance(value, _Truth):
        return "b"
    if _is_literal(value):
        return {bool: "b", int: "i", float: "f"}[type(value)]
    if isinstance(value, ak.Array):
        leaf = _leaf(value.layout)
        return "f" if leaf.is_unknown else leaf.dtype.kind
    return np.asarray(value).dtype.kind


def _dtype(value: Any) -> Any:
    """The type for numpy's promotion; for a number in the expression, the number itself."""
    if _is_literal(value):
        return value
    if isinstance(value, ak.Array):
        leaf = _leaf(value.layout)
        return np.dtype(np.float64) if leaf.is_unknown else leaf.dtype
    return np.asarray(value).dtype


def _is_literal(value: Any) -> bool:
    # numpy's float64 is also a float, but with a precision of its own
    return type(value) in (bool, int, float)


def _as(value: Any, dtype: Any) -> Any:
    if isinstance(value, ak.Array):
        return value if _dtype(value) == dtype else ak.values_astype(value, dtype)
    return np.asarray(value).astype(dtype, copy=False)[()]


def _is_truth(value: Any) -> bool:
    return isinstance(value, _Truth) or _kind(value) == "b"


def _truth(value: Any) -> _Truth:
    """Yes or no; a number is a yes unless it is zero."""
    if isinstance(value, _Truth):
        return value
    if _kind(value) == "b":
        value = np.bool_(value) if _is_literal(value) else value
        return _Truth(value, value)
    return _compared(ast.NotEq(), value, 0)


def _number(value: Any) -> Any:
    """A value to compute with: 64-bit integers, yes and no as 1 and 0, undecided as NaN."""
    if isinstance(value, _Truth):
        number = _as(value.sure, np.int64)
        return number if value.undecided is None else _with_nan(number, value.undecided)
    kind = _kind(value)
    if kind == "f":
        return value
    if _is_literal(value):
        return int(value)
    if kind == "u" and _dtype(value) == np.uint64:
        largest = ak.max(value, axis=None) if isinstance(value, ak.Array) else value.max(initial=0)
        if largest is not None and largest > LARGEST:
            return value
    return _as(value, np.int64)


def _with_nan(value: Any, where: Any) -> Any:
    return _chosen_by(where, np.float64(np.nan), _as(value, np.float64))


def _chosen_by(mask: Any, a: Any, b: Any) -> Any:
    if not any(isinstance(value, ak.Array) for value in (mask, a, b)):
        return np.where(mask, a, b)[()]
    if getattr(mask, "ndim", 0) == 0 or len({value.ndim for value in (mask, a, b)} - {0}) > 1:
        # it would merge lists and numbers into one array
        mask, a, b = ak.broadcast_arrays(mask, a, b)
    if not _may_be_missing(mask):
        return ak.where(mask, a, b)
    # a value that isn't chosen may be missing, the answer may not
    return ak.mask(ak.where(ak.fill_none(mask, False), a, b), ~ak.is_none(mask))


def _may_be_missing(value: Any) -> bool:
    """Whether a value of some events may be missing."""
    return isinstance(value, ak.Array) and value.ndim == 1 and value.layout.is_option


def _plain(*values: Any) -> Any:
    """Whether all values are numbers in the expression itself."""
    return all(map(_is_literal, values))


def _literal(value: Any) -> Any:
    """The result for numbers in the expression, which has no precision of its own either."""
    return np.asarray(value).item()


def _nan(value: Any) -> Any:
    """Where a value is NaN; None if it is nowhere."""
    if _kind(value) != "f":
        return None
    data = value
    if isinstance(value, ak.Array):
        leaf = _leaf(value.layout)
        data = np.zeros(0) if leaf.is_unknown else leaf.data
    return np.isnan(value) if np.isnan(data).any() else None


# yes and no


def _and(a: _Truth, b: _Truth) -> _Truth:
    sure = _joined(np.logical_and, a.sure, b.sure)
    if a.undecided is None and b.undecided is None:
        return _Truth(sure, sure)
    return _Truth(sure, _joined(np.logical_and, a.possible, b.possible))


def _or(a: _Truth, b: _Truth) -> _Truth:
    sure = _joined(np.logical_or, a.sure, b.sure)
    if a.undecided is None and b.undecided is None:
        return _Truth(sure, sure)
    return _Truth(sure, _joined(np.logical_or, a.possible, b.possible))


def _joined(function: Any, a: Any, b: Any) -> Any:
    """`a` and `b`, or `a` or `b`; where one is missing, the other may decide."""
    joined = function(a, b)
    if not _may_be_missing(joined):
        return joined
    decisive = function is np.logical_or
    a, b = (ak.fill_none(v, not decisive) if _may_be_missing(v) else v for v in (a, b))
    return ak.where(function(a, b) == decisive, decisive, joined)


def _not(a: _Truth) -> _Truth:
    sure = np.logical_not(a.possible)
    return _Truth(sure, sure) if a.undecided is None else _Truth(sure, np.logical_not(a.sure))


def _compared(op: ast.cmpop, a: Any, b: Any) -> _Truth:
    a, b = _number(a), _number(b)
    a, b = _in_range(a, b), _in_range(b, a)
    sure = COMPARISONS[type(op)](a, b)
    sure = np.bool_(sure) if isinstance(sure, bool) else sure
    missing = [where for where in map(_nan, (a, b)) if where is not None]
    if not missing:
        return _Truth(sure, sure)
    undecided = reduce(np.logical_or, missing)
    return _Truth(np.logical_and(sure, np.logical_not(undecided)), np.logical_or(sure, undecided))


def _in_range(value: Any, other: Any) -> Any:
    """A number in the expression, as awkward compares it with the values of `other`.

    An integer out of the range of `other` becomes infinite.
    """
    if not _is_literal(value) or isinstance(value, float) or _is_literal(other):
        return value
    kind = _kind(other)
    if kind == "f":
        return float(value)
    if kind == "u":
        return np.uint64(value) if 0 <= value < 2**64 else _infinite(value)
    return value if -LARGEST - 1 <= value <= LARGEST else _infinite(value)


def _infinite(value: int) -> float:
    return np.inf if value > 0 else -np.inf


# arithmetic


def _binary(op: ast.operator, a: Any, b: Any) -> Any:
    if isinstance(op, (ast.BitAnd, ast.BitOr)):
        return _bitwise(op, a, b)
    of_reals = isinstance(op, ast.Pow) and _may_be_below_zero(b)
    a, b = _number(a), _number(b)
    if isinstance(op, ast.Div):
        return _floating(np.divide, a, b, always=True)
    if of_reals or "f" in (_kind(a), _kind(b)):
        return _floating(_ARITHMETIC[type(op)], a, b, always=isinstance(op, ast.Pow))
    return _exact(_ARITHMETIC[type(op)], a, b)


def _floating(function: Any, a: Any, b: Any, always: bool = False) -> Any:
    """Computes in the precision of the operands, and integers in double precision."""
    if _plain(a, b):
        return _literal(function(np.float64(a), np.float64(b)))
    if always:
        a, b = (v if _is_literal(v) or _kind(v) == "f" else _as(v, np.float64) for v in (a, b))
    return function(_weak(a, b), _weak(b, a))


def _weak(value: Any, other: Any) -> Any:
    """A number in the expression, in the precision of a floating-point `other`."""
    if not _is_literal(value) or _is_literal(other):
        return value
    kind = _dtype(other)
    return np.dtype(kind if kind.kind == "f" else np.float64).type(value)


def _may_be_below_zero(value: Any) -> bool:
    """Whether an exponent may be negative, by its type: not by its values, which differ from step
    to step."""
    return bool(value < 0) if _is_literal(value) else _kind(value) == "i"


def _exact(function: Any, *operands: Any) -> Any:
    """Computes in 64-bit integers; a result with more bits is refused.

    An overflow is wrong by a multiple of 2^64, which a computation in double precision shows.
    """
    if any(_kind(value) == "u" or _beyond(value) for value in operands):
        raise _Wrong("integers above 2^63 - 1 can be compared, but not computed with")
    whole = [np.int64(value) if _is_literal(value) else value for value in operands]
    result = function(*whole)
    about = function(*[_as(value, np.float64) for value in whole])
    if _any(abs(_as(result, np.float64) - about) > 2.0**62) or not _all_finite(about):
        raise _Wrong(
            "an integer result doesn't fit into 64 bits; multiply by 1.0 to compute in "
            "floating point"
        )
    return _literal(result) if _plain(*operands) else result


def _beyond(value: Any) -> bool:
    return _is_literal(value) and not -LARGEST - 1 <= value <= LARGEST


def _any(mask: Any) -> bool:
    return bool(ak.any(mask, axis=None)) if isinstance(mask, ak.Array) else bool(np.any(mask))


def _all_finite(value: Any) -> bool:
    return not _any(np.logical_not(np.isfinite(value)))


def _bitwise(op: ast.operator, a: Any, b: Any) -> Any:
    if _is_truth(a) and _is_truth(b):
        return (_and if isinstance(op, ast.BitAnd) else _or)(_truth(a), _truth(b))
    a, b = _number(a), _number(b)
    kinds = {_kind(a), _kind(b)}
    if "f" in kinds:
        raise _Wrong(
            "& and | take a yes or no on both sides, or integers: is a comparison missing?"
        )
    function = _BITWISE[type(op)]
    if "u" in kinds:
        a, b = _in_range(a, b), _in_range(b, a)
        if {_kind(a), _kind(b)} != {"u"}:
            raise _Wrong("integers above 2^63 - 1 and negative ones can't be combined with & and |")
        return function(a, b)
    if _beyond(a) or _beyond(b):
        raise _Wrong("an integer above 2^63 - 1 doesn't fit the other operand")
    return _literal(function(a, b)) if _plain(a, b) else function(a, b)


def _unary(op: ast.unaryop, value: Any) -> Any:
    if isinstance(op, ast.Not) or (isinstance(op, ast.Invert) and _is_truth(value)):
        return _not(_truth(value))
    value = _number(value)
    if isinstance(op, ast.UAdd):
        return value
    if isinstance(op, ast.USub):
        if _kind(value) == "f":
            return -value
        if _is_literal(value):
            return -value
        return _exact(np.negative, value)
    if _kind(value) != "i" or _beyond(value):
        raise _Wrong("~ takes a yes or no, or integers up to 2^63 - 1")
    return ~value


# functions


def _function(name: str, operands: list[Any]) -> Any:
    if name == "where":
        return _where(*operands)
    values = list(map(_number, operands))
    if name in ("maximum", "minimum"):
        return reduce(lambda a, b: _extreme(getattr(np, name), a, b), values)
    if name == "hypot":
        a, b = values
        return _floating(np.hypot, a, b, always=True)
    (value,) = values
    if name == "abs":
        return _exact(np.abs, value) if _kind(value) in "iu" else _elementwise(np.abs, value)
    value = value if _kind(value) == "f" else _as(value, np.float64)
    return _elementwise(_DEVIATES[name], value)


def _elementwise(function: Any, value: Any) -> Any:
    return _literal(function(value)) if _is_literal(value) else function(value)


def _extreme(function: Any, a: Any, b: Any) -> Any:
    result = function(*_alike(a, b))
    return _literal(result) if _plain(a, b) else result


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values as arrays of one type."""
    kinds = _kind(a), _kind(b)
    if "f" in kinds or kinds == ("i", "i"):
        if not ("f" in kinds or not (_beyond(a) or _beyond(b))):
            raise _Wrong("integers above 2^63 - 1 can't be combined with others")
        types = [float(t) if _is_literal(t) and "f" in kinds else t for t in (_dtype(a), _dtype(b))]
        common = np.result_type(*types)
    elif kinds == ("u", "u"):
        common = np.dtype(np.uint64)
    else:
        a, b = _in_range(a, b), _in_range(b, a)
        if (_kind(a), _kind(b)) != ("u", "u"):
            raise _Wrong("integers above 2^63 - 1 can't be combined with negative ones")
        common = np.dtype(np.uint64)
    return _as(a, common), _as(b, common)


def _where(condition: Any, a: Any, b: Any) -> Any:
    if not _is_truth(condition):
        raise _Wrong("the first argument of where should be a yes or no: is a comparison missing?")
    truth = _truth(condition)
    if _is_truth(a) and _is_truth(b):
        chosen = _or(_and(truth, _truth(a)), _and(_not(truth), _truth(b)))
        return chosen
    plain = _plain(a, b) and isinstance(truth.sure, np.bool_)
    chosen = _chosen_by(truth.sure, *_alike(_number(a), _number(b)))
    if truth.undecided is not None:
        chosen = _with_nan(chosen, truth.undecided)
    return _literal(chosen) if plain else chosen


def _chosen(values: Any, mask: Any, lost: list[Any]) -> Any:
    """The objects that pass; events with an undecided object are added to `lost`."""
    sure = mask.sure if isinstance(mask, _Truth) else mask
    if not isinstance(sure, ak.Array) or sure.ndim != 2 or _kind(mask) != "b":
        raise _Wrong("[] takes a yes or no for each object of an event")
    truth = _truth(mask)
    if truth.undecided is not None:
        lost.append(ak.any(truth.undecided, axis=1))
    if isinstance(values, _Truth):
        possible = values.possible[sure]
        return (
            _Truth(values.sure[sure], possible)
            if values.undecided is not None
            else _Truth(possible, possible)
        )
    if not isinstance(values, ak.Array) or values.ndim < 2:
        raise _Wrong("[] selects from a list in each event")
    return values[sure]


def _of_lists(name: str, values: Any) -> Any:
    array = values.sure if isinstance(values, _Truth) else values
    if name == "scalar":
        if getattr(array, "ndim", 0) > 1:
            raise _Wrong("scalar() takes one value for each event")
        return values
    if not isinstance(array, ak.Array) or array.ndim < 2:
        raise _Wrong(f"{name}() takes a list in each event")
    if name == "count":
        return ak.num(array, axis=1)
    if name in ("any", "all"):
        return _any_or_all(getattr(ak, name), _truth(values))
    if name == "first":
        if isinstance(values, _Truth) and values.undecided is not None:
            return _Truth(ak.firsts(values.sure, axis=1), ak.firsts(values.possible, axis=1))
        return ak.firsts(array, axis=1)
    numbers = _number(values)
    result = getattr(ak, name)(numbers, axis=1)
    if name == "sum":
        return _whole_sum(numbers, result)
    undefined = _nan(numbers)
    # awkward ignores NaN here
    return result if undefined is None else _with_nan(result, ak.any(undefined, axis=1))


def _any_or_all(function: Any, truth: _Truth) -> _Truth:
    sure = function(truth.sure, axis=1)
    return _Truth(sure, sure if truth.undecided is None else function(truth.possible, axis=1))


def _whole_sum(numbers: Any, sums: Any) -> Any:
    """The sums, if those of integers fit into 64 bits; refused otherwise."""
    if _kind(numbers) == "f":
        return sums
    about = ak.sum(_as(numbers, np.float64), axis=1)
    if _kind(numbers) == "u" or _any(abs(_as(sums, np.float64) - about) > 2.0**62):
        raise _Wrong("a sum of integers doesn't fit into 64 bits; multiply what is summed by 1.0")
    return sums


# answers, and undecided ones


@dataclass
class Undecided:
    """Counts the events that a cut can't decide on, and values that aren't finite.

    A count that the configuration doesn't allow by name (`allow.not_finite`) is refused at once.
    Values that aren't finite because a branch isn't are left out: the transform has counted those.
    `valueless` are the events dropped by each selection because a cut has no value there, as
    `max(Jet_pt) < 30` has none without jets. That needs no permission, but is reported.
    """

    allowed: Sequence[str] = ()
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    valueless: dict[str, dict[str, int]] = field(default_factory=dict)

    def keeps(self, name: str, cuts: Sequence[Expression], columns: Any, among: Any = None) -> Any:
        """Which events pass all cuts of the selection `name`, as a numpy array; undecided ones
        don't.

        `among` is a mask of the events of interest: other events may be undecided without being
        counted.
        """
        # the number of events is known, so a cut may be the same for all of them: `1 < 2`
        answers = [_answer(name, cut, columns, 1, "event", among is not None) for cut in cuts]
        every = [] if among is None else [_truth(np.ones(len(among), bool))]
        truth = reduce(_and, [*every, *answers])
        kept = _without_none(truth.sure)
        among = np.ones(len(kept), bool) if among is None else among
        if name and _may_be_missing(truth.sure):
            valueless = int((ak.to_numpy(ak.is_none(truth.sure)) & among).sum())
            if valueless:
                of_name = self.valueless.setdefault(name, {})
                text = " and ".join(shown(cut.text) for cut in cuts)
                of_name[text] = of_name.get(text, 0) + valueless
        if truth.undecided is not None:
            lost = _without_none(truth.undecided)
            self._tell(name, cuts, columns, lost & among, int(among.sum()), "events")
        return kept

    def passes(self, name: str, cuts: Sequence[Expression], objects: Any) -> Any:
        """Which objects pass all cuts of the working point `name`.

        The mask is flat if the objects are `Flat`, and else jagged.
        """
        flat = objects if isinstance(objects, Flat) else Flat(objects)
        answers = flat.answers
        for cut in cuts:
            if cut.text not in answers:
                answers[cut.text] = _answer_of_objects(name, cut, flat)
        truth = reduce(_and, [answers[cut.text] for cut in cuts])
        # a working point in several roles counts its leptons once
        if truth.undecided is not None and "leptons" not in self.counts.get(name, {}):
            self._tell(name, cuts, flat, truth.undecided, len(flat), "leptons")
        return truth.sure if flat is objects else flat.listed(truth.sure)

    def numbers(self, name: str, expression: Expression, columns: Any, among: Any) -> Any:
        """One number for each event, as float64: NaN if it has no value.

        Values that aren't finite are counted in the events that `among` selects, those to be
        filled.
        """
        value = _number(_evaluated(expression, columns))
        if getattr(value, "ndim", 0) > 1:
            raise ConfigError(
                f"{name}: {shown(expression.text)} should give a number for each event"
            )
        value = np.broadcast_to(as_floats(value), len(among))
        self.check(name, expression, columns, value, among)
        return value

    def check(
        self,
        name: str,
        expression: Expression,
        columns: Any,
        values: Any,
        among: Any,
        unit: str = "events",
    ) -> None:
        """Count the `values` that aren't finite, where `among` is true.

        `unit` says what the values belong to (`events`, `leptons`). Both arrays are flat, or both
        jagged.
        """
        lost = among & ~np.isfinite(values)
        if _any(lost):
            self._tell(name, [expression], columns, lost, int(ak.sum(among, axis=None)), unit)

    def _tell(
        self, name: str, texts: Sequence[Expression], columns: Any, lost: Any, of: int, unit: str
    ) -> None:
        """Count lost events unless a column is to blame; `DataFileError` if that isn't allowed."""
        read = set().union(*[text.names for text in texts]).difference(COMPUTED)
        for column in sorted(read):
            lost = lost & _finite(columns[column], lost)
        number = int(ak.sum(lost, axis=None))
        if number == 0:
            return
        if name not in self.allowed:
            expressions = " and ".join(shown(text.text) for text in texts)
            cure = f", or allow it: allow.not_finite: [{name}] in the analysis" if name else ""
            raise DataFileError(
                f"{f'{name}: ' if name else ''}{expressions} has no finite value (0/0, say, or the "
                f"root of a negative number) in {number} of {of} {unit}; change the "
                f"expression{cure}"
            )
        of_name = self.counts.setdefault(name, {})
        of_name[unit] = of_name.get(unit, 0) + number

    def anew(self) -> "Undecided":
        """A counter that allows the same and has counted nothing."""
        return Undecided(self.allowed)

    def counted(self) -> dict[str, dict[str, dict[str, int]]]:
        """The counts as a part of an accumulator; empty if there are none."""
        counts = {NOT_FINITE: self.counts, VALUELESS: self.valueless}
        return {kind: of_kind for kind, of_kind in counts.items() if of_kind}


REFUSING = Undecided()


def taken_losses(accumulator: MutableMapping[str, Any]) -> list[Loss]:
    """The losses that `Undecided` counted in an accumulator, out of which they are taken."""
    not_finite = [
        Loss(
            "not finite",
            name,
            number,
            None,
            unit,
            _left_out(name, number, unit),
            "allow.not_finite",
        )
        for name, of_name in accumulator.pop(NOT_FINITE, {}).items()
        for unit, number in of_name.items()
    ]
    valueless = [
        Loss(
            "no value",
            name,
            number,
            None,
            "events",
            f"{name} drops {number} events in which {text} has no value, since a list is empty; "
            "if they should stay, say so, as in (nJet == 0) | (max(Jet_pt) < 30)",
        )
        for name, of_name in accumulator.pop(VALUELESS, {}).items()
        for text, number in of_name.items()
    ]
    return not_finite + valueless


def _left_out(name: str, number: int, unit: str) -> str:
    problem = f"{name} has no finite value in {number} {unit}"
    if name.endswith(f".{CONE_PT}"):
        return f"{problem}; their pT is outside the map, or in its last bin"
    return f"{problem}; the cut or histogram {name} leaves them out"


def as_floats(value: Any) -> NDArray[np.float64]:
    """One number for each event as float64, NaN if it has none."""
    if isinstance(value, ak.Array):
        value = ak.to_numpy(ak.fill_none(_as(value, np.float64), np.nan))
    return np.asarray(value, np.float64)


def possible(
    cuts: Sequence[Expression], columns: Mapping[str, NDArray[Any]], events: int
) -> NDArray[np.bool_]:
    """The events that none of the cuts takes out, whether they are decided or not.

    The columns have a number for each event.
    """
    answers = [_answer("", cut, columns, 1, "event", constant=True).possible for cut in cuts]
    return reduce(np.logical_and, answers, np.ones(events, bool))


def _without_none(answer: Any) -> NDArray[np.bool_]:
    """The answer for each event; one that is missing is a no."""
    if isinstance(answer, np.ndarray):
        return answer
    filled: NDArray[np.bool_] = ak.to_numpy(ak.fill_none(answer, False))
    return filled


def _answer(
    name: str, cut: Expression, columns: Any, dimensions: int, each: str, constant: bool = False
) -> _Truth:
    """Yes or no for each event or object, or for all of them if a cut may be `constant`.

    Raises `ConfigError` if the cut gives anything else.
    """
    value = _evaluated(cut, columns)
    if _is_truth(value):
        truth = _truth(value)
        depth = getattr(truth.sure, "ndim", 0)
        if depth == dimensions or (constant and depth == 0):
            return truth
        if depth == 0:
            raise ConfigError(f"{_called(name, cut)} is the same for every {each}; remove it")
    raise ConfigError(
        f"{_called(name, cut)} should give a yes or no for each {each}, as a comparison does"
    )


def _answer_of_objects(name: str, cut: Expression, objects: Flat) -> _Truth:
    """Yes or no for each object, in flat arrays."""
    if _by_object(cut, objects):
        return _answer(name, cut, objects, 1, "object")
    truth = _answer(name, cut, objects.lists, 2, "object")
    sure = _flattened(truth.sure, objects)
    return _Truth(sure, sure if truth.undecided is None else _flattened(truth.possible, objects))


def _called(name: str, cut: Expression) -> str:
    return f"{f'{name}: ' if name else ''}the cut {shown(cut.text)}"


def _finite(column: Any, like: Any) -> Any:
    """Where a column's values are all finite, by event or by object as in `like`."""
    if _kind(column) != "f":
        return True
    finite = np.isfinite(column)
    if isinstance(finite, np.ndarray):
        return finite
    while getattr(finite, "ndim", 0) > like.ndim:
        finite = ak.all(finite, axis=-1)
    return ak.to_numpy(ak.fill_none(finite, True)) if isinstance(like, np.ndarray) else finite
