"""Reading and checking the selections of ServiceX's code generators, before any file is opened."""

import ast
import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from looseleaf.errors import ConfigError
from looseleaf.objects.expressions import Expression
from looseleaf.servicex.request import OWN
from looseleaf.servicex.service.funcadl import available, func_adl_queries
from looseleaf.servicex.transform import TreeQuery

# the code generators, and what carries out their queries
CODEGENS = {
    OWN: "looseleaf.servicex.transform",
    "uproot-raw": "looseleaf.servicex.transform",
    "uproot": "looseleaf.servicex.service.funcadl",
    "python": "run_query",
}
FUNCTION = "run_query"
# characters of a selection without checksums, of one expression, and of all aliases that are put in
# the place of their names: more than anybody writes, and read in a second
LONGEST_SELECTION, LONGEST_TEXT, LONGEST_ALIASES = 1_000_000, 50_000, 200_000
# each is gone through for every file
MOST_TREES = 100


def usable() -> dict[str, str]:
    """The code generators whose packages are installed."""
    return {name: what for name, what in CODEGENS.items() if name != "uproot" or available()}


class Skim(BaseModel):
    """A looseleaf selection.

    It has the columns, with alternatives `A|B`, the events to keep, the software that distinguishes
    results, and, to verify files, their checksums by each file's first path.
    """

    model_config = ConfigDict(extra="forbid")

    columns: list[str]
    cut: str | None
    software: str
    checksums: dict[str, str] = {}


def checksums_of(codegen: str, selection: str) -> tuple[str, dict[str, str]]:
    """A checked selection without the checksums of its files, and the checksums by first path."""
    if codegen != OWN:
        return selection, {}
    skim = Skim.model_validate_json(selection)
    return skim.model_dump_json(exclude={"checksums"}), skim.checksums


def skim_query(selection: str) -> TreeQuery:
    """The query of a looseleaf selection; `ConfigError` if it can't be read."""
    try:
        skim = Skim.model_validate_json(selection)
    except ValidationError as problem:
        raise ConfigError(f"looseleaf selection: {_first(problem)}") from None
    if skim.cut is not None:
        _expression(skim.cut)
    return TreeQuery(columns=tuple(skim.columns), cut=skim.cut, may_lack=True)


class RawQuery(BaseModel):
    """One query of an uproot-raw selection, in the client's form."""

    model_config = ConfigDict(extra="forbid")

    treename: str | list[str] | dict[str, str]
    expressions: str | list[str] | None = None
    cut: str | None = None
    filter_name: str | list[str] | None = None
    filter_typename: str | list[str] | None = None
    aliases: dict[str, str] | None = None
    fail_on_missing_trees: bool | None = None
    # its effects on awkward's functions have no meaning in looseleaf's expressions
    use_standard_awkward_axis: bool | None = None


def raw_queries(selection: str) -> tuple[TreeQuery, ...]:
    """The queries of an uproot-raw selection; `ConfigError` if it can't be read or isn't
    allowed."""
    _short(selection)
    try:
        listed = json.loads(selection)
        # half of a surrogate pair is no text, and can't be written anywhere
        json.dumps(listed, ensure_ascii=False).encode()
        queries = [RawQuery.model_validate(query) for query in listed]
    except ValidationError as problem:
        raise ConfigError(f"uproot-raw query: {_first(problem)}") from None
    except (ValueError, TypeError):
        raise ConfigError("an uproot-raw selection is a JSON list of queries") from None
    tree_queries = tuple(part for query in queries for part in _trees(query))
    if not tree_queries:
        raise ConfigError("an uproot-raw selection asks for at least one tree")
    if len(tree_queries) > MOST_TREES:
        raise ConfigError(f"an uproot-raw selection asks for {MOST_TREES} trees at the most")
    names = [query.to for query in tree_queries]
    if len(set(names)) < len(names):
        raise ConfigError(f"uproot-raw query: two results are called {max(names, key=names.count)}")
    return tree_queries


def _first(problem: ValidationError) -> str:
    """The first error: where, and what."""
    first = problem.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _trees(query: RawQuery) -> list[TreeQuery]:
    names = query.treename
    if isinstance(names, Mapping):
        pairs = list(names.items())
    else:
        pairs = [(name, name) for name in _several(names)]
    aliases = _Aliases(query.aliases or {})
    columns, computed = [], []
    for text in _several(query.expressions):
        if text.isidentifier() and text not in aliases.texts:
            columns.append(text)
        else:
            computed.append((text, aliases.put_in(text)))
    patterns = _several(query.filter_name)
    typenames = _several(query.filter_typename)
    if not (columns or computed or patterns or typenames):
        patterns = ("*",)
    return [
        TreeQuery(
            tree=tree,
            to=to,
            columns=tuple(columns),
            patterns=patterns,
            typenames=typenames,
            computed=tuple(computed),
            cut=None if query.cut is None else aliases.put_in(query.cut),
            optional=query.fail_on_missing_trees is False,
        )
        for tree, to in pairs
    ]


def _several(value: str | list[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


class _Aliases(ast.NodeTransformer):
    """Aliases of a query; one may use others, and be so small that it doubles a hundred times."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self._left = LONGEST_ALIASES
        self._within: list[str] = []

    def put_in(self, text: str) -> str:
        """An expression with its aliases put in; `ConfigError` if it isn't one."""
        _expression(text)
        if not self.texts:
            return text
        return ast.unparse(self.visit(ast.parse(text.strip(), mode="eval")))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.texts or node.id in self._within:
            return node
        text = self.texts[node.id]
        self._left -= len(text)
        if self._left < 0:
            raise ConfigError(
                f"uproot-raw query: its aliases come to more than {LONGEST_ALIASES:,} characters"
            )
        _expression(text)
        self._within.append(node.id)
        inside: ast.AST = self.visit(ast.parse(text.strip(), mode="eval").body)
        self._within.pop()
        return inside


def _expression(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise ConfigError(f"an expression has {LONGEST_TEXT:,} characters at the most")
    Expression(text)


def _short(selection: str) -> None:
    if len(selection) > LONGEST_SELECTION:
        raise ConfigError(f"a selection has {LONGEST_SELECTION:,} characters at the most")


def python_source(selection: str) -> str:
    """The source in a python selection; `ConfigError` unless it defines `run_query(path)`."""
    _short(selection)
    try:
        source = base64.b64decode(selection, validate=True).decode()
        functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    except (binascii.Error, UnicodeDecodeError):
        raise ConfigError("a python selection is base64 of a function's source") from None
    except (SyntaxError, ValueError) as problem:
        raise ConfigError(f"the python selection can't be read: {problem}") from None
    if FUNCTION not in functions:
        raise ConfigError(f"a python selection defines {FUNCTION}(path)")
    return source


def check(codegen: str, selection: str) -> Any:
    """The query in a selection; `ConfigError` if it is wrong."""
    try:
        return _read(codegen, selection)
    except (RecursionError, MemoryError):
        raise ConfigError(f"the {codegen} selection is nested too deeply, or too long") from None


def _read(codegen: str, selection: str) -> Any:
    if codegen == OWN:
        return (skim_query(selection),)
    match codegen:
        case "uproot-raw":
            return raw_queries(selection)
        case "uproot":
            return func_adl_queries(selection)
        case "python":
            return python_source(selection)
    raise ConfigError(f"codegen {codegen!r} is not one of {', '.join(CODEGENS)}")
