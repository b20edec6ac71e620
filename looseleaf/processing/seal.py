"""Seals: codes on files that only their owner can make.

What a job keeps for the next one is unpickled, which executes what a file says. Folders of results
are often open to a group, so that whoever may write there could plant a file. Each file therefore
begins with an HMAC of its name and content, by a key that only the user can read.
"""

import hmac
import os
import secrets
import stat
import sys
from functools import cache
from pathlib import Path

from looseleaf.errors import LooseleafError
from looseleaf.files import whole

HASH, SIZE = "sha256", 32


def key_file() -> Path:
    """Where the key stands: below XDG_STATE_HOME, or ~/.local/state."""
    given = os.environ.get("XDG_STATE_HOME")
    return (Path(given) if given else Path.home() / ".local/state") / "looseleaf" / "seal.key"


@cache
def _key(path: Path) -> bytes:
    """The user's key, made when it is first asked for.

    Where there is no room for it, a key of this process alone: what it seals, the next one makes
    anew, as a line on the terminal says. Raises `LooseleafError` if others may read or write it, or
    it has a wrong length.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # of two processes that begin together, the second one's holds
            with whole(path, mode=0o600) as new:
                new.write_bytes(secrets.token_bytes(SIZE))
        about, key = path.stat(), path.read_bytes()
    except OSError as problem:
        print(
            f"warning: {path}: {problem.strerror}: the key of checkpoints can't be kept there, so "
            "that a run that is interrupted begins anew (XDG_STATE_HOME names another place)",
            file=sys.stderr,
        )
        return secrets.token_bytes(SIZE)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise LooseleafError(
            f"{path}: other users may read this key; delete it, and a new one is made"
        )
    if len(key) != SIZE:
        raise LooseleafError(f"{path}: this key is incomplete; delete it, and a new one is made")
    return key


def sealed(name: str, content: bytes) -> bytes:
    """The content with the user's seal before it; it holds under this name alone."""
    return _code(name, content) + content


def opened(name: str, raw: bytes) -> bytes | None:
    """The content of what was sealed; None if the user hasn't sealed it, or it was changed."""
    code, content = raw[:SIZE], raw[SIZE:]
    return content if hmac.compare_digest(code, _code(name, content)) else None


def _code(name: str, content: bytes) -> bytes:
    length = f"{len(name)} ".encode()
    return hmac.digest(_key(key_file()), length + name.encode() + content, HASH)
