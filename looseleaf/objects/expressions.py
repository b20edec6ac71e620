"""Cuts as expressions over declared columns, evaluated without Python's `eval`.

The grammar is arithmetic, comparisons (also chained), `and or not & | ~`, parentheses, numbers,
names, a few functions, and `Muon_pt[Muon_pt > 5]`, the objects of each event that pass. Nothing
else parses, so an expression from a configuration file can do no more than compute on the arrays
it is given.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from looseleaf.errors import ConfigError

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.Not: operator.invert,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
# numpy's, value by value
MATHEMATICS = ("abs", "cos", "exp", "hypot", "log", "maximum", "minimum", "sin", "sqrt", "where")
# of the list that each event has: one value, none for `first`, `max` and `min` of an empty one;
# `scalar` is a value that has to be no list
OF_LISTS = ("all", "any", "count", "first", "max", "min", "scalar", "sum")
FUNCTIONS = (*MATHEMATICS, *OF_LISTS)


class Expression:
    """A parsed expression; `names` are the columns it reads.

    Raises `ConfigError` with a pointer to the offending place if the text doesn't parse.
    """

    def __init__(self, text: str) -> None:
        self.text = str(text)
        try:
            self._body = ast.parse(self.text.strip(), mode="eval").body
        except SyntaxError as problem:
            column = (problem.offset or 1) - 1
            raise ConfigError(_pointing(self.text.strip(), column, "can't be read here")) from None
        self.names: frozenset[str] = frozenset(self._check(self._body))

    def _check(self, node: ast.AST) -> set[str]:
        match node:
            case ast.Name(id=name):
                return {name}
            case ast.Constant(value=bool() | int() | float()):
                return set()
            case ast.Compare(left=left, comparators=others) if any(
                map(self._binds_unexpectedly, [left, *others])
            ):
                why = "& and | bind before comparisons: put the comparisons in brackets, or use and"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._check(left) | self._check(right)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return self._check(operand)
            case ast.BoolOp(values=values):
                return set().union(*map(self._check, values))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _COMPARE for op in ops
            ):
                return set().union(*map(self._check, [left, *others]))
            case ast.Subscript(value=value, slice=mask) if not isinstance(mask, ast.Constant):
                return self._check(value) | self._check(mask)
            case ast.Call(func=ast.Name(id=name), args=args) if name in OF_LISTS and len(args) != 1:
                why = f"{name} takes one argument"
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                return set().union(*map(self._check, args))
            case ast.Call(func=ast.Name(id=name)):
                why = f"unknown function {name!r}; there are {', '.join(FUNCTIONS)}"
            case _:
                why = "this is not allowed in an expression"
        raise ConfigError(_pointing(self.text.strip(), getattr(node, "col_offset", 0), why))

    def _binds_unexpectedly(self, side: ast.expr) -> bool:
        """Whether one side of a comparison is `a & b` or `a | b` without brackets of its own."""
        if not (isinstance(side, ast.BinOp) and isinstance(side.op, (ast.BitAnd, ast.BitOr))):
            return False
        return not self.text.strip()[: side.col_offset].rstrip().endswith("(")

    def __reduce__(self) -> tuple[type["Expression"], tuple[str]]:
        # its sets would be pickled in another order by every process
        return Expression, (self.text,)

    def __call__(self, columns: Mapping[str, Any] | Any) -> Any:
        """The value for arrays looked up by name, `columns[name]`; numpy or awkward arrays."""
        return self._value(self._body, columns)

    def keeps(self, columns: Mapping[str, Any] | Any) -> Any:
        """Which events a cut keeps, as an array of bool; not those in which it has no value.

        Raises `ConfigError` unless it says yes or no for each of them.
        """
        import awkward as ak  # noqa: PLC0415 - as below

        value = self(columns)
        if getattr(value, "ndim", 0) == 1:
            mask = ak.to_numpy(ak.fill_none(value, False))
            if mask.dtype == bool:
                return mask
        raise ConfigError(f"the cut {self.text!r} should give a yes or no for each event")

    def _value(self, node: ast.AST, columns: Any) -> Any:
        # numpy's functions dispatch on awkward arrays too; imported late, since the graph is
        # parsed with this module and only jobs compute
        import numpy as np  # noqa: PLC0415

        match node:
            case ast.Name(id=name):
                return columns[name]
            case ast.Constant(value=value):
                return value
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._value(left, columns), self._value(right, columns))
            case ast.UnaryOp(op=op, operand=operand):
                value = self._value(operand, columns)
                return np.logical_not(value) if isinstance(op, ast.Not) else _UNARY[type(op)](value)
            case ast.BoolOp(op=op, values=values):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return reduce(combine, [self._value(value, columns) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [self._value(side, columns) for side in [left, *others]]
                parts = [
                    _COMPARE[type(op)](a, b)
                    for a, op, b in zip(sides[:-1], ops, sides[1:], strict=True)
                ]
                return reduce(np.logical_and, parts)
            case ast.Subscript(value=value, slice=mask):
                return self._passing(self._value(value, columns), self._value(mask, columns))
            case ast.Call(func=ast.Name(id=name), args=[of]) if name in OF_LISTS:
                return self._of_list(name, self._value(of, columns))
            case ast.Call(func=ast.Name(id=name), args=args):
                return getattr(np, name)(*[self._value(arg, columns) for arg in args])
        raise AssertionError(ast.dump(node))

    def _passing(self, values: Any, mask: Any) -> Any:
        import awkward as ak  # noqa: PLC0415 - as above

        if not isinstance(values, ak.Array):
            raise TypeError(f"objects of {type(values).__name__}")
        if not (isinstance(mask, ak.Array) and mask.ndim == 2 and _type_of(mask) == "bool"):
            raise ConfigError(
                f"expression {self.text!r}: in [] stands a yes or no for each object of the events"
            )
        return values[mask]

    def _of_list(self, name: str, values: Any) -> Any:
        import awkward as ak  # noqa: PLC0415 - as above

        if not isinstance(values, ak.Array) and name != "scalar":
            raise TypeError(f"{name} of {type(values).__name__}")
        if (getattr(values, "ndim", 0) > 1) == (name == "scalar"):
            why = "one value in each event" if name == "scalar" else "a list in each event"
            raise ConfigError(f"expression {self.text!r}: {name}() is of {why}")
        match name:
            case "scalar":
                return values
            case "count":
                return ak.num(values, axis=1)
            case "first":
                return ak.firsts(values, axis=1)
        return getattr(ak, name)(values, axis=1)


def _type_of(array: Any) -> str:
    """The type of the single values in an array."""
    return str(array.type).rpartition("* ")[2].lstrip("?")


def _pointing(text: str, column: int, why: str) -> str:
    return f"expression {text!r}: {why}\n  {text}\n  {' ' * column}^"
