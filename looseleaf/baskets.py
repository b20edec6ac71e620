"""The columns of a TTree, read straight from its baskets.

uproot makes objects of all of a tree's metadata: a quarter of a millisecond for each branch, of
which NanoAOD has 1,500. And it reads a collection's counter again for each of its branches. Here
the streamed metadata is walked over once, and only what is asked for is looked at.

Known are branches with a number for each event, or with as many as another branch counts, as ROOT
has written them since 2018 (TTree 20, TBranch 13) and as uproot writes them. Anything else is left
to uproot: a tree of another version, a branch of objects or with a basket inside of the metadata.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple, Self

import cramjam
import numpy as np
import uproot
import xxhash
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.files import ZLIB

# ROOT's streamed format: https://root.cern/doc/master/md_io_doc_TFile.html
BYTE_COUNT, NEW_CLASS, CLASS_REFERENCE, MAP_OFFSET = 0x40000000, 0xFFFFFFFF, 0x80000000, 2
IS_REFERENCED = 1 << 4
TREE_VERSION, BRANCH_VERSION = 20, 13
TREE_NUMBERS = Struct(">qqqqqdiiiiIqqqqqq")
BRANCH_BEGIN, BRANCH_NUMBERS = Struct(">iiiiq"), Struct(">iIiqqqq")
LEAF_NUMBERS = Struct(">iii??")
VERSION, OBJECT = Struct(">IH"), Struct(">HII")
KEY = Struct(">ihiIhh")
BASKET = Struct(">HIIII")
TYPES = {
    "TLeafB": ("i1", "u1"),
    "TLeafS": (">i2", ">u2"),
    "TLeafI": (">i4", ">u4"),
    "TLeafL": (">i8", ">u8"),
    "TLeafF": (">f4", ">f4"),
    "TLeafD": (">f8", ">f8"),
    "TLeafO": ("?", "?"),
}
COUNTED = re.compile(r"\w+\[([A-Za-z_]\w*)\]")


class _Unknown(Exception):
    """What isn't known here, and left to uproot."""


class _Cursor:
    """A place in streamed bytes, which begin at `origin` in what references count from."""

    def __init__(self, data: memoryview, position: int, origin: int) -> None:
        self.data, self.position, self._origin = data, position, origin
        self._classes: dict[int, str] = {}

    def numbers(self, form: Struct) -> tuple[Any, ...]:
        values = form.unpack_from(self.data, self.position)
        self.position += form.size
        return values

    def unsigned(self, size: int) -> int:
        self.position += size
        return int.from_bytes(self.data[self.position - size : self.position], "big")

    def text(self) -> str:
        size = self.data[self.position]
        self.position += 1
        size = self.unsigned(4) if size == 255 else size
        self.position += size
        return str(self.data[self.position - size : self.position], "utf-8", "surrogateescape")

    def version(self) -> tuple[int, int]:
        """Where an object ends, and the version of its class."""
        size, version = self.numbers(VERSION)
        if not size & BYTE_COUNT:
            raise _Unknown
        return self.position - 2 + (size & ~BYTE_COUNT), version

    def skip(self) -> None:
        """Go behind an object."""
        self.position, _ = self.version()

    def named(self) -> tuple[str, str]:
        """The name and the title of a TNamed."""
        end, _ = self.version()
        self._object()
        name_and_title = self.text(), self.text()
        self.position = end
        return name_and_title

    def name(self) -> str:
        """The name of a TNamed, behind which the cursor then is, before the title."""
        self.position += VERSION.size
        self._object()
        return self.text()

    def _object(self) -> None:
        _, _, bits = self.numbers(OBJECT)
        if bits & IS_REFERENCED:
            self.position += 2

    def elements(self) -> Iterator[str | None]:
        """The classes of a TObjArray's elements, None for one that isn't there.

        The cursor is then at the element, and goes behind it, wherever it was left.
        """
        end, _ = self.version()
        self._object()
        self.text()
        number, _ = self.unsigned(4), self.unsigned(4)
        for _ in range(number):
            size = self.unsigned(4)
            if size & BYTE_COUNT:
                after = self.position + (size & ~BYTE_COUNT)
                yield self._class()
                self.position = after
            else:
                yield None if size == 0 else ""
        self.position = end

    def _class(self) -> str:
        tag = self.unsigned(4)
        if tag == NEW_CLASS:
            return self._name()
        if not tag & CLASS_REFERENCE:
            raise _Unknown
        if tag not in self._classes:
            place = (tag & ~CLASS_REFERENCE) - MAP_OFFSET - self._origin
            first = _Cursor(self.data, place, self._origin)
            if not 0 <= place < len(self.data) or first.unsigned(4) != NEW_CLASS:
                raise _Unknown
            self._classes[tag] = first._name()
        return self._classes[tag]

    def _name(self) -> str:
        begin = self.position
        while self.data[self.position]:
            self.position += 1
        self.position += 1
        return str(self.data[begin : self.position - 1], "ascii")


@dataclass(frozen=True)
class Branch:
    """A branch of numbers: its type as stored, its counter if it has one, and its baskets.

    `first` are the entries with which baskets begin, and the end of the last; `seeks` and `sizes`
    are where they are in the file, in bytes.
    """

    name: str
    title: str
    dtype: np.dtype[Any]
    counter: str | None
    first: NDArray[np.int64]
    seeks: NDArray[np.int64]
    sizes: NDArray[np.int64]


class Walked:
    """The metadata of a tree, of which a branch is looked at when it is asked for."""

    def __init__(self, data: bytes, origin: int) -> None:
        self._data, self._origin = memoryview(data), origin
        cursor = self._at(0)
        _, version = cursor.version()
        if version != TREE_VERSION:
            raise _Unknown
        for _ in range(4):
            cursor.skip()
        numbers = cursor.numbers(TREE_NUMBERS)
        self.entries: int = numbers[0]
        for _ in range(2):
            cursor.position += 1 + 8 * numbers[10]
        cursor.skip()
        self._places: dict[str, int] = {}
        self.others: set[str] = set()
        for kind in cursor.elements():
            place = cursor.position
            _, version = cursor.version()
            name = cursor.name()
            if kind == "TBranch" and version == BRANCH_VERSION and name not in self._places:
                self._places[name] = place
            else:
                self.others.add(name)
        self._known: dict[str, Branch | None] = {}

    @property
    def names(self) -> list[str]:
        """The branches, known ones or not."""
        return [*self._places, *(name for name in self.others if name not in self._places)]

    def branch(self, name: str) -> Branch | None:
        """A branch, or None if it isn't one of numbers."""
        if name not in self._known:
            known = None
            if name in self._places and name not in self.others:
                with suppress(_Unknown):
                    known = self._branch(name)
            self._known[name] = known
        return self._known[name]

    def _at(self, place: int) -> _Cursor:
        return _Cursor(self._data, place, self._origin)

    def _branch(self, name: str) -> Branch:
        cursor = self._at(self._places[name])
        cursor.version()
        _, title = cursor.named()
        cursor.skip()
        _, _, _, number, stored = cursor.numbers(BRANCH_BEGIN)
        cursor.skip()
        # with features, lists have no offsets
        if self._data[cursor.position - 1]:
            raise _Unknown
        _, most, _, entries, first_entry, _, _ = cursor.numbers(BRANCH_NUMBERS)
        if any(True for _ in cursor.elements()) or first_entry or not number <= most:
            raise _Unknown
        leaves = [self._leaf(kind, cursor) for kind in cursor.elements()]
        if any(kind is not None for kind in cursor.elements()):
            raise _Unknown
        if len(leaves) != 1 or not entries == stored == self.entries:
            raise _Unknown
        dtype, counter = leaves[0]
        sizes, first, seeks = (
            self._array(cursor, most, number, width) for width in (">i4", ">i8", ">i8")
        )
        first = np.append(first, entries)
        if cursor.text() or not (seeks > 0).all() or (np.diff(first) <= 0).any() or first[0]:
            raise _Unknown
        return Branch(name, title, dtype, counter, first, seeks, sizes)

    def _array(self, cursor: _Cursor, most: int, number: int, kind: str) -> NDArray[np.int64]:
        # the byte before it says whether there is one
        if cursor.unsigned(1) != 1:
            raise _Unknown
        values = np.frombuffer(self._data, kind, number, cursor.position).astype(np.int64)
        cursor.position += most * np.dtype(kind).itemsize
        return values

    @staticmethod
    def _leaf(kind: str | None, cursor: _Cursor) -> tuple[np.dtype[Any], str | None]:
        """The type of a leaf's numbers, and the name of its counter."""
        if kind not in TYPES:
            raise _Unknown
        cursor.version()
        cursor.version()
        name, title = cursor.named()
        length, _, offset, _, unsigned = cursor.numbers(LEAF_NUMBERS)
        counted = COUNTED.fullmatch(title)
        if length != 1 or offset or not (counted or title == name):
            raise _Unknown
        return np.dtype(TYPES[kind][unsigned]), counted[1] if counted else None


def walked(directory: uproot.ReadOnlyDirectory, name: str) -> Walked | None:
    """The metadata of a tree; None if it is of a form that isn't known here."""
    key = directory.key(name)
    if key.fClassName != "TTree":
        return None
    try:
        chunk, cursor = key.get_uncompressed_chunk_cursor()
        data = bytes(chunk.raw_data[cursor.index :])
        return Walked(data, -cursor.origin)
    except (_Unknown, IndexError, ValueError, ArithmeticError):
        return None
    except Exception as problem:
        # struct.error is no ValueError
        if type(problem).__module__ == "struct":
            return None
        raise


# baskets


@dataclass(frozen=True)
class _Packed:
    """A basket as it is stored: `data` behind its key of so many bytes, numbers up to `border`, and
    `size` bytes in all when unpacked."""

    branch: Branch
    number: int
    entries: int
    data: memoryview
    key: int
    border: int
    size: int


class _Basket(NamedTuple):
    """The numbers of a basket and, for lists, the table of where each entry begins behind its key,
    in bytes."""

    content: NDArray[Any]
    table: NDArray[np.int32] | None
    key: int

    def piece(self, begin: int, end: int) -> NDArray[Any]:
        """The numbers of some of its entries."""
        return self.content[self._place(begin) : self._place(end)]

    def own(self) -> Self:
        """The same in memory of its own."""
        content = self.content.astype(self.content.dtype.newbyteorder("="))
        return self._replace(
            content=content, table=None if self.table is None else self.table.copy()
        )

    def _place(self, entry: int) -> int:
        if self.table is None:
            return entry
        if entry == len(self.table):
            return len(self.content)
        return (int(self.table[entry]) - self.key) // self.content.itemsize


class Baskets:
    """Reads the columns of one file.

    `read` gives the bytes at places, (position, size), each valid until it gives the next.

    Of each column, a basket that reaches beyond the entries that were asked for is kept until
    `forget`, since the next chunk begins in it.
    """

    def __init__(
        self, url: str, read: Callable[[Sequence[tuple[int, int]]], Iterator[memoryview]]
    ) -> None:
        self._url, self._read = url, read
        self._kept: dict[str, tuple[int, _Basket]] = {}
        self._buffer = bytearray()

    def forget(self) -> None:
        """Keep no basket, and no room for one."""
        self._kept.clear()
        self._buffer = bytearray()

    def content(
        self, branch: Branch, start: int, stop: int, expected: int | None = None
    ) -> NDArray[Any]:
        """The numbers of the entries [start, stop), in a flat array.

        `expected` is how many there should be, if that is known. Raises `DataFileError` if a basket
        is damaged.
        """
        first = branch.first
        low = int(np.searchsorted(first, start, side="right")) - 1
        high = int(np.searchsorted(first, stop, side="left")) if stop > start else low
        kept = dict([self._kept.pop(branch.name)]) if branch.name in self._kept else {}
        needed = [number for number in range(low, high) if number not in kept]
        packed = self._read(
            [(int(branch.seeks[number]), int(branch.sizes[number])) for number in needed]
        )
        room = stop - start if expected is None else expected
        out, filled = np.empty(room, branch.dtype.newbyteorder("=")), 0
        for number in range(low, high):
            begin, end = int(first[number]), int(first[number + 1])
            if start <= begin and end <= stop and number not in kept:
                # whole baskets are unpacked where they belong
                part, _ = self._values(self._packed(branch, number, next(packed)))
            else:
                basket = kept.get(number)
                if basket is None:
                    basket = self._basket(self._packed(branch, number, next(packed)))
                    if stop < end:
                        basket = basket.own()
                if stop < end:
                    self._kept[branch.name] = number, basket
                part = basket.piece(max(start, begin) - begin, min(stop, end) - begin)
            if filled + len(part) > len(out):
                out = np.concatenate([out, np.empty(filled + len(part), out.dtype)])
            out[filled : filled + len(part)] = part
            filled += len(part)
        return out[:filled]

    def _packed(self, branch: Branch, number: int, raw: memoryview) -> "_Packed":
        packed, _, unpacked, _, key, _ = KEY.unpack_from(raw)
        _, _, _, entries, last = BASKET.unpack_from(raw, key - BASKET.size - 1)
        border, size = last - key, branch.dtype.itemsize
        if not (
            packed == len(raw)
            and entries == branch.first[number + 1] - branch.first[number]
            and 0 <= border <= unpacked
            and border % size == 0
            and (branch.counter is not None or border == entries * size)
        ):
            raise self._damaged(branch.name, number)
        return _Packed(branch, number, entries, raw[key:], key, border, unpacked)

    def _values(self, packed: "_Packed") -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """The numbers as they are stored, and the bytes behind them; both are valid until the next
        basket is unpacked."""
        data = self._unpacked(packed.data, packed.size, packed.branch.name, packed.number)
        return data[: packed.border].view(packed.branch.dtype), data[packed.border :]

    def _basket(self, packed: "_Packed") -> "_Basket":
        """A basket of which only some entries are asked for, valid until the next is unpacked."""
        content, behind = self._values(packed)
        if packed.branch.counter is None:
            return _Basket(content, None, 0)
        # the first is the length of the table
        table = behind[: 4 * (packed.entries + 1)].view(">i4")
        if len(table) != packed.entries + 1:
            raise self._damaged(packed.branch.name, packed.number)
        return _Basket(content, table[1:], packed.key)

    def _unpacked(self, data: memoryview, size: int, name: str, number: int) -> NDArray[np.uint8]:
        """The content of a basket, valid until the next one is unpacked."""
        if len(data) == size:
            return np.frombuffer(data, np.uint8)
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        buffer, filled = memoryview(self._buffer), 0
        while filled < size:
            packed, more = (int.from_bytes(data[at : at + 3], "little") for at in (3, 6))
            into = buffer[filled : filled + more]
            block = data[9 : 9 + packed]
            if len(block) != packed or len(into) != more or not more:
                raise self._damaged(name, number)
            if not _unpack(bytes(data[:2]), block, into):
                raise self._damaged(name, number)
            data, filled = data[9 + packed :], filled + more
        return np.frombuffer(self._buffer, np.uint8, size)

    def _damaged(self, name: str, number: int) -> DataFileError:
        return DataFileError(f"{self._url}: basket {number} of {name} is damaged")


def _unpack(method: bytes, block: memoryview, into: memoryview) -> bool:
    """Unpack a compressed block; whether that gave what its header promises."""
    try:
        match method:
            case b"ZS":
                done = cramjam.zstd.decompress_into(block, into)
            case b"L4":
                if xxhash.xxh64_intdigest(block[8:]) != int.from_bytes(block[:8], "big"):
                    return False
                done = cramjam.lz4.decompress_block_into(block[8:], into)
            case b"XZ":
                done = cramjam.xz.decompress_into(block, into)
            case b"ZL":
                content = ZLIB.decompress(block, bufsize=len(into))
                done = len(content)
                into[:done] = content
            case _:
                return False
    except (ZLIB.error, cramjam.DecompressionError, ValueError):
        return False
    return bool(done == len(into))
