"""The grammar of expressions evaluated slowly, one event at a time, in plain Python: the oracle.

Integers are Python's, floating-point numbers Python's floats, rounded to single precision after
each step where a column has it; a list is a list, None no value, UNDECIDED a yes or no that a NaN
leaves open. Knows nothing of numpy or awkward.
"""

import ast
import math
from collections.abc import Callable, Mapping
from ctypes import c_float
from dataclasses import dataclass
from functools import reduce
from typing import Any

UNDECIDED = "undecided"
COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b, ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b,
}  # fmt: skip


class Refused(Exception):
    """An integer of more than 64 bits."""


class Skip(Exception):
    """A result that depends on the last digits of a function, or on the sign of a zero."""


@dataclass(frozen=True)
class Value:
    """`kind` is b, i, f32 or f64, of numbers of the expression `literal`; `rough` values are known
    to some digits."""

    kind: str
    value: Any
    rough: bool = False
    literal: bool = False


def single(value: float) -> float:
    return c_float(value).value


def evaluate(text: str, event: Mapping[str, tuple[str, Any]]) -> Any:
    """The value in one event, whose columns are (kind, value or list): `Value`, None or a list."""
    return _value(ast.parse(text.strip(), mode="eval").body, event)


def _value(node: ast.expr, event: Mapping[str, tuple[str, Any]]) -> Any:
    match node:
        case ast.Name(id=name):
            kind, value = event[name]
            if isinstance(value, list):
                return [Value(kind, one) for one in value]
            return Value(kind, value)
        case ast.Constant(value=value):
            kind = {bool: "b", int: "i", float: "f64"}[type(value)]
            return Value(kind, value, literal=kind != "b")
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_value(side, event) for side in (left, *others)]
            parts = [
                _spread(lambda a, b, op=op: compare(type(op), a, b), a, b)
                for a, op, b in zip(sides[:-1], ops, sides[1:], strict=True)
            ]
            return reduce(lambda a, b: _joined(both, a, b), parts)
        case ast.BoolOp(op=op, values=values):
            parts = [_value(value, event) for value in values]
            return reduce(lambda a, b: _joined(both if isinstance(op, ast.And) else either, a, b),
                          [_spread(truth, part) for part in parts])  # fmt: skip
        case ast.UnaryOp(op=op, operand=operand):
            return _spread(lambda a: unary(op, a), _value(operand, event))
        case ast.BinOp(op=op, left=left, right=right):
            sides = _value(left, event), _value(right, event)
            if isinstance(op, (ast.BitAnd, ast.BitOr)) and _yes_or_no(left) and _yes_or_no(right):
                return _joined(both if isinstance(op, ast.BitAnd) else either, *sides)
            return _spread(lambda a, b: binary(op, a, b), *sides)
        case ast.Subscript(value=value, slice=mask):
            return _chosen(_value(value, event), _value(mask, event))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _called(name, [_value(arg, event) for arg in args])
    raise AssertionError(ast.dump(node))


def _chosen(values: list[Value], mask: list[Value]) -> list[Value]:
    if any(passes.value == UNDECIDED for passes in mask):
        raise Skip
    return [one for one, passes in zip(values, mask, strict=True) if passes.value]


def _called(name: str, values: list[Any]) -> Any:
    if name in LISTS:
        return LISTS[name](values[0])
    if name in ("minimum", "maximum"):
        extreme = min if name == "minimum" else max
        return reduce(lambda a, b: _spread(lambda x, y: most(extreme, x, y), a, b), values)
    if name == "where" and None in values and not any(isinstance(one, list) for one in values):
        return _chosen_of(*values)
    return _spread(FUNCTIONS[name], *values)


def _chosen_of(condition: Any, a: Any, b: Any) -> Any:
    """What `where` gives if values of an event are missing."""
    answer = None if condition is None else truth(condition).value
    if answer is None or answer == UNDECIDED:
        raise Skip
    chosen = a if answer else b
    if chosen is not None and (
        chosen.literal or (chosen.kind == "i" and abs(chosen.value) > 2**24)
    ):
        # its precision is that of the other value, too
        raise Skip
    return chosen


def _spread(function: Callable[..., Any], *operands: Any) -> Any:
    """A function of single values, on values and lists."""
    lengths = {len(one) for one in operands if isinstance(one, list)}
    if lengths:
        (length,) = lengths
        columns = [one if isinstance(one, list) else [one] * length for one in operands]
        return [_spread(function, *row) for row in zip(*columns, strict=True)]
    return None if None in operands else function(*operands)


def _joined(function: Callable[..., Any], a: Any, b: Any) -> Any:
    """Two answers; where one of an event is missing, the other may decide."""
    if isinstance(a, list) or isinstance(b, list) or None not in (a, b):
        return _spread(function, a, b)
    decisive = function is either
    known = [one for one in (a, b) if one is not None and one.value is decisive]
    return known[0] if known else None


def _yes_or_no(node: ast.expr) -> bool:
    """Whether an operand is a yes or no, also where its value is missing."""
    match node:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return _yes_or_no(operand)
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr(), left=left, right=right):
            return _yes_or_no(left) and _yes_or_no(right)
        case ast.Call(func=ast.Name(id="any" | "all")):
            return True
        case ast.Call(func=ast.Name(id="where"), args=[_, a, b]):
            return _yes_or_no(a) and _yes_or_no(b)
    return False


def number(a: Value) -> Value:
    if a.value == UNDECIDED:
        raise Skip
    return Value("i", int(a.value)) if a.kind == "b" else a


def truth(a: Value) -> Value:
    return a if a.kind == "b" else compare(ast.NotEq, a, Value("i", 0, literal=True))


def both(a: Value, b: Value) -> Value:
    values = {a.value, b.value}
    return Value("b", False if False in values else UNDECIDED if UNDECIDED in values else True)


def either(a: Value, b: Value) -> Value:
    values = {a.value, b.value}
    return Value("b", True if True in values else UNDECIDED if UNDECIDED in values else False)


def opposite(a: Value) -> Value:
    return a if a.value == UNDECIDED else Value("b", not a.value)


def alike(a: Value, b: Value) -> tuple[str, Any, Any]:
    """Two numbers in one precision."""
    if a.kind == b.kind == "i":
        return "i", a.value, b.value
    strong = [one.kind for one in (a, b) if not one.literal]
    kind = "f32" if strong and set(strong) == {"f32"} else "f64"
    x, y = float(a.value), float(b.value)
    return kind, *((single(x), single(y)) if kind == "f32" else (x, y))


def made(kind: str, value: Any, *of: Value, rough: bool = False) -> Value:
    if kind == "f32":
        value = single(value)
    if kind == "i" and not -(2**63) <= value < 2**63:
        raise Refused
    return Value(kind, value, rough or any(one.rough for one in of), all(o.literal for o in of))


def compare(op: type, a: Value, b: Value) -> Value:
    a, b = number(a), number(b)
    _, x, y = alike(a, b)
    if math.isnan(x) or math.isnan(y):
        return Value("b", UNDECIDED)
    if (a.rough or b.rough) and math.isfinite(x) and math.isfinite(y):
        if abs(x - y) <= 1e-4 * (abs(x) + abs(y)) + 1e-30:
            raise Skip
    elif a.rough or b.rough:
        raise Skip
    return Value("b", COMPARE[op](x, y))


def divide(x: float, y: float) -> float:
    if y == 0:
        return (
            math.nan
            if x == 0 or math.isnan(x)
            else math.copysign(math.inf, x) * math.copysign(1, y)
        )
    return x / y


def binary(op: ast.operator, a: Value, b: Value) -> Value:
    if isinstance(op, (ast.BitAnd, ast.BitOr)) and a.kind == b.kind == "b":
        return (both if isinstance(op, ast.BitAnd) else either)(a, b)
    a, b = number(a), number(b)
    kind, x, y = alike(a, b)
    match op:
        case ast.BitAnd():
            return made("i", x & y, a, b)
        case ast.BitOr():
            return made("i", x | y, a, b)
        case ast.Add():
            return made(kind, x + y, a, b)
        case ast.Sub():
            return made(kind, x - y, a, b)
        case ast.Mult():
            return made(kind, x * y, a, b)
        case ast.Div():
            if kind == "i":
                kind, x, y = "f64", float(x), float(y)
            return made(kind, divide(x, y), a, b)
    if kind == "i" and y >= 0:
        return made("i", x**y, a, b)
    kind = "f64" if kind == "i" else kind
    return made(kind, power(float(x), float(y)), a, b, rough=True)


def power(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:
        if x == 0:
            return math.copysign(math.inf, x) if y % 2 == 1 else math.inf
        return math.nan


def unary(op: ast.unaryop, a: Value) -> Value:
    if isinstance(op, ast.Not) or (isinstance(op, ast.Invert) and a.kind == "b"):
        return opposite(truth(a))
    a = number(a)
    match op:
        case ast.USub():
            return made(a.kind, -a.value, a)
        case ast.Invert():
            return made("i", ~a.value, a)
    return a


def most(extreme: Callable[..., Any], a: Value, b: Value) -> Value:
    a, b = number(a), number(b)
    kind, x, y = alike(a, b)
    if math.isnan(x) or math.isnan(y):
        return made(kind, math.nan, a, b)
    if a.rough or b.rough or (x == y == 0 and math.copysign(1, x) != math.copysign(1, y)):
        raise Skip
    return made(kind, extreme(x, y), a, b)


def choose(condition: Value, a: Value, b: Value) -> Value:
    condition = truth(condition)
    if a.kind == b.kind == "b":
        return either(both(condition, a), both(opposite(condition), b))
    if condition.value == UNDECIDED:
        raise Skip
    a, b = number(a), number(b)
    kind, x, y = alike(a, b)
    chosen = a if condition.value else b
    return Value(kind, x if condition.value else y, chosen.rough)


def smooth(function: Callable[[float], float]) -> Callable[[Value], Value]:
    def of(a: Value) -> Value:
        a = number(a)
        kind = a.kind if a.kind != "i" else "f64"
        try:
            return made(kind, function(float(a.value)), a, rough=function is not math.sqrt)
        except OverflowError:
            return made(kind, math.inf, a)
        except ValueError:
            wrong = -math.inf if function is math.log and a.value == 0 else math.nan
            return made(kind, wrong, a)

    return of


def absolute(a: Value) -> Value:
    a = number(a)
    return made(a.kind, abs(a.value), a)


def hypotenuse(a: Value, b: Value) -> Value:
    a, b = number(a), number(b)
    kind, x, y = alike(a, b)
    kind = "f64" if kind == "i" else kind
    return made(kind, math.hypot(float(x), float(y)), a, b, rough=True)


FUNCTIONS = {
    "abs": absolute, "cos": smooth(math.cos), "exp": smooth(math.exp), "hypot": hypotenuse,
    "log": smooth(math.log), "sin": smooth(math.sin), "sqrt": smooth(math.sqrt), "where": choose,
}  # fmt: skip


def total(values: list[Value]) -> Value:
    numbers = [number(one) for one in values]
    out = Value("i", 0)
    for place, one in enumerate(numbers):
        out = one if place == 0 else made(one.kind, out.value + one.value, out, one)
    # integers are added up before it is looked at what has become of them
    return Value(out.kind, out.value, out.rough)


def extreme_of(extreme: Callable[..., Any]) -> Callable[[list[Value]], Value | None]:
    def of(values: list[Value]) -> Value | None:
        numbers = [number(one) for one in values]
        if not numbers:
            return None
        if any(math.isnan(one.value) for one in numbers):
            return Value("f64", math.nan)
        return reduce(lambda a, b: most(extreme, a, b), numbers)

    return of


LISTS: dict[str, Callable[[Any], Any]] = {
    "all": lambda values: reduce(both, map(truth, values), Value("b", True)),
    "any": lambda values: reduce(either, map(truth, values), Value("b", False)),
    "count": lambda values: Value("i", len(values)),
    "first": lambda values: values[0] if values else None,
    "max": extreme_of(max),
    "min": extreme_of(min),
    "scalar": lambda value: value,
    "sum": total,
}
