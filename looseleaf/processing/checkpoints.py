"""Results of finished tasks on disk, with which a killed job continues.

The name of a result is a hash of what it was made from: the identity and entries of its files, the
code and parameters of the processor, and the versions of packages. If one of them changes, so does
the name, so that a stale result is never used. A result without the user's seal is not used either:
unpickling executes what a file says.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import lz4.frame
from coffea.processor import ProcessorABC

from looseleaf.codehash import code_hash
from looseleaf.errors import DataFileError, LooseleafError
from looseleaf.files import digest, owner, whole
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
    """The name of a task's result. It doesn't depend on the location of a file."""
    entries = [[c.file.name, c.file.uuid, c.file.bytes, c.start, c.stop] for c in task]
    # entries are summed in pieces of chunksize, so the result depends on it in the last bits
    pieces = min(chunksize, max(c.events for c in task))
    return digest([identity, dict(metadata), entries, pieces])


def packed(value: Any) -> bytes:
    """A result as bytes, with a checksum."""
    # LZ4, since zlib would take longer than filling histograms of many terms
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    result: bytes = lz4.frame.compress(content, content_checksum=True)
    return result


def is_whole(content: bytes) -> bool:
    """Whether packed bytes match their checksum."""
    try:
        lz4.frame.decompress(content)
    except RuntimeError:
        return False
    return True


def unpacked(content: bytes) -> Any:
    """The result in packed bytes."""
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
        # some file systems keep no modes; what others put there has no seal
        with suppress(PermissionError):
            self._folder.chmod(0o700)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{ENDING}"

    def whole(self) -> set[str]:
        """The keys of all complete results with the user's seal. A crash of the machine can leave
        incomplete ones, and another user can put files there."""
        keys = (path.name.removesuffix(ENDING) for path in self._folder.glob(f"*{ENDING}"))
        return {key for key in keys if opened(key, self._path(key).read_bytes()) is not None}

    def read(self, key: str) -> bytes:
        """A packed result. Raises `DataFileError` if it isn't what this user kept."""
        content = opened(key, self._path(key).read_bytes())
        if content is None:
            raise DataFileError(f"{self._path(key)}: was changed while this job ran; run again")
        return content

    def keep(self, key: str, content: bytes) -> None:
        """Write the packed result of a key."""
        # the checksum detects a crash, so that writing thousands of results needn't wait for the
        # disk, as writing outputs does
        with whole(self._path(key), durable=False) as part:
            part.write_bytes(sealed(key, content))

    def prune(self, keys: Set[str]) -> None:
        """Remove all results except these, and partial files of a killed job."""
        for path in self._folder.glob(f"*{ENDING}"):
            if path.name.removesuffix(ENDING) not in keys:
                path.unlink(missing_ok=True)
