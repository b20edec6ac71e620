"""Writing files completely or not at all, and reading text, JSON and checksums."""

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from looseleaf.errors import DataFileError

try:
    from zlib_ng import zlib_ng as zlib
except ImportError:
    # Python's own gives the same in three times the time, to histograms that are installed alone
    # and to workers that have no more packages than coffea needs
    import zlib  # type: ignore[no-redef]
ZLIB: Any = zlib

# control characters except tabs and line ends, and lone surrogates, which can't be written
ODD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@contextmanager
def whole(path: str | Path, durable: bool = True, mode: int = 0o666) -> Iterator[Path]:
    """Give a temporary path next to `path`; rename it to `path` if the block succeeds.

    The temporary name has the same suffix as the final one, for writers that choose a format by it
    (matplotlib, uproot). After an exception, there is no temporary file, and `path` is as it was.
    Without `durable`, a crash of the machine may leave a file with wrong content. `mode` is the
    file's, less the umask.

    An OSError names `path`, as far as it names no other file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{secrets.token_hex(6)}{path.suffix}")
    try:
        # with its mode from the beginning: some file systems refuse to change it
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield part
        if durable:
            _to_disk(part)
        os.replace(part, path)
    except BaseException as problem:
        # a disk that has become read-only keeps it; the reason is the first problem
        with suppress(OSError):
            part.unlink()
        # a library's write to a full disk doesn't name the file
        if isinstance(problem, OSError) and problem.filename in (None, str(part)):
            problem.filename = str(path)
        raise


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, completely or not at all."""
    with whole(path, mode=0o600) as part:
        part.write_text(text)


def _to_disk(path: Path) -> None:
    with open(path, "rb") as written:
        try:
            os.fsync(written.fileno())
        except OSError as problem:
            # some file systems in user space can't be asked for it
            if problem.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def read_text(path: str | Path) -> str:
    """The text of a user's file: UTF-8, with or without a byte order mark.

    Raises `DataFileError` naming the file, the line and what to do, if it can't be read or isn't
    UTF-8.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataFileError(f"{path}: is a folder; name a file in it") from None
    except OSError as problem:
        raise DataFileError(f"{path}: can't be read: {problem.strerror}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        raise DataFileError(f"{path}: is UTF-16 or binary; save it as UTF-8 text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise DataFileError(
            f"{path}, line {line}: the byte {raw[problem.start]:#04x} isn't UTF-8 (is the file "
            "Latin-1?); save it as UTF-8 text"
        ) from None
    if odd := ODD_CHARACTER.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise DataFileError(f"{path}, line {line}: has the control character {odd[0]!r}; remove it")
    return text


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write `value` as JSON, completely or not at all; NaN and infinity are refused."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    with whole(path) as part:
        part.write_text(text)


def read_json(path: str | Path) -> Any:
    """Read JSON; `DataFileError` naming the file if it is missing or isn't JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataFileError(f"{path}: is a folder") from None
    except OSError as problem:
        raise DataFileError(f"{path}: can't be read ({problem.strerror})") from None
    except (ValueError, RecursionError) as problem:
        raise DataFileError(f"{path}: not valid JSON ({problem})") from None


def adler32(path: str | Path) -> str:
    """The adler32 checksum of a file, as in DAS and Rucio: eight hex digits."""
    # one buffer, filled again and again: a smaller one costs calls, a larger one no less
    buffer = memoryview(bytearray(1 << 21))
    with open(path, "rb", buffering=0) as stream:
        sizes = iter(lambda: stream.readinto(buffer), 0)
        return adler32_of(buffer[:size] for size in sizes)


def adler32_of(blocks: Iterable[bytes | memoryview]) -> str:
    """The adler32 checksum of a file that comes in blocks."""
    value = 1
    for block in blocks:
        value = ZLIB.adler32(block, value)
    return f"{value:08x}"


def canonical(value: Any) -> str:
    """One string for one value, whatever the order of its keys: for hashes and rule params."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """A sha256 in hex of a JSON value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def owner(path: Path) -> str:
    """The user whom a file belongs to: the name, or the number where it has none."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def remove_other_pictures(folder: Path, kept: Iterable[str | Path]) -> None:
    """Remove pictures of a folder that were drawn once and aren't any more: pairs of a PNG and a
    PDF file of one name, neither of which is `kept`."""
    names = {Path(path).stem for path in kept}
    for png in folder.glob("*.png"):
        pdf = png.with_suffix(".pdf")
        if png.stem not in names and pdf.is_file():
            png.unlink()
            pdf.unlink()
