"""Whole or absent, checksums, and the hash of the code behind a stage."""

import os
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from looseleaf import codehash
from looseleaf.errors import DataFileError
from looseleaf.files import adler32, canonical, read_json, whole, write_json


def fail_halfway(path: Path) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise RuntimeError


def test_whole_leaves_nothing_behind_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a" / "out.json"
    with pytest.raises(RuntimeError):
        fail_halfway(path)
    assert list(path.parent.iterdir()) == []


def test_whole_keeps_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        fail_halfway(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_whole_respects_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_bad_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(DataFileError, match=r"x\.json: not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DataFileError, match=r"y\.json: no such file"):
        read_json(tmp_path / "y.json")


def test_adler32_is_eight_digits_of_zlibs(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(data)
    assert adler32(tmp_path / "x") == f"{zlib.adler32(data):08x}"
    (tmp_path / "y").write_bytes(b"")
    assert adler32(tmp_path / "y") == "00000001"


def test_canonical_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1, 2]}) == canonical({"a": [1, 2], "b": 1})
    assert canonical([1, 2]) != canonical([2, 1])


def names(*modules: str) -> set[str]:
    return {str(path.relative_to(codehash.ROOT)) for path in codehash.import_closure(*modules)}


def test_import_closure_follows_imports_and_packages() -> None:
    found = names("looseleaf.das.lookup")
    assert {"__init__.py", "das/__init__.py", "das/lookup.py", "records.py", "files.py"} <= found
    # imported within a function, where a file is opened
    assert "nanoaod.py" in found
    assert not any(name.startswith(("servicex/", "fakerate/", "processing/")) for name in found)


def test_pictures_do_not_hang_on_processing() -> None:
    assert not any(
        n.startswith(("processing/", "cluster/")) for n in names("looseleaf.fakerate.pictures")
    )
    assert not any(
        n.startswith(("processing/", "cluster/")) for n in names("looseleaf.fakerate.measure")
    )


def test_stages_do_not_import_each_other() -> None:
    stages = {"das", "servicex", "fakerate", "topcoffea", "benchmark", "samples"}
    for stage in stages:
        modules = [
            f"looseleaf.{stage}.{path.stem}" for path in (codehash.ROOT / stage).glob("*.py")
        ]
        assert {name.split("/")[0] for name in names(*modules)} & (stages - {stage}) == set(), stage


def test_services_do_not_import_stages() -> None:
    stages = {"das", "servicex", "fakerate", "topcoffea", "benchmark", "samples"}
    for service in ("processing", "cluster", "objects", "histograms"):
        modules = [
            f"looseleaf.{service}.{path.stem}" for path in (codehash.ROOT / service).glob("*.py")
        ]
        assert {name.split("/")[0] for name in names(*modules)} & stages == set(), service


def test_code_hash_changes_with_the_code_that_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "looseleaf"
    shutil.copytree(codehash.ROOT, package, ignore=shutil.ignore_patterns("__pycache__"))

    def hashes() -> list[str]:
        code = (
            "from looseleaf.codehash import code_hash as h;"
            "print(h('looseleaf.das.lookup'), h('looseleaf.fakerate.measure'))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.split()

    before = hashes()
    path = package / "das" / "lookup.py"
    path.write_text(path.read_text() + "\n")
    after = hashes()
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_parsing_the_graph_imports_nothing_heavy() -> None:
    code = (
        "import sys, looseleaf.config, looseleaf.codehash, looseleaf.paths;"
        "print({'numpy', 'uproot', 'coffea', 'dask', 'hist'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
