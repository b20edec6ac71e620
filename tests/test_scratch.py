"""Temporary folders of processes that were killed are removed by the next one."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from looseleaf.scratch import OLD_S, remove_left, scratch


def made(folder: Path, name: str, age: float) -> Path:
    path = folder / name
    path.mkdir()
    (path / "keys.json").write_text("{}")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = made(tmp_path, f"looseleaf-{ended.pid}-abc", OLD_S + 60)
    kept = [
        made(tmp_path, f"looseleaf-{ended.pid}-young", OLD_S - 60),
        made(tmp_path, f"looseleaf-{os.getpid()}-alive", OLD_S + 60),
        made(tmp_path, "looseleaf-mine-x", OLD_S + 60),
        made(tmp_path, f"other-{ended.pid}-x", OLD_S + 60),
    ]
    # a link that somebody has put there leads nowhere
    target = made(tmp_path, "target", OLD_S + 60)
    (tmp_path / f"looseleaf-{ended.pid}-link").symlink_to(target)
    remove_left(tmp_path)
    assert not dead.exists()
    assert all((path / "keys.json").exists() for path in [*kept, target])


def test_a_scratch_folder_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch() as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []
