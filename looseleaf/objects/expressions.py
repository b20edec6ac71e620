"""Cuts as expressions over declared columns, evaluated without Python's `eval`.

The grammar is arithmetic, comparisons (also chained), `and or not & | ~`, parentheses, numbers,
names, a few functions, and `Muon_pt[Muon_pt > 5]`, the objects of each event that pass. Nothing
else parses, so an expression from a configuration file can do no more than compute on the arrays
it is given. What the parts come to is in `looseleaf.objects.evaluation`.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from looseleaf.errors import ConfigError

# numpy's, value by value, and how many arguments each takes at least and at most
MATHEMATICS = {
    "abs": (1, 1),
    "cos": (1, 1),
    "exp": (1, 1),
    "hypot": (2, 2),
    "log": (1, 1),
    "maximum": (2, math.inf),
    "minimum": (2, math.inf),
    "sin": (1, 1),
    "sqrt": (1, 1),
    "where": (3, 3),
}
# of the list that each event has: one value, none for `first`, `max` and `min` of an empty one;
# `scalar` is a value that has to be no list
OF_LISTS = ("all", "any", "count", "first", "max", "min", "scalar", "sum")
ARGUMENTS = {**MATHEMATICS, **dict.fromkeys(OF_LISTS, (1, 1))}
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitAnd, ast.BitOr)
_UNARY = (ast.USub, ast.UAdd, ast.Invert, ast.Not)
# how many operations may stand inside one another: Python's parser gives up at some thousands
DEEPEST = 500
# of more digits than a column of integers can have
LARGEST_INTEGER = 2**64 - 1
# characters of an expression that a message shows
SHOWN = 200
_WORDS = {1: "one argument", 2: "two arguments", 3: "three arguments"}


class Expression:
    """A parsed expression; `names` are the columns it reads.

    `steps` are the nodes of its tree, each after its operands. Raises `ConfigError` with a pointer
    to the offending place if the text doesn't parse.
    """

    def __init__(self, text: str) -> None:
        self.text = str(text)
        self._stripped = self.text.strip()
        self.steps: list[tuple[ast.expr, int]] = []
        waiting = [(self._parsed(), 1)]
        while waiting:
            node, depth = waiting.pop()
            operands = self._operands(node)
            if depth > DEEPEST:
                self._refuse(None, f"more than {DEEPEST} operations are inside one another; {_CUT}")
            self.steps.append((node, len(operands)))
            waiting += [(operand, depth + 1) for operand in operands]
        self.steps.reverse()
        self.names: frozenset[str] = frozenset(
            node.id for node, _ in self.steps if isinstance(node, ast.Name)
        )

    @property
    def body(self) -> ast.expr:
        """The whole expression's node."""
        return self.steps[-1][0]

    def _parsed(self) -> ast.expr:
        try:
            return ast.parse(self._stripped, mode="eval").body
        except SyntaxError as problem:
            if "too many nested" in str(problem):
                self._refuse(None, f"there are too many brackets inside one another; {_CUT}")
            self._refuse((problem.offset or 1) - 1, "can't be read here")
        except (RecursionError, MemoryError):
            self._refuse(None, f"it is too long, or nested too deeply; {_CUT}")
        except ValueError:
            self._refuse(None, "it has characters that are no text")

    def _operands(self, node: ast.AST) -> list[ast.expr]:
        """What a node works on; `ConfigError` if the grammar doesn't have it."""
        match node:
            case ast.Name():
                return []
            case ast.Constant(value=int(value)) if value > LARGEST_INTEGER:
                why = "this integer has more than 64 bits"
            case ast.Constant(value=bool() | int() | float()):
                return []
            case ast.Compare(left=left, comparators=others) if any(
                map(self._binds_unexpectedly, [left, *others])
            ):
                why = "& and | bind before comparisons: put the comparisons in brackets, or use and"
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                return [left, right]
            case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _UNARY):
                return [operand]
            case ast.BoolOp(values=values):
                return values
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in COMPARISONS for op in ops
            ):
                return [left, *others]
            case ast.Subscript(value=value, slice=mask) if not isinstance(mask, ast.Constant):
                return [value, mask]
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                misused = _misused(name, len(args))
                if misused is None:
                    return args
                why = misused
            case _:
                why = "this is not allowed in an expression"
        self._refuse(getattr(node, "col_offset", 0), why)

    def _refuse(self, column: int | None, why: str) -> NoReturn:
        """Raise `ConfigError`, pointing to a column where it is known."""
        text = self._stripped
        if len(text) > SHOWN or not text.isprintable():
            raise ConfigError(f"expression {shown(text)}: {why}")
        pointer = "" if column is None else f"\n  {text}\n  {' ' * column}^"
        raise ConfigError(f"expression {text!r}: {why}{pointer}")

    def _binds_unexpectedly(self, side: ast.expr) -> bool:
        """Whether one side of a comparison is `a & b` or `a | b` without brackets of its own."""
        if not (isinstance(side, ast.BinOp) and isinstance(side.op, (ast.BitAnd, ast.BitOr))):
            return False
        return not self._stripped[: side.col_offset].rstrip().endswith("(")

    def __reduce__(self) -> tuple[type["Expression"], tuple[str]]:
        # its sets would be pickled in another order by every process
        return Expression, (self.text,)

    def __call__(self, columns: Mapping[str, Any] | Any) -> Any:
        """The value for arrays looked up by name, `columns[name]`; numpy or awkward arrays."""
        # imported late, since the graph is parsed with this module and only jobs compute
        from looseleaf.objects.evaluation import value_of  # noqa: PLC0415

        return value_of(self, columns)

    def keeps(self, columns: Mapping[str, Any] | Any) -> Any:
        """Which events a cut keeps, as an array of bool; not those in which it has no value.

        Raises `ConfigError` unless it says yes or no for each of them, and `DataFileError` if it
        can't say, because what it compares isn't a number.
        """
        from looseleaf.objects.evaluation import REFUSING  # noqa: PLC0415 - as above

        return REFUSING.keeps("", [self], columns)

    def symbolic(self, columns: Mapping[str, Any]) -> Any:
        """The value for objects that compare themselves, as the columns of a storage's predicate.

        Raises `TypeError` for anything but comparisons with signed numbers, `&`, `|` and `~`.
        """
        values: list[Any] = []
        for node, number in self.steps:
            operands = values[len(values) - number :]
            del values[len(values) - number :]
            values.append(_symbolic(node, operands, columns))
        return values[0]


_CUT = "write it as several cuts, or shorten it"


def shown(text: str) -> str:
    """An expression as messages quote it: a very long one by its beginning."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def _misused(name: str, number: int) -> str | None:
    """What is wrong with a function of some arguments; None if nothing is."""
    if name not in ARGUMENTS:
        return f"unknown function {name!r}; there are {', '.join(ARGUMENTS)}"
    least, most = ARGUMENTS[name]
    if least <= number <= most:
        return None
    return f"{name} takes {_WORDS[least]}{' or more' if most > least else ''}"


def _symbolic(node: ast.expr, operands: list[Any], columns: Mapping[str, Any]) -> Any:
    numbers = all(isinstance(operand, (int, float)) for operand in operands)
    match node:
        case ast.Name(id=name):
            return columns[name]
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub()) if numbers:
            return -operands[0]
        case ast.Compare(ops=[op]) if not numbers:
            return COMPARISONS[type(op)](*operands)
        case ast.BinOp(op=ast.BitAnd()) if not numbers:
            return operands[0] & operands[1]
        case ast.BinOp(op=ast.BitOr()) if not numbers:
            return operands[0] | operands[1]
        case ast.UnaryOp(op=ast.Invert()) if not numbers:
            return ~operands[0]
    raise TypeError(ast.dump(node))
