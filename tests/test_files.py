"""Whole or absent, checksums, and the hash of the code behind a stage."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from looseleaf import codehash
from looseleaf.config.kinds import KINDS, kind_of
from looseleaf.config.settings import load
from looseleaf.entry import module_of
from looseleaf.errors import DataFileError
from looseleaf.files import (
    adler32,
    canonical,
    read_json,
    remove_other_pictures,
    whole,
    write_json,
)


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


def test_a_private_file_is_private_from_the_beginning(tmp_path: Path) -> None:
    with whole(tmp_path / "key", mode=0o600) as part:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("named", [None, "part", "elsewhere"])
def test_whole_names_the_file_that_a_library_could_not_write(
    tmp_path: Path, named: str | None
) -> None:
    path = tmp_path / "out.root"

    def fail() -> None:
        with whole(path) as part:
            raise OSError(errno.ENOSPC, "No space left", str(part) if named == "part" else named)

    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert caught.value.filename == ("elsewhere" if named == "elsewhere" else str(path))


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
    assert {
        "__init__.py",
        "das/__init__.py",
        "das/lookup.py",
        "stage_files.py",
        "files.py",
    } <= found
    # imported within a function, where a file is opened
    assert "nanoaod.py" in found
    assert not any(name.startswith(("servicex/", "fakerate/", "processing/")) for name in found)


KIND_PACKAGES = sorted({kind.analysis.__module__.split(".")[1] for kind in KINDS.values()})
STAGES = {"das", "servicex", "benchmark", "samples", *KIND_PACKAGES}


def modules_of(package: str) -> list[str]:
    return [f"looseleaf.{package}.{path.stem}" for path in (codehash.ROOT / package).glob("*.py")]


def packages(*modules: str) -> set[str]:
    """The packages that are imported by the modules, or by what they import."""
    return {name.split("/")[0] for name in names(*modules)}


def test_results_and_pictures_do_not_hang_on_processing(
    main_config: dict[str, Any], repo: Path
) -> None:
    others = [f"config/analyses/{name}.yaml" for name in ("flips", "muon_id")]
    analyses = [*main_config["analyses"], *others]
    seen = set()
    for analysis in load({**main_config, "analyses": analyses}, repo).analyses.values():
        kind = kind_of(analysis)
        seen.add(kind.name)
        for run in (kind.pictures(analysis).run, *(step.run for step in kind.steps(analysis))):
            assert packages(module_of(run)) & {"processing", "cluster"} == set(), run
    assert seen == set(KINDS)


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_and_kinds_do_not_import_each_other(stage: str) -> None:
    # a notebook reads the configuration, as Snakemake does, and with it all kinds
    modules = [name for name in modules_of(stage) if not name.endswith(".notebook")]
    assert packages(*modules) & (STAGES - {stage}) == set()


def test_services_do_not_import_stages_and_kinds() -> None:
    for service in ("processing", "cluster", "objects", "histograms"):
        assert packages(*modules_of(service)) & {*STAGES, "config"} == set(), service


def test_the_name_of_a_kind_stands_in_its_package_and_in_the_registry_alone() -> None:
    quoted = re.compile(f"""["'](?:{"|".join(KINDS)})["']""")
    for path in codehash.ROOT.rglob("*.py"):
        place = path.relative_to(codehash.ROOT)
        if place.parts[0] not in KIND_PACKAGES and str(place) != "config/kinds.py":
            assert not quoted.findall(path.read_text()), place


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
    text = path.read_text()
    # comments and docstrings don't count
    path.write_text(f"# of files\n{text}".replace('"""', '"""In other words: ', 1))
    assert hashes() == before
    path.write_text(text.replace("def lookup(", "def lookup(*nothing, ", 1))
    assert path.read_text() != text
    after = hashes()
    assert before[0] != after[0]
    assert before[1] == after[1]
    path.write_text(text)
    assert hashes() == before


def test_what_is_known_of_code_is_kept_and_not_trusted_if_it_is_damaged(tmp_path: Path) -> None:
    kept = tmp_path / "known.json"

    def hashed(known: bytes | None) -> str:
        kept.unlink(missing_ok=True)
        if known is not None:
            kept.write_bytes(known)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codehash, "KNOWN", kept)
            patch.setattr(sys, "dont_write_bytecode", False)
            codehash._known.cache_clear()
            codehash._read.cache_clear()
            return codehash.code_hash("looseleaf.das.lookup")

    try:
        fresh = hashed(None)
        known = kept.read_bytes()
        assert hashed(known) == fresh
        for damaged in (b"", known[:100], b"[]", b'{"a": 1}', b'{"a": {"imports": 1}}', b"\xff"):
            assert hashed(damaged) == fresh
            assert kept.read_bytes() == known
        # it is read
        content = hashlib.sha256((codehash.ROOT / "files.py").read_bytes()).hexdigest()
        tree = json.loads(known)[content]["tree"]
        assert hashed(known.replace(tree.encode(), b"0" * 64)) != fresh
        # a folder that can't be written changes nothing
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codehash, "KNOWN", Path("/proc/known.json"))
            codehash._known.cache_clear()
            codehash._read.cache_clear()
            assert codehash.code_hash("looseleaf.das.lookup") == fresh
    finally:
        codehash._known.cache_clear()
        codehash._read.cache_clear()


def test_parsing_the_graph_imports_nothing_heavy() -> None:
    code = (
        "import sys, looseleaf.config.graph, looseleaf.codehash, looseleaf.entry;"
        "heavy = {'numpy', 'uproot', 'coffea', 'dask', 'hist', 'awkward', 'pandas', 'scipy'};"
        "print(heavy & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_pictures_that_are_not_drawn_any_more_go(tmp_path: Path) -> None:
    for name in ("ratio.png", "ratio.pdf", "old.png", "old.pdf", "mine.png", "note.txt"):
        (tmp_path / name).touch()
    remove_other_pictures(tmp_path, [tmp_path / "ratio.png", tmp_path / "ratio.pdf"])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["mine.png", "note.txt", "ratio.pdf", "ratio.png"]


def test_checksums_and_baskets_need_no_zlib_ng(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        file.mktree("Events", {"n": np.int64}).extend({"n": np.arange(5000)})
    code = (
        "import sys; sys.modules['zlib_ng'] = None\n"
        "from looseleaf.baskets import Baskets\n"
        "from looseleaf.files import adler32\n"
        "from looseleaf.nanoaod import open_file\n"
        f"file = open_file({str(path)!r}, walk=True)\n"
        "numbers = Baskets(file.url, file.read).content(file.walked.branch('n'), 0, 5000, 5000)\n"
        f"print(adler32({str(path)!r}), numbers.sum())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    checksum = f"{zlib.adler32(path.read_bytes()):08x}"
    assert told.stdout == f"{checksum} {5000 * 4999 // 2}\n"
