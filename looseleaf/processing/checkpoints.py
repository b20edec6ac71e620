"""Results of finished tasks, kept on disk so that a job that was killed goes on where it was.

A result is found by what it was made from: the identity and entries of its files, the code and
the parameters of the processor, the versions of the packages. What changes one of them changes
the name under which the result is looked for, so that nothing stale is ever taken.
"""

import hashlib
import pickle
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import cloudpickle
import lz4.frame
from coffea.processor import ProcessorABC

from looseleaf.codehash import code_hash
from looseleaf.files import digest
from looseleaf.processing.fileset import Chunk
from looseleaf.shipping import PACKAGE, versions

ENDING = ".result"


def processor_identity(processor: ProcessorABC) -> str:
    """A hash of a processor's code, of its parameters and of the packages that it runs with."""
    module = type(processor).__module__
    code = [code_hash("looseleaf.processing.runner")]
    if module.partition(".")[0] == PACKAGE:
        code.append(code_hash(module))
    elif source := getattr(sys.modules.get(module), "__file__", None):
        code.append(hashlib.sha256(Path(source).read_bytes()).hexdigest())
    parameters = hashlib.sha256(cloudpickle.dumps(processor)).hexdigest()
    return digest([code, parameters, versions()])


def key_of(
    identity: str, metadata: Mapping[str, Any], task: Sequence[Chunk], chunksize: int
) -> str:
    """The name of a task's result. Where a file stands is no part of it."""
    entries = [[c.file.name, c.file.uuid, c.file.bytes, c.start, c.stop] for c in task]
    # entries are summed up in pieces of chunksize, in an order that the result should tell
    pieces = min(chunksize, max(c.events for c in task))
    return digest([identity, dict(metadata), entries, pieces])


def packed(value: Any) -> bytes:
    """A result as bytes that carry a checksum."""
    # LZ4: histograms of many terms are large, and zlib would take longer than filling them
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    result: bytes = lz4.frame.compress(content, content_checksum=True)
    return result


def is_whole(content: bytes) -> bool:
    try:
        lz4.frame.decompress(content)
    except RuntimeError:
        return False
    return True


def unpacked(content: bytes) -> Any:
    return pickle.loads(lz4.frame.decompress(content))


class Checkpoints:
    """A folder of packed results by key. One job at a time writes to it."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{ENDING}"

    def whole(self) -> set[str]:
        """The keys of all results that are whole; one that a crash of the machine left is not."""
        return {
            path.name.removesuffix(ENDING)
            for path in self._folder.glob(f"*{ENDING}")
            if is_whole(path.read_bytes())
        }

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def keep(self, key: str, content: bytes) -> None:
        # its checksum tells of a crash, so a result needn't wait for the disk; thousands of them
        # are written, without the care that outputs take
        part = self._folder / f".part-{key}{ENDING}"
        part.write_bytes(content)
        part.replace(self._path(key))

    def prune(self, keys: Set[str]) -> None:
        """Remove what is under none of these keys, parts that a killed job left included."""
        for path in self._folder.glob(f"*{ENDING}"):
            if path.name.removesuffix(ENDING) not in keys:
                path.unlink(missing_ok=True)
