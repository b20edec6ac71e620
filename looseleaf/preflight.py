"""Checks of the machine, before anything runs: what would stop the workflow or change results."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from looseleaf.errors import LooseleafError

# modules that every run needs, or on which numbers depend
MODULES = (
    "awkward",
    "boost_histogram",
    "coffea",
    "correctionlib",
    "dask",
    "distributed",
    "fastapi",
    "h5py",
    "hist",
    "jsonschema",
    "numba",
    "numpy",
    "pyarrow",
    "scipy",
    "servicex",
    "snakemake",
    "uproot",
)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Turn a failed import of an optional package into a sentence that says what to install."""
    try:
        yield
    except ModuleNotFoundError as problem:
        name = problem.name
        if not name or name.startswith("looseleaf"):
            raise
        raise LooseleafError(_install([name], extra)) from None


def _install(modules: list[str], extra: str) -> str:
    names = ", ".join(modules)
    return f"not installed for this Python: {names}; type pip install 'looseleaf[{extra}]'"


def check_machine() -> list[str]:
    """Remarks on the Python that runs the workflow, a sentence for each.

    Raises `LooseleafError` if it lacks packages, or if its path stops Snakemake from running it.
    """
    if absent := [module for module in MODULES if find_spec(module) is None]:
        raise LooseleafError(_install(absent, "workflow"))
    if shlex.quote(sys.executable) != sys.executable:
        raise LooseleafError(
            f"Snakemake runs {sys.executable!r} unquoted, and its path has a space or another "
            "character that shells read: move the environment (a checkout with its .venv) to a "
            "path without"
        )
    return [
        f"PYTHONPATH puts {', '.join(modules)} of {folder} before those of this environment, so "
        "versions and numbers may be others than tested: unset PYTHONPATH (views of LCG set it)"
        for folder, modules in foreign(os.environ.get("PYTHONPATH", "")).items()
    ]


def foreign(python_path: str) -> dict[Path, list[str]]:
    """The modules that PYTHONPATH provides from outside of the environment, by folder."""
    folders = {Path(part).resolve() for part in python_path.split(os.pathsep) if part}
    outside = {f for f in folders if not f.is_relative_to(Path(sys.prefix).resolve())}
    modules: dict[Path, list[str]] = {}
    for module in MODULES:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            continue
        # .../numpy/__init__.py
        folder = Path(spec.origin).resolve().parent.parent
        if folder in outside:
            modules.setdefault(folder, []).append(module)
    return modules
