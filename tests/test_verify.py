"""das.verify: files are read whole and held to their checksums, wherever they stand."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from looseleaf.das.lookup import lookup
from looseleaf.errors import DataFileError, LookupFailed, Shortfall
from looseleaf.files import adler32, read_json
from looseleaf.nanoaod import BLOCK, open_events
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.request import Request, request_from_das
from looseleaf.servicex.submission import transform
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file
from looseleaf.stage_files import FileRecord, write_catalogue

COLUMNS = ("run", "luminosityBlock", "event", "genWeight", "MET_pt")


class Ranges(BaseHTTPRequestHandler):
    """Hands out a folder's files, whole or a range of them."""

    folder: ClassVar[Path]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        content = (self.folder / self.path.strip("/")).read_bytes()
        asked = self.headers.get("Range")
        first, last = 0, len(content) - 1
        if asked is not None:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(content[first : last + 1])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (Ranges,), {"folder": tmp_path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def columns(events: int) -> dict[str, np.ndarray]:
    return {
        "run": np.ones(events, np.uint32),
        "luminosityBlock": np.ones(events, np.uint32),
        "event": np.arange(events, dtype=np.uint64),
        "genWeight": np.ones(events, np.float32),
        "MET_pt": np.random.default_rng(1).exponential(20, events).astype(np.float32),
    }


def pair(folder: Path, ending: str, events: int = 1000) -> tuple[Path, Path]:
    """An uncompressed file, and the same with one bit of one MET_pt changed."""
    good, bad = folder / f"good{ending}", folder / f"bad{ending}"
    held = columns(events)
    if ending == ".root":
        with uproot.recreate(good, compression=None) as root:
            root.mktree("Events", {name: value.dtype for name, value in held.items()})
            root["Events"].extend(held)
    else:
        pq.write_table(pa.table(held), good, compression="none", use_dictionary=False)
    needle = held["MET_pt"][500:501].astype(">f4" if ending == ".root" else "<f4").tobytes()
    content = bytearray(good.read_bytes())
    place = content.index(needle)
    assert content.count(needle) == 1
    content[place + (1 if ending == ".root" else 2)] ^= 0x40
    bad.write_bytes(content)
    return good, bad


def task(good: Path, output: Path, *urls: str, verify: bool) -> FileTask:
    return FileTask(
        name="/store/x.root",
        urls=urls,
        expected_bytes=good.stat().st_size,
        expected_events=1000,
        expected_adler32=adler32(good),
        queries=(TreeQuery(columns=COLUMNS),),
        output=str(output),
        work="test",
        verify=verify,
    )


def test_a_flipped_bit_elsewhere(tmp_path: Path, served: str) -> None:
    good, bad = pair(tmp_path, ".root")
    urls = (f"{served}/{bad.name}", f"{served}/{good.name}")
    right = columns(1000)["MET_pt"]
    # it can't be noticed otherwise
    unheld = transform_file(task(good, tmp_path / "o.root", *urls, verify=False))
    assert unheld.source_url == urls[0]
    wrong = ak.to_numpy(uproot.open(tmp_path / "o.root")["Events"]["MET_pt"].array())
    assert np.flatnonzero(wrong != right).tolist() == [500]
    held = transform_file(task(good, tmp_path / "o.root", *urls, verify=True))
    assert held.source_url == urls[1]
    assert held.passed_over == [
        f"{urls[0]}: has {adler32(bad)} as its adler32, but the lookup said {adler32(good)}: "
        "the file "
        "is cut off or changed; if it is right, look it up again (snakemake --forcerun das_lookup)"
    ]
    found = ak.to_numpy(uproot.open(tmp_path / "o.root")["Events"]["MET_pt"].array())
    assert np.array_equal(found, right)
    with pytest.raises(DataFileError, match=r"bad\.root: has .* as its adler32"):
        transform_file(task(good, tmp_path / "o.root", urls[0], verify=True))


@pytest.mark.parametrize("ending", [".root", ".parquet"])
def test_a_flipped_bit_here(tmp_path: Path, ending: str) -> None:
    good, bad = pair(tmp_path, ending)
    transform_file(task(good, tmp_path / "o.root", str(good), verify=False))
    for verify in (False, True):
        with pytest.raises(DataFileError, match=rf"bad\{ending}: has .* as its adler32"):
            transform_file(task(good, tmp_path / "o.root", str(bad), verify=verify))


@pytest.mark.parametrize("ending", [".root", ".parquet"])
def test_blocks_are_the_whole_file(tmp_path: Path, ending: str) -> None:
    # of several blocks, the last of them shorter
    good, _ = pair(tmp_path, ending, events=1_000_000)
    assert BLOCK < good.stat().st_size < 2 * BLOCK
    with open_events(str(good)) as file:
        assert b"".join(file.blocks()) == good.read_bytes()


def requested(folder: Path, verify: bool, **record: str | None) -> Request:
    good = folder / "good.root"
    known = FileRecord("/store/x.root", good.stat().st_size, 1000, adler32(good))
    write_catalogue(folder / "c.json", {"/A/B/C": [replace(known, **record)]})
    lookup("/A/B/C", folder / "das.json", [folder / "c.json"])
    return request_from_das(folder / "das.json", COLUMNS, None, "root-file", "1", [], verify)


def test_a_request_that_verifies(tmp_path: Path, served: str) -> None:
    pair(tmp_path, ".root")
    where = (tmp_path / "volume", "sub", tmp_path / "manifest.json", Embedded(1), "q")
    wrong = requested(tmp_path, False, url=f"{served}/bad.root")
    transform(wrong, *where)
    first = read_json(tmp_path / "manifest.json")
    # what was made without is not taken for held
    held = requested(tmp_path, True, url=f"{served}/bad.root")
    assert held.id != wrong.id
    with pytest.raises(Shortfall, match=r"bad\.root: has .* as its adler32"):
        transform(held, *where)
    transform(requested(tmp_path, True, url=f"{served}/good.root"), *where)
    second = read_json(tmp_path / "manifest.json")
    # both had the same work done on them, and the same uuid
    assert second["files"][0]["uuid"] == first["files"][0]["uuid"]
    assert second["request"]["verified"] is True
    assert "verified" not in first["request"]


def test_files_without_checksums_cannot_be_held_to_them(tmp_path: Path) -> None:
    pair(tmp_path, ".root")
    with pytest.raises(LookupFailed, match=r"no checksum is known of 1 files, /store/x\.root"):
        requested(tmp_path, True, adler32=None)
    requested(tmp_path, False, adler32=None)
