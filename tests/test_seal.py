"""What is unpickled from disk was put there by the user: planted files don't execute."""

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import lz4.frame
import pytest
from planted import Planted

from looseleaf.errors import DataFileError, LooseleafError
from looseleaf.processing import seal
from looseleaf.processing.checkpoints import Checkpoints, packed, unpacked


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_planted_result_is_not_unpickled(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept")
    kept.keep("a", packed({"n": 1}))
    bomb = lz4.frame.compress(pickle.dumps(Planted(tmp_path / "hacked")), content_checksum=True)
    own = (tmp_path / "kept/a.result").read_bytes()
    for raw in (bomb, b"\0" * seal.SIZE + bomb, own[: seal.SIZE] + bomb):
        (tmp_path / "kept/a.result").write_bytes(raw)
        assert kept.whole() == set()
        with pytest.raises(DataFileError, match=r"a\.result: was changed while this job ran"):
            unpacked(kept.read("a"))
    assert not (tmp_path / "hacked").exists()
    # what the test would miss if the file itself did nothing
    unpacked(bomb)
    assert (tmp_path / "hacked").exists()


def test_a_result_holds_under_its_own_name_alone(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept")
    kept.keep("a", packed({"n": 1}))
    os.link(tmp_path / "kept/a.result", tmp_path / "kept/b.result")
    assert kept.whole() == {"a"}
    # a name and a content that begins with the rest of it
    assert seal.opened("ab", seal.sealed("a", b"bc")) is None


def test_the_next_process_opens_what_this_one_sealed(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept")
    kept.keep("a", packed({"n": 1}))
    code = (
        "import sys; from looseleaf.processing.checkpoints import Checkpoints, unpacked; "
        "kept = Checkpoints(sys.argv[1]); print(kept.whole(), unpacked(kept.read('a')))"
    )
    for state, expected in ((tmp_path / "state", "{'a'} {'n': 1}"), (tmp_path / "another's", "")):
        ended = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "kept")],
            env={**os.environ, "XDG_STATE_HOME": str(state)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.stdout.strip() == expected, ended.stderr


def test_key_and_folder_are_the_users_alone(tmp_path: Path, home: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o777)
    (tmp_path / "kept").chmod(0o777)
    Checkpoints(tmp_path / "kept").keep("a", packed(1))
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "looseleaf/seal.key").stat().st_mode) == 0o600
    assert (home / "looseleaf/seal.key").stat().st_size == seal.SIZE


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [(b"k" * 32, 0o640, "other users may read this key"), (b"k" * 31, 0o600, "is incomplete")],
)
def test_a_key_that_is_not_fit(home: Path, content: bytes, mode: int, message: str) -> None:
    (home / "looseleaf").mkdir(parents=True)
    (home / "looseleaf/seal.key").write_bytes(content)
    (home / "looseleaf/seal.key").chmod(mode)
    with pytest.raises(LooseleafError, match=rf"seal\.key: .*{message}.*delete it"):
        seal.sealed("a", b"")


def test_without_room_for_a_key_results_hold_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert seal.opened("a", seal.sealed("a", b"x")) == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a folder another user's")
@pytest.mark.parametrize(("user", "name"), [(1, "[a-z]+"), (54_321, "54321")])
def test_a_folder_of_another_user(tmp_path: Path, user: int, name: str) -> None:
    (tmp_path / "kept").mkdir()
    os.chown(tmp_path / "kept", user, user)
    with pytest.raises(LooseleafError, match=f"kept: belongs to the user {name}, whose run left"):
        Checkpoints(tmp_path / "kept")
