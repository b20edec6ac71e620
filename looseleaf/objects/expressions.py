"""Cuts as expressions over declared columns, evaluated without Python's `eval`.

The grammar has arithmetic, comparisons (also chained), `and or not & | ~`, parentheses, numbers,
names, a few functions, and `Muon_pt[Muon_pt > 5]`, the objects of each event that pass. Nothing
else parses, so an expression from a configuration file can only compute on the arrays that it is
given. The evaluation is in `looseleaf.objects.evaluation`.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NoReturn

from looseleaf.errors import ConfigError

# numpy's functions, applied value by value, with their least and largest number of arguments
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
# functions of the list in each event; `first`, `max` and `min` of an empty list have no value;
# `scalar` checks that a value isn't a list
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
# the deepest nesting of operations; Python's parser gives up at a few thousand
DEEPEST = 500
# more digits than a column of integers can have
LARGEST_INTEGER = 2**64 - 1
# how many characters of an expression a message shows
SHOWN = 200
_WORDS = {1: "one argument", 2: "two arguments", 3: "three arguments"}


class Expression:
    """A parsed expression; `names` are the columns it reads.

    `steps` are the nodes of its tree, each after its operands. If the text doesn't parse, raises
    `ConfigError` with a pointer to the place.
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
                self._refuse(None, f"operations are nested more than {DEEPEST} deep; {_CUT}")
            self.steps.append((node, len(operands)))
            waiting += [(operand, depth + 1) for operand in operands]
        self.steps.reverse()
        self.names: frozenset[str] = frozenset(
            node.id for node, _ in self.steps if isinstance(node, ast.Name)
        )

    @property
    def body(self) -> ast.expr:
        """The node of the whole expression."""
        return self.steps[-1][0]

    @cached_property
    def conjuncts(self) -> list["Expression"]:
        """Cuts of which each has to be passed: the sides of `and` and `&` that compare.

        There may be more that an event has to pass.
        """
        found, waiting = [], [self.body]
        while waiting:
            match waiting.pop():
                case ast.BoolOp(op=ast.And(), values=values):
                    waiting += values
                case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                    waiting += [left, right]
                case ast.Compare() as cut:
                    # as it is written: brackets may be needed; on one line, without those around
                    text = ast.get_source_segment(self._stripped, cut) or ""
                    found.append(Expression(" ".join(text.split())))
        return found[::-1]

    def _parsed(self) -> ast.expr:
        try:
            return ast.parse(self._stripped, mode="eval").body
        except SyntaxError as problem:
            if "too many nested" in str(problem):
                self._refuse(None, f"brackets are nested too deeply; {_CUT}")
            self._refuse((problem.offset or 1) - 1, "can't be read here")
        except (RecursionError, MemoryError):
            self._refuse(None, f"it is too long, or nested too deeply; {_CUT}")
        except ValueError:
            self._refuse(None, "it has characters that aren't valid text")

    def _operands(self, node: ast.AST) -> list[ast.expr]:
        """The operands of a node; `ConfigError` if the grammar doesn't have it."""
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
        # its sets would be pickled in a different order by each process
        return Expression, (self.text,)

    def __call__(self, columns: Mapping[str, Any] | Any) -> Any:
        """The value for `columns[name]`, which are numpy or awkward arrays."""
        # imported late: the graph is parsed with this module, and only jobs evaluate
        from looseleaf.objects.evaluation import value_of  # noqa: PLC0415

        return value_of(self, columns)

    def keeps(self, columns: Mapping[str, Any] | Any) -> Any:
        """Which events a cut keeps, as an array of bool; events in which it has no value are
        dropped.

        Raises `ConfigError` if it doesn't give a yes or no for each event, and `DataFileError` if
        it is undecided because a compared value is NaN.
        """
        from looseleaf.objects.evaluation import REFUSING  # noqa: PLC0415 - as above

        return REFUSING.keeps("", [self], columns)

    def symbolic(self, columns: Mapping[str, Any]) -> Any:
        """The value for objects that implement comparisons, such as the columns of a storage
        predicate.

        Raises `TypeError` for anything but comparisons with signed numbers, `&`, `|` and `~`.
        """
        values: list[Any] = []
        for node, number in self.steps:
            operands = values[len(values) - number :]
            del values[len(values) - number :]
            values.append(_symbolic(node, operands, columns))
        return values[0]


_CUT = "split it into several cuts, or shorten it"


def shown(text: str) -> str:
    """An expression as messages quote it; a very long one is cut short."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def _misused(name: str, number: int) -> str | None:
    """What is wrong with a call of a function with `number` arguments; None if nothing is."""
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
