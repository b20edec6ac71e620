"""func_adl queries, as for ServiceX's code generator `uproot`, translated to looseleaf's queries.

The text is qastle, parsed by its own library; nothing of it is evaluated as Python. A query is
evaluated with symbols instead of arrays: a lambda's argument stands for the event or for an object
of a collection, and the results are columns and a selection, as expressions.
"""

import ast
import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import count
from typing import Any, NoReturn

from looseleaf.errors import ConfigError
from looseleaf.objects.expressions import MATHEMATICS, Expression
from looseleaf.servicex.transform import TreeQuery

# a query that repeats itself more than this would take longer to write than to carry out
LARGEST = 5_000
LONGEST_TEXT = 50_000
# func_adl's functions from a list to one value, as methods and as functions, and ours
REDUCTIONS = {"Count": "count", "Sum": "sum", "Max": "max", "Min": "min", "First": "first"}
FUNCTIONS = {
    "len": "count",
    "sum": "sum",
    "max": "max",
    "min": "min",
    "any": "any",
    "all": "all",
}
INSTEAD = {
    "SelectMany": "keep the lists with Select, each event on a row of its own",
    "List": "give the columns names: Select(lambda e: {'name': ...})",
    "Tuple": "give the columns names: Select(lambda e: {'name': ...})",
    "Last": "there is First, of a list in its order",
}
PYTHON = "use a python query (run_query)"


def available() -> bool:
    """Whether the package for such queries is installed."""
    return find_spec("qastle") is not None


@dataclass(frozen=True)
class _Value:
    """A number or a list of numbers in each event.

    `along` is the loop over objects in which it is used, None outside of any.
    """

    node: ast.expr
    along: int | None = None
    size: int = 1


@dataclass(frozen=True)
class _Record:
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class _List:
    """The objects of a collection in each event, by the value of one object."""

    element: _Value | _Record


@dataclass(frozen=True)
class _Event:
    pass


@dataclass(frozen=True)
class _Rows:
    """The dataset: its tree, the selections so far, and the contents of a row."""

    tree: str
    cuts: tuple[str, ...] = ()
    row: Any = field(default_factory=_Event)


def func_adl_queries(selection: str) -> tuple[TreeQuery, ...]:
    """The query in a func_adl selection.

    Raises `ConfigError` naming what can't be read or carried out, and an alternative.
    """
    if not available():
        raise ConfigError(
            "func_adl queries need the package qastle: type pip install 'looseleaf[func-adl]' "
            "where the service runs"
        )
    import qastle  # noqa: PLC0415 - an extra
    from lark.exceptions import LarkError  # noqa: PLC0415 - qastle's parser

    if len(selection) > LONGEST_TEXT:
        raise ConfigError(f"func_adl query: longer than {LONGEST_TEXT:,} characters; {PYTHON}")
    try:
        parsed = qastle.insert_linq_nodes(qastle.text_ast_to_python_ast(selection))
        rows = _Reader().rows(parsed.body[0].value)
    except (LarkError, SyntaxError, ValueError, AttributeError, IndexError) as problem:
        first = str(problem).strip().splitlines() or [type(problem).__name__]
        raise ConfigError(f"a func_adl selection is qastle: {first[0]}") from None
    except RecursionError:
        raise ConfigError(f"func_adl query: nested too deeply; {PYTHON}") from None
    return (_tree_query(rows),)


def _refuse(problem: str, instead: str = PYTHON) -> NoReturn:
    raise ConfigError(f"func_adl query: {problem}: {instead}")


def _tree_query(rows: _Rows) -> TreeQuery:
    columns: list[str] = []
    computed: list[tuple[str, str]] = []
    collections: list[str] = []
    for name, field_value in _fields_of(rows.row).items():
        value = field_value.element if isinstance(field_value, _List) else field_value
        if isinstance(value, _Record) and isinstance(field_value, _List):
            collections.append(name)
            computed += [(f"{name}_{part}", _text(leaf)) for part, leaf in value.fields.items()]
        elif not isinstance(value, _Value):
            _refuse(f"column {name!r}", "a collection of several columns is written {...}.Zip()")
        elif isinstance(value.node, ast.Name) and value.node.id == name:
            columns.append(name)
        else:
            computed.append((name, _text(value)))
    names = [*columns, *(name for name, _ in computed)]
    _check_names(names, columns, collections)
    return TreeQuery(
        tree=rows.tree,
        to=rows.tree,
        columns=tuple(columns),
        patterns=() if names else ("*",),
        computed=tuple(computed),
        collections=tuple(collections),
        cut=" & ".join(f"({cut})" for cut in rows.cuts) or None,
    )


def _fields_of(row: Any) -> Mapping[str, Any]:
    """The columns of the last Select by name; empty if it keeps the event itself."""
    match row:
        case _Value(node=ast.Name(id=name)):
            return {name: row}
        case _Record(fields=fields):
            return fields
        case _Event():
            return {}
    _refuse("the last Select", INSTEAD["List"])


def _check_names(names: list[str], columns: list[str], collections: list[str]) -> None:
    for name in names:
        _identifier(name)
    twice = {name for name in names if names.count(name) > 1}
    # a collection is written completely, with its counter
    twice |= {n for n in columns for c in collections if n.startswith(f"{c}_") or n == f"n{c}"}
    if twice:
        _refuse(f"two columns would be called {min(twice)}", "give one of them another name")


def _identifier(name: Any) -> str:
    if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
        _refuse(f"the name {name!r}", "columns are named by letters, digits and _")
    return name


def _text(value: _Value) -> str:
    return Expression(ast.unparse(ast.fix_missing_locations(value.node))).text


def _each(element: Any, change: Callable[[_Value], _Value]) -> Any:
    if isinstance(element, _Record):
        return _Record({name: _each(part, change) for name, part in element.fields.items()})
    return change(element)


class _Reader:
    """Reads the Python AST that qastle makes from a query."""

    def __init__(self) -> None:
        self._loops = count()

    def rows(self, node: Any) -> _Rows:
        match node:
            case ast.Call(
                func=ast.Name(id="EventDataset"), args=[_, ast.Constant(value=str(tree))]
            ):
                return _Rows(tree)
            case ast.Call(func=ast.Name(id="EventDataset")):
                _refuse("EventDataset without a tree", "name it: FromTree('Events')")
        source = getattr(node, "source", None)
        if source is None:
            _refuse("anything other than Select and Where of a dataset")
        rows, kind = self.rows(source), type(node).__name__
        if kind == "Select":
            row = self._applied(node.selector, rows.row, {})
            return _Rows(rows.tree, rows.cuts, row)
        if kind == "Where":
            passes = self._value(self._applied(node.predicate, rows.row, {}), "Where")
            if not Expression(text := _text(passes)).names:
                _refuse("a Where that doesn't use the event", "leave it out")
            return _Rows(rows.tree, (*rows.cuts, text), rows.row)
        _refuse(f"{kind} of the events", INSTEAD.get(kind, "add up the result yourself"))

    def _applied(self, function: Any, argument: Any, scope: Mapping[str, Any]) -> Any:
        match function:
            case ast.Lambda(args=ast.arguments(args=[ast.arg(arg=name)]), body=body):
                return self._read(body, {**scope, name: argument})
        _refuse("a function that isn't a lambda of one argument")

    def _read(self, node: Any, scope: Mapping[str, Any]) -> Any:
        match node:
            case ast.Name(id=name) if name in scope:
                return scope[name]
            case ast.Constant(value=bool() | int() | float()):
                return _Value(node)
            case ast.Attribute(value=of, attr=name):
                return self._member(self._read(of, scope), name)
            case ast.Subscript(value=of, slice=ast.Constant(value=str(name))):
                return self._member(self._read(of, scope), name)
            case ast.Subscript(value=of, slice=ast.Constant(value=0)):
                return self._reduced("first", self._list(self._read(of, scope)))
            case ast.Dict(keys=keys, values=values):
                names = [_identifier(getattr(key, "value", None)) for key in keys]
                if len(set(names)) < len(names):
                    _refuse("a dict with a key twice", "give one of them another name")
                return _Record(
                    {n: self._read(v, scope) for n, v in zip(names, values, strict=True)}
                )
        return self._operation(node, scope)

    def _operation(self, node: Any, scope: Mapping[str, Any]) -> Any:
        match node:
            case ast.UnaryOp(op=sign, operand=operand):
                return self._made(partial(ast.UnaryOp, sign), [operand], scope)
            case ast.BinOp(left=left, op=operator, right=right):
                return self._made(lambda a, b: ast.BinOp(a, operator, b), [left, right], scope)
            case ast.BoolOp(op=connective, values=values):
                return self._made(lambda *of: ast.BoolOp(connective, list(of)), values, scope)
            case ast.Compare(left=left, ops=[relation], comparators=[right]):
                return self._made(
                    lambda a, b: ast.Compare(a, [relation], [b]), [left, right], scope
                )
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._made(_calls("where"), [test, body, orelse], scope)
            case ast.Call(func=ast.Name(id=name), args=[of]) if name in FUNCTIONS:
                return self._reduced(FUNCTIONS[name], self._list(self._read(of, scope)))
            case ast.Call(func=ast.Name(id=name), args=args) if name in MATHEMATICS:
                return self._made(_calls(name), args, scope)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                _refuse(f"the function {name}")
        return self._of_list(node, scope)

    def _of_list(self, node: Any, scope: Mapping[str, Any]) -> Any:
        kind = type(node).__name__
        if kind == "Zip":
            return self._zipped(self._read(node.source, scope))
        if kind in REDUCTIONS:
            return self._reduced(REDUCTIONS[kind], self._list(self._read(node.source, scope)))
        if kind not in ("Select", "Where", "Any", "All"):
            name = f"the name {node.id}" if isinstance(node, ast.Name) else kind
            _refuse(name, INSTEAD.get(kind, PYTHON))
        # a loop of its own, whose objects can't be combined with those of others
        loop = next(self._loops)
        listed = self._list(self._read(node.source, scope))
        element = _each(listed.element, lambda leaf: _Value(leaf.node, loop, leaf.size))
        function = node.selector if kind == "Select" else node.predicate
        applied = self._applied(function, element, scope)

        def of_object(leaf: Any) -> _Value:
            value = self._value(leaf, kind)
            if value.along != loop:
                _refuse(f"a {kind} whose lambda doesn't use its object")
            return value

        if kind == "Select":
            return _List(_each(applied, lambda leaf: _Value(of_object(leaf).node, None, leaf.size)))
        passes = of_object(applied)
        if kind in ("Any", "All"):
            return self._sized(_calls(kind.lower())(passes.node), None, passes.size + 1)
        return _List(
            _each(
                listed.element,
                lambda leaf: self._sized(
                    ast.Subscript(leaf.node, passes.node, ast.Load()),
                    None,
                    leaf.size + passes.size,
                ),
            )
        )

    @staticmethod
    def _member(of: Any, name: str) -> Any:
        match of:
            case _Event():
                return _Value(ast.Name(_identifier(name), ast.Load()))
            case _Record(fields=fields) if name in fields:
                return fields[name]
            case _List(element=_Record(fields=fields)) if name in fields:
                return _List(fields[name])
        _refuse(f"the member {name}", "branches are the event's, e.MET_pt, fields those of a dict")

    @staticmethod
    def _value(value: Any, where: str) -> _Value:
        if not isinstance(value, _Value):
            _refuse(f"a number is expected ({where})", "take one with Count(), First(), Sum() ...")
        return value

    @staticmethod
    def _list(value: Any) -> _List:
        if isinstance(value, _List):
            return value
        if not isinstance(value, _Value) or value.along is not None:
            _refuse("a list within a list, or of something other than columns")
        return _List(value)

    def _zipped(self, value: Any) -> _List:
        if not isinstance(value, _Record):
            _refuse("Zip", "it takes a dict of columns: {'pt': e.Muon_pt, ...}.Zip()")
        parts = {name: self._list(part).element for name, part in value.fields.items()}
        if not parts or not all(isinstance(part, _Value) for part in parts.values()):
            _refuse("Zip", "it takes a dict of columns: {'pt': e.Muon_pt, ...}.Zip()")
        return _List(_Record(parts))

    def _reduced(self, function: str, listed: _List) -> Any:
        if function == "count" and isinstance(listed.element, _Record):
            listed = _List(next(iter(listed.element.fields.values())))
        elif function != "first" and isinstance(listed.element, _Record):
            _refuse(f"{function} of objects", "take one of their columns")
        return _each(
            listed.element,
            lambda leaf: self._sized(_calls(function)(leaf.node), None, leaf.size + 1),
        )

    def _made(
        self, make: Callable[..., ast.expr], parts: list[Any], scope: Mapping[str, Any]
    ) -> _Value:
        values = [self._value(self._read(part, scope), "in arithmetic") for part in parts]
        loops = {value.along for value in values} - {None}
        if len(loops) > 1:
            _refuse("the objects of two lists together")
        along = loops.pop() if loops else None
        # an object can be combined with event-level values, not with a list that happens to be as
        # long
        nodes = [
            value.node
            if along is None or value.along is not None or isinstance(value.node, ast.Constant)
            else _calls("scalar")(value.node)
            for value in values
        ]
        return self._sized(make(*nodes), along, 1 + sum(value.size for value in values))

    @staticmethod
    def _sized(node: ast.expr, along: int | None, size: int) -> _Value:
        if size > LARGEST:
            _refuse("the resulting expression is too large")
        return _Value(node, along, size)


def _calls(name: str) -> Callable[..., ast.expr]:
    return lambda *arguments: ast.Call(ast.Name(name, ast.Load()), list(arguments), [])
