"""A content hash of what a module imports from this package.

Snakemake watches `script:` files but not what they import. Each rule carries this hash as a
param, so that an edit of a module reruns exactly the stages that import it.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


def _path_of(module: str) -> Path | None:
    relative = Path(*module.split(".")[1:])
    for path in (ROOT / relative.with_suffix(".py"), ROOT / relative / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(path: Path) -> frozenset[str]:
    """The modules of this package that the file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if name.split(".")[0] == ROOT.name)


def import_closure(*modules: str) -> list[Path]:
    """The files of this package that run when `modules` are imported, packages included."""
    paths: set[Path] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        parent = module.rpartition(".")[0]
        if parent:
            waiting.append(parent)
        path = ROOT / "__init__.py" if module == ROOT.name else _path_of(module)
        if path is not None and path not in paths:
            paths.add(path)
            waiting.extend(_imports(path))
    return sorted(paths)


def code_hash(*modules: str) -> str:
    """Twelve hex digits that change when, and only when, the code behind `modules` does."""
    summary = hashlib.sha256()
    for path in import_closure(*modules):
        summary.update(str(path.relative_to(ROOT)).encode() + b"\0")
        summary.update(path.read_bytes() + b"\0")
    return summary.hexdigest()[:12]
