"""Loops as machine code, compiled once and kept: those of `kernels`, and other modules' own.

numba's result for a loop is kept as LLVM code in the user's own cache, under a hash of the sources,
so that a copy of the package on a worker finds it too. It is called without numba, whose import and
first call take longer than any fill. Files that are read are executed, so a folder that others can
write to isn't used.
"""

import ctypes
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# the index of a value so close to an edge that rounding decides
UNSURE = -2
# how many terms a processor adds at once; those of a bin begin at multiples of this
LANES = 4
# the types of results and arguments: integers, doubles, and pointers to them (I, D), to floats (F)
# or to bytes (B)
SIGNATURES = {
    "equal_bins": ("i", "ddidiDiI"),
    "searched_bins": ("", "DiIidiDiI"),
    "add_terms": ("", "uuuIiIiD{terms}uuu"),
    "add_columns": ("", "DiIiIiD{terms}iI"),
}
KINDS: dict[str, type[ctypes.c_int64 | ctypes.c_uint64 | ctypes.c_double | ctypes.c_void_p]] = {
    "i": ctypes.c_int64,
    "u": ctypes.c_uint64,
    "d": ctypes.c_double,
    "B": ctypes.c_void_p,
    "I": ctypes.c_void_p,
    "D": ctypes.c_void_p,
    "F": ctypes.c_void_p,
}


def equal_bins(
    low: float, scale: float, size: int, near: float, under: int, values: Array
) -> tuple[NDArray[np.int64], int]:
    """The bin of each value (doubles), and the number of UNSURE ones within `near` bins of an
    edge."""
    values = np.ascontiguousarray(values)
    out = np.empty(len(values), np.int64)
    arguments = low, scale, size, near, under, address(values), len(values), address(out)
    return out, _loop("equal_bins")(*arguments)


def searched_bins(
    edges: Array, first: Array, scale: float, under: int, values: Array
) -> NDArray[np.int64]:
    """The bin of each value (doubles); `first` is where its search starts, by equal cells."""
    values = np.ascontiguousarray(values)
    out = np.empty(len(values), np.int64)
    _loop("searched_bins")(
        address(edges),
        len(edges) - 1,
        address(first),
        len(first),
        scale,
        under,
        address(values),
        len(values),
        address(out),
    )
    return out


def add_terms(sums: Array, bins: Array, rows: Array | None, weights: Array, terms: Array) -> None:
    """Add each event's weighted terms to its bin; events with bin -1 are left out.

    `sums` and `terms` are contiguous for each bin and event, as in `EFTHist`. `rows` are the rows
    of `terms` for the events, None if they are in order.
    """
    if sums.shape[1] > 1 and sums.strides[1] != sums.itemsize:
        raise ValueError("the sums of a bin should be contiguous")
    length, number = terms.shape
    stride, room = sums.strides[0], -(-number // LANES) * LANES * sums.itemsize
    _loop("add_terms", terms)(
        address(sums),
        stride,
        len(sums) > 1 and stride >= room,
        address(bins),
        len(bins),
        0 if rows is None else address(rows),
        rows is None,
        address(weights),
        address(terms),
        length,
        number,
        number * terms.itemsize,
    )


def add_columns(
    sums: Array, bins: Array, rows: Array | None, weights: Array, terms: Array, columns: Array
) -> None:
    """`add_terms` if terms have other indices in the sums, or none (-1)."""
    _loop("add_columns", terms)(
        address(sums),
        sums.strides[0] // sums.itemsize,
        address(bins),
        len(bins),
        0 if rows is None else address(rows),
        rows is None,
        address(weights),
        address(terms),
        terms.shape[1],
        address(columns),
    )


def address(array: Array) -> int:
    """The address of an array's first element."""
    return int(array.__array_interface__["data"][0])


class Loops:
    """The loops of a module of the package, by their `signatures`.

    `source` is the file of the module, and `compiled` gives the LLVM code of a loop, from its name
    and the letters of its result and arguments.
    """

    def __init__(
        self,
        source: Path,
        signatures: Mapping[str, tuple[str, str]],
        compiled: Callable[[str, str, str], str],
    ) -> None:
        self._source, self._signatures, self._compiled = source, signatures, compiled
        self._linked: dict[tuple[str, int], Callable[..., Any]] = {}

    def __call__(self, name: str, itemsize: int = 8) -> Callable[..., Any]:
        """A loop for `terms` of so many bytes, called with addresses; it releases the GIL."""
        if (name, itemsize) not in self._linked:
            self._linked[name, itemsize] = self._link(name, "F" if itemsize == 4 else "D")
        return self._linked[name, itemsize]

    def _link(self, name: str, terms: str) -> Callable[..., Any]:
        returned, arguments = (letters.format(terms=terms) for letters in self._signatures[name])
        place = self._place(f"{name}-{terms}")
        text = _kept(place)
        if text is None:
            text = self._compiled(name, returned, arguments)
            _keep(place, text)
        result = KINDS[returned] if returned else None
        kinds = [KINDS[letter] for letter in arguments]
        return ctypes.CFUNCTYPE(result, *kinds)(_in_memory(text))

    def _place(self, name: str) -> Path | None:
        path = folder()
        return None if path is None else path / f"{name}-{_state(self._source)}.ll"


def _compiled(name: str, returned: str, arguments: str) -> str:
    from looseleaf.efthist import kernels  # noqa: PLC0415 - numba is needed for this alone

    return kernels.compiled(name, returned, arguments)


LOOPS = Loops(Path(__file__).with_name("kernels.py"), SIGNATURES, _compiled)


def _loop(name: str, terms: Array | None = None) -> Callable[..., Any]:
    return LOOPS(name, 8 if terms is None else terms.itemsize)


# keeps the machine code alive
_engines: list[llvm.ExecutionEngine] = []


def _in_memory(text: str) -> int:
    """The address of the C function in a module."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    (name,) = [
        function.name
        for function in module.functions
        if not function.is_declaration and function.name.startswith("cfunc.")
    ]
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
        codemodel="jitdefault",
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


@cache
def folder() -> Path | None:
    """The folder of compiled loops, below NUMBA_CACHE_DIR, XDG_CACHE_HOME or ~/.cache.

    None if no such folder belongs to the user and is closed to others' writing.
    """
    try:
        given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
        path = Path(given) if given else Path.home() / ".cache"
        path = path / "looseleaf" / "efthist"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.lstat()
    except (OSError, RuntimeError):
        return None
    closed = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o022
    return path if closed and about.st_uid == os.geteuid() else None


@cache
def _state(source: Path) -> str:
    """A hash of all that affects machine code: the sources, numba, and the processor."""
    sources = [path.read_bytes() for path in (source, Path(__file__))]
    target = f"{version('numba')} {version('llvmlite')} {llvm.get_host_cpu_name()}"
    return hashlib.sha256(b"\0".join([*sources, target.encode()])).hexdigest()[:16]


def _kept(place: Path | None) -> str | None:
    """The code in a file, which begins with its checksum; None if the file was changed."""
    if place is None:
        return None
    try:
        digest, _, text = place.read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if digest == _digest(text) else None


def _keep(place: Path | None, text: str) -> None:
    """Write a file completely or not at all; a full disk doesn't stop a fill."""
    if place is None:
        return
    with suppress(OSError), NamedTemporaryFile("w", dir=place.parent, delete=False) as part:
        try:
            part.write(f"{_digest(text)}\n{text}")
            part.flush()
            os.replace(part.name, place)
        except OSError:
            os.unlink(part.name)


def _digest(text: str) -> str:
    return f"; {hashlib.sha256(text.encode()).hexdigest()}"
