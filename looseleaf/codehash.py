"""A hash of the code that a job runs.

Snakemake watches `script:` files but not their imports. Each rule has this hash among its params,
so that an edit of a module reruns exactly the stages that import it.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent
# modules that jobs run but no result depends on, with what only they import
ASIDE = {
    "looseleaf.cluster": "where processors run",
    "looseleaf.doorway": "how scripts tell errors and times",
    "looseleaf.progress": "how far a job is, for who looks on",
    "looseleaf.workerprocess": "how worker processes are started",
}


def _path_of(module: str) -> Path | None:
    relative = Path(*module.split(".")[1:])
    for path in (ROOT / relative.with_suffix(".py"), ROOT / relative / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The modules of this package that a file imports, including imports within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in names if name.split(".")[0] == ROOT.name)


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


def code_hash(*modules: str) -> str:
    """Twelve hex digits that change if, and only if, the code behind `modules` does.

    The modules `ASIDE` are left out.
    """
    return hash_of(import_closure(*modules, without=frozenset(ASIDE)))


def hash_of(paths: Iterable[Path]) -> str:
    """Twelve hex digits of the names and contents of files of this package."""
    summary = hashlib.sha256()
    for path in sorted(paths):
        summary.update(str(path.relative_to(ROOT)).encode() + b"\0")
        summary.update(path.read_bytes() + b"\0")
    return summary.hexdigest()[:12]
