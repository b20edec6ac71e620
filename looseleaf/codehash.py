"""A hash of the code that a job runs.

Snakemake watches the times of `script:` files, and not their imports. Each rule has this hash among
its params instead, so that an edit of a script or a module reruns exactly the stages that run it.
Docstrings, comments and layout don't count.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

from looseleaf.files import whole

ROOT = Path(__file__).parent
# nodes that may begin with a docstring
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# what is known of files by their content, beside the compiled modules: to parse all of them takes
# each process longer than to import what it needs
KNOWN = Path(cache_from_source(__file__)).with_suffix(".json")
# more than this many contents are from edits of long ago
MOST_KNOWN = 1000
# modules that jobs run but no result depends on, with what only they import
ASIDE = {
    "looseleaf.cluster": "where processors run",
    "looseleaf.doorway": "how scripts tell errors and times",
    "looseleaf.progress": "how far a job is, for who looks on",
    "looseleaf.workerprocess": "how worker processes are started",
}


@cache
def _path_of(module: str) -> Path | None:
    relative = Path(*module.split(".")[1:])
    for path in (ROOT / relative.with_suffix(".py"), ROOT / relative / "__init__.py"):
        if path.is_file():
            return path
    return None


@dataclass(frozen=True)
class Source:
    """A Python file: the modules of this package that it imports, including imports within
    functions, and a digest of its syntax tree without docstrings."""

    imports: tuple[str, ...]
    tree: str


def _parsed(content: bytes) -> Source:
    tree = ast.parse(content)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    ours = sorted(name for name in names if name.split(".")[0] == ROOT.name)
    return Source(tuple(ours), hashlib.sha256(ast.dump(tree).encode()).hexdigest())


class _Known:
    """Sources by their content's digest, kept from process to process."""

    def __init__(self) -> None:
        self._before: dict[str, Source] = {}
        # a file that isn't whole is as good as none
        with suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads(KNOWN.read_bytes())
            self._before = {k: Source(tuple(v["imports"]), str(v["tree"])) for k, v in kept.items()}
        self._used: dict[str, Source] = {}

    def source(self, path: Path) -> Source:
        content = path.read_bytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in self._used:
            self._used[key] = self._before.get(key) or _parsed(content)
        return self._used[key]

    def keep(self) -> None:
        """Write down what has become known, where that is possible."""
        if sys.dont_write_bytecode or self._used.keys() <= self._before.keys():
            return
        both = {**self._before, **self._used}
        self._before = both if len(both) <= MOST_KNOWN else dict(self._used)
        text = json.dumps({key: asdict(source) for key, source in self._before.items()})
        with suppress(OSError), whole(KNOWN, durable=False) as part:
            part.write_text(text)


@cache
def _known() -> _Known:
    return _Known()


def source_of(path: Path) -> Source:
    """What a Python file imports of this package, and its code."""
    about = path.stat()
    return _read(path, about.st_mtime_ns, about.st_size)


@cache
def _read(path: Path, mtime_ns: int, size: int) -> Source:
    # many rules run a module, which may be edited while a notebook uses it
    return _known().source(path)


def imports_of(path: Path) -> tuple[str, ...]:
    """The modules of this package that a file imports, including imports within functions."""
    return source_of(path).imports


def _parents(module: str) -> Iterator[str]:
    """The module and the packages that it is in."""
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def import_closure(*modules: str, without: frozenset[str] = frozenset()) -> list[Path]:
    """The files of this package that run when `modules` are imported, including packages.

    Modules and packages in `without`, and what only they import, are left out.
    """
    paths: set[Path] = set()
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if without.intersection(_parents(module)):
            continue
        parent = module.rpartition(".")[0]
        if parent:
            waiting.append(parent)
        path = ROOT / "__init__.py" if module == ROOT.name else _path_of(module)
        if path is not None and path not in paths:
            paths.add(path)
            waiting.extend(imports_of(path))
    return sorted(paths)


def code_hash(*modules: str, script: Path | None = None) -> str:
    """Twelve hex digits that change if, and only if, the code behind `modules` does.

    The code of a `script` and what it imports belong to it. The modules `ASIDE` are left out.
    """
    scripts = [] if script is None else [script]
    imported = [name for path in scripts for name in imports_of(path)]
    return hash_of([*import_closure(*modules, *imported, without=frozenset(ASIDE)), *scripts])


def hash_of(paths: Iterable[Path]) -> str:
    """Twelve hex digits of the names and the code of files of this package, and of scripts."""
    lines = (f"{_name(path)} {source_of(path).tree}\n" for path in paths)
    digest = hashlib.sha256("".join(sorted(lines)).encode())
    _known().keep()
    return digest.hexdigest()[:12]


def _name(path: Path) -> str:
    """The name of a file, wherever the package and the workflow are."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else f"scripts/{path.name}"
