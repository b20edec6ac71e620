"""Whatever is asked, answered or found on disk, a lookup ends in a value or in a sentence.

Texts are arbitrary or nearly right; answers, catalogues and lists of files are good ones with keys
taken away, values of other types, and text cut off.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from grid import Authority, DbsServer, dbs_row, need, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import places

from looseleaf.das.ask import Asking, ask
from looseleaf.das.catalogue import Catalogue
from looseleaf.das.dasgoclient import answer_of, records_in
from looseleaf.das.lookup import lookup
from looseleaf.das.proxy import Credential
from looseleaf.das.query import FIELDS, FUNCTIONS, Query, parse
from looseleaf.das.shapes import lines, objects, table
from looseleaf.errors import LooseleafError
from looseleaf.servicex.request import request_from_das
from looseleaf.stage_files import FileRecord, write_catalogue

pytestmark = pytest.mark.slow

# how many examples is the profile's to say
PROPERTY = settings(deadline=None)

ODD = st.one_of(
    st.sampled_from(
        [
            None, True, False, 0, 1, -1, 2**63, -(10**30), 10**400, 0.5, 1e308, float("nan"),
            float("inf"), "", " ", "0", "12", "NOTSET", "0x1a", "é", "\0", "\ud800", "n" * 300,
            "1" * 5000, "/", "/A/B", "/A/B/C#", "..", [], [[]], [None], [1, "a"], {}, {"a": 1},
            [{}], {"error": "x"}, [{"error": {"reason": None}}], "50.00%", "%",
        ]
    ),
    st.integers(),
    st.text(max_size=20),
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, good: Any) -> str:
    """The JSON of a good value after some changes, perhaps cut off or with a character changed."""
    tree = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(0, 3))):
        if not places(tree):
            break
        container, key = draw(st.sampled_from(places(tree)))
        match draw(st.sampled_from(["value", "value", "delete", "twice", "rename"])):
            case "value":
                container[key] = copy.deepcopy(draw(ODD))
            case "delete":
                del container[key]
            case "twice" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _ if isinstance(container, dict):
                container[draw(st.text(max_size=5))] = container.pop(key)
    text = json.dumps(tree)
    match draw(st.sampled_from(["whole", "whole", "cut", "lines", "other", "deep"])):
        case "cut":
            return text[: draw(st.integers(0, len(text)))]
        case "other":
            at = draw(st.integers(0, len(text) - 1))
            return text[:at] + draw(st.characters()) + text[at + 1 :]
        case "lines" if isinstance(tree, list):
            return "\n".join(json.dumps(row) for row in tree)
        case "deep":
            return "[" * 100_000
    return text


# --- queries

NAMES = st.from_regex(r"/[A-Za-z0-9_.*-]{1,9}/[A-Za-z0-9_.-]{1,9}/[A-Z]{1,5}", fullmatch=True)
NUMBERS = st.integers(0, 9_999_999_999)
KEYS = st.sampled_from(
    ["file.name", "file.size", "file.nevents", "file", "dataset.name", "block.size", "summary",
     "site.dataset_fraction", "file.x"]
)  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(
        [*FIELDS, *FUNCTIONS, "dataset=", "block=", "run", "run=", "in", "between", "site=",
         "status=", "instance=", "=", "|", "grep", "(", ")", "[", "]", ",", "#", "*", "/A/B/C",
         "/A/B/C#1", "prod/global", "file.size", ">=", "<", "%", " ", "\n", "\0", "1" * 5000]
    ),
    NAMES,
    NUMBERS.map(str),
    st.text(max_size=4),
)  # fmt: skip


@PROPERTY
@given(
    st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join), st.lists(WORDS).map("".join))
)
def test_any_query(text: str) -> None:
    try:
        assert isinstance(parse(text), Query)
    except LooseleafError as problem:
        told = str(problem)
    else:
        told = ""
    # of a query of thousands of characters the message shows the first
    assert len(told) < 2000


@PROPERTY
@given(
    dataset=NAMES,
    runs=st.none() | st.lists(NUMBERS, min_size=1, max_size=4) | st.tuples(NUMBERS, NUMBERS),
    site=st.none() | st.from_regex(r"T[0-3]_[A-Z]{2}_\w{1,5}", fullmatch=True).filter(str.isascii),
    grep=st.lists(st.tuples(KEYS, st.sampled_from([">", "<=", "=", "!="]), NUMBERS), max_size=3),
    space=st.sampled_from(["", " "]),
)
def test_a_query_means_what_it_was_made_of(
    dataset: str, runs: Any, site: str | None, grep: list[tuple[str, str, int]], space: str
) -> None:
    text = f"file dataset{space}={space}{dataset}"
    expected: Any = None
    if isinstance(runs, tuple):
        first, last = sorted(runs)
        text, expected = f"{text} run between [{first},{space}{last}]", range(first, last + 1)
    elif runs is not None:
        text, expected = f"{text} run in [{', '.join(map(str, runs))}]", tuple(runs)
    text += f" site={site}" if site is not None else ""
    if grep:
        text += " | grep " + ", ".join(f"{key}{space}{how}{n}" for key, how, n in grep)
    found = parse(text)
    assert (found.field, found.dataset, found.runs, found.site) == ("file", dataset, expected, site)
    assert [(s.key, s.relation, s.value) for s in found.grep] == [
        (key, how, str(n)) for key, how, n in grep
    ]


RECORDS = [
    FileRecord("/store/a.root", 100, 10, "0000000a", "/A/B/C#1"),
    FileRecord("/store/b%", None, None, None, None, valid=False, url="/data/b.root"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("properties")
    write_catalogue(path / "good.json", {"/A/B/C": RECORDS, "/A/B_ext1/C": RECORDS[:1]})
    return path


@PROPERTY
@given(
    field=st.sampled_from(["file", "block", "summary", "dataset"]),
    dataset=st.sampled_from(["/A/B/C", "/A/*/C", "/*/*/*"]),
    pipes=st.lists(
        st.one_of(
            st.tuples(
                KEYS, st.sampled_from(["", ">", "=", "!=", "<="]), st.text("1a*.%", max_size=3)
            ).map(lambda item: f"grep {item[0]}{item[1]}{item[2] or '1' if item[1] else ''}"),
            st.tuples(st.sampled_from(FUNCTIONS), KEYS).map(lambda f: f"{f[0]}({f[1]})"),
        ),
        max_size=3,
    ),
)
def test_any_answer_is_shown(folder: Path, field: str, dataset: str, pipes: list[str]) -> None:
    text = " | ".join([f"{field} dataset={dataset}", *pipes])
    asking = Asking("catalogue", catalogues=[str(folder / "good.json")])
    try:
        answer = ask(parse(text), asking)
        assert all(isinstance(line, str) for line in lines(answer))
        json.dumps(objects(answer))
        table(answer)
    except LooseleafError:
        pass


# --- answers of services

DASGOCLIENT = {
    "file": {"file": [{"name": "/store/a.root", "size": 100, "nevents": 10, "adler32": "a",
                       "block_name": "/A/B/C#1", "is_file_valid": 1}]},
    "dataset": {"dataset": [{"name": "/A/B/C"}]},
    "block": {"block": [{"name": "/A/B/C#1", "size": 10, "nfiles": 1}]},
    "site": {"site": [{"name": "T2_CH_CERN", "dataset_fraction": "99.50%"}]},
    "summary": {"summary": [{"nfiles": 2, "nevents": 30, "nblocks": 1, "nlumis": 4,
                             "file_size": 300}]},
    "file,run,lumi": {"file": [{"name": "/store/a.root"}], "run": [{"run_number": 5}],
                      "lumi": [{"number": [1, 2]}]},
}  # fmt: skip
ANSWERS = st.sampled_from(list(DASGOCLIENT)).flatmap(
    lambda field: st.tuples(
        st.just(field), changed([{"das": {}, **DASGOCLIENT[field], "qhash": "5"}] * 2)
    )
)
ENDS = st.sampled_from(
    ["", "\nERROR: das exit with code: 15", f"\nERROR: exit with code: {'1' * 5000}", "\nWARNING"]
)


@PROPERTY
@given(ANSWERS, ENDS, st.sampled_from([0, 0, 0, 2, 15, -9, 255]), st.booleans())
def test_any_output_of_dasgoclient(
    answer: tuple[str, str], end: str, status: int, wrapped: bool
) -> None:
    field, text = answer
    if wrapped:
        text = f'{{"status": "ok", "data": {text}}}'
    used = Credential(proxy=None, token="a.b.c")
    try:
        rows = answer_of(text + end, "", status, "dasgoclient 'x'", used)
        found = records_in(field, rows, "VALID")
        assert len(found) <= len(rows)
    except LooseleafError:
        pass


DBS: dict[str, Any] = {
    "file": [dbs_row("/store/a.root"), dbs_row("/store/b.root")],
    "dataset": [{"dataset": "/A/B/C"}, {"dataset": "/A/B_ext1/C"}],
    "block": [{"block_name": "/A/B/C#1", "block_size": 10, "file_count": 1}],
    "summary": [{"num_file": 1, "num_event": 2, "num_block": 1, "num_lumi": 3, "file_size": 4}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DbsServer]:
    need("openssl")
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X509_CERT_DIR", str(authority.certificates))
        patch.setenv("BEARER_TOKEN", "a.b.c")
        patch.delenv("BEARER_TOKEN_FILE", raising=False)
        server = DbsServer(authority, token="a.b.c")
        with serving(server):
            yield server


@PROPERTY
@given(
    st.sampled_from(list(DBS)).flatmap(
        lambda field: st.tuples(st.just(field), changed(DBS[field]))
    ),
    st.sampled_from([200, 200, 200, 400, 500]),
)
def test_any_answer_of_dbs(server: DbsServer, answer: tuple[str, str], status: int) -> None:
    field, text = answer
    body = text.encode(errors="surrogatepass").decode(errors="replace")
    server.faults = [lambda handler: handler.answer(body, status)]
    asking = Asking("dbs", host=server.url, timeout=10, tries=1)
    try:
        (found,) = ask(parse(f"{field} dataset=/A/B/C"), asking).records.values()
        assert found
    except LooseleafError:
        pass


# --- files on disk


def damaged(path: Path, text: str) -> None:
    path.write_bytes(text.encode(errors="surrogatepass"))


CATALOGUE = {
    "format": "looseleaf-catalogue/1",
    "datasets": {
        "/A/B/C": {"files": [record.to_json() for record in RECORDS]},
        "/A/B_ext1/C": {"files": [RECORDS[0].to_json()]},
    },
}


@PROPERTY
@given(
    changed(CATALOGUE),
    st.sampled_from(["file", "dataset", "block", "summary"]),
    st.sampled_from(["/A/B/C", "/A/*/C"]),
    st.lists(st.sampled_from(["/store/a.root", "/store/b%", "x"]), unique=True, max_size=2),
)
def test_any_catalogue(
    folder: Path, text: str, field: str, dataset: str, leave_out: list[str]
) -> None:
    path, output = folder / "catalogue.json", folder / "das.json"
    damaged(path, text)
    output.unlink(missing_ok=True)
    try:
        Catalogue([path]).records(field, dataset, "VALID")
        lookup(dataset, output, [path], leave_out=leave_out)
        request = request_from_das(output, ["run"], None, "root-file", "1", ["root://x/"])
        assert {source.record.name for source in request.sources}.isdisjoint(leave_out)
    except LooseleafError:
        pass


SNAPSHOT = {
    "format": "looseleaf-das/1",
    "dataset": "/A/B/C",
    "query": "file dataset=/A/B/C",
    "time": "2026-01-01T00:00:00+00:00",
    "summary": {"files": 1},
    "files": [record.to_json() for record in RECORDS],
}


@PROPERTY
@given(changed(SNAPSHOT))
def test_any_list_of_files(folder: Path, text: str) -> None:
    path = folder / "das.json"
    damaged(path, text)
    with suppress(LooseleafError):
        assert request_from_das(path, ["run"], None, "root-file", "1", ["root://x/"]).id
    # what stands there is no hindrance to a new one
    lookup("/A/B/C", path, [folder / "good.json"])
    assert len(json.loads(path.read_text())["files"]) == 2
