"""Results of finished tasks, kept on disk so that a job that was killed goes on where it was.

A result is found by what it was made from: the identity and entries of its files, the code and
the parameters of the processor, the versions of the packages. What changes one of them changes
the name under which the result is looked for, so that nothing stale is ever taken. A result that
the user hasn't sealed is not taken either: unpickling would execute what it says.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import cloudpickle
import lz4.frame
from coffea.processor import ProcessorABC

from looseleaf.codehash import code_hash
from looseleaf.errors import DataFileError, LooseleafError
from looseleaf.files import digest, owner
from looseleaf.processing.fileset import Chunk
from looseleaf.processing.seal import opened, sealed
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
    """A folder of packed results by key. One job at a time writes to it.

    The folder is the user's own, and nobody else may write to it. Raises `LooseleafError` if it
    belongs to another user.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_uid != os.geteuid():
            raise LooseleafError(
                f"{self._folder}: belongs to the user {owner(self._folder)}, whose run left it; "
                "use a results folder of your own (`results:` in the configuration), or have it "
                "deleted"
            )
        self._folder.chmod(0o700)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{ENDING}"

    def whole(self) -> set[str]:
        """The keys of all results that are whole and the user's own; one that a crash of the
        machine left, or that somebody else has put there, is not."""
        keys = (path.name.removesuffix(ENDING) for path in self._folder.glob(f"*{ENDING}"))
        return {key for key in keys if opened(key, self._path(key).read_bytes()) is not None}

    def read(self, key: str) -> bytes:
        """A packed result. Raises `DataFileError` if it isn't what this user kept."""
        content = opened(key, self._path(key).read_bytes())
        if content is None:
            raise DataFileError(f"{self._path(key)}: was changed while this job ran; run again")
        return content

    def keep(self, key: str, content: bytes) -> None:
        # its checksum tells of a crash, so a result needn't wait for the disk; thousands of them
        # are written, without the care that outputs take
        part = self._folder / f".part-{key}{ENDING}"
        part.write_bytes(sealed(key, content))
        part.replace(self._path(key))

    def prune(self, keys: Set[str]) -> None:
        """Remove what is under none of these keys, parts that a killed job left included."""
        for path in self._folder.glob(f"*{ENDING}"):
            if path.name.removesuffix(ENDING) not in keys:
                path.unlink(missing_ok=True)
