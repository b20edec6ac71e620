"""Sums have one order, wherever they are made; large ones are made where their parts are."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from processors import Link, Once, Uneven, die
from samples import qcd, skimmed

from looseleaf.cluster import client_for
from looseleaf.processing import job
from looseleaf.processing.checkpoints import is_whole, packed, unpacked
from looseleaf.processing.fileset import Fileset, from_manifest
from looseleaf.processing.job import Processed, run
from looseleaf.processing.runner import Limits, ProcessingFailed
from looseleaf.processing.site import Site
from looseleaf.processing.tree import GROUP, bundles, groups_of, halves, parents, tree_sum

LOCAL = {"kind": "local", "redirectors": []}
COLUMNS = ["run", "luminosityBlock", "event", "genWeight"]
LIMITS = Limits(chunksize=20, task_events=20)
NAMES = [f"file {number}" for number in range(500)]


def test_groups_hold_every_place_once_and_follow_from_their_names() -> None:
    groups = groups_of(NAMES)
    assert [place for group in groups for place in group] == list(range(500))
    assert all(1 <= len(group) <= GROUP for group in groups)
    assert len(groups) < 80

    def by_names(names: list[str]) -> set[tuple[str, ...]]:
        return {tuple(names[place] for place in group) for group in groups_of(names)}

    for place in (0, 7, 250, 499):
        changed = by_names(NAMES) - by_names(NAMES[:place] + NAMES[place + 1 :])
        assert sum(map(len, changed)) <= 5 * GROUP


def test_a_tree_has_its_order_of_sums() -> None:
    added: list[tuple[str, str]] = []

    def add(left: str, right: str) -> str:
        added.append((left, right))
        return left + right

    def known(node: range) -> str | None:
        return "abcde"[node.start] if len(node) == 1 else "DE" if node == range(3, 5) else None

    assert tree_sum(range(5), known, add) == "abcDE"
    assert added == [("a", "b"), ("c", "DE"), ("ab", "cDE")]
    above = parents(range(5))
    assert above[range(3, 5)] == range(2, 5)
    assert all(node in halves(parent) for node, parent in above.items())
    assert len(above) == 8


def test_bundles_are_nodes_of_few_events() -> None:
    events = dict.fromkeys(range(8), 10) | {5: 100}
    assert list(bundles(events, range(8), 40, 16)) == [[0, 1, 2, 3], [4], [5], [6, 7]]
    assert list(bundles(events, range(8), 40, 2)) == [[0, 1], [2, 3], [4], [5], [6, 7]]
    del events[2]
    assert list(bundles(events, range(8), 1000, 8)) == [[0, 1, 3, 4, 5, 6, 7]]
    assert list(bundles({}, range(8), 1000, 8)) == []


@pytest.fixture(scope="module")
def fileset(tmp_path_factory: pytest.TempPathFactory) -> Fileset:
    folder = tmp_path_factory.mktemp("reduction")
    return from_manifest("q", skimmed(folder, "q", {"q": qcd(2000, files=4)}, COLUMNS), {})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with client_for(LOCAL, 2, tmp_path_factory.mktemp("logs")) as site:
        yield site


def bits(result: Processed) -> bytes:
    assert result.ledger["processed"] == {
        "files": 4, "chunks": 100, "events": 2000, "sum_of_weights": pytest.approx(2000),
    }  # fmt: skip
    return result.accumulator["h"].view(flow=True).tobytes()


@pytest.fixture(scope="module")
def expected(fileset: Fileset, site: Site, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bits when all results come to the client."""
    folder = tmp_path_factory.mktemp("expected")
    result = run(Uneven(), [fileset], site, LIMITS, "test", folder)["q"]
    # one result is kept for each task
    assert len(list(folder.iterdir())) == 100
    return bits(result)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result counts as a large one."""
    monkeypatch.setattr(job, "LARGE_BYTES", 0)
    monkeypatch.setattr(job, "BUNDLE_EVENTS", 1)


def test_the_order_of_sums_matters_here(
    fileset: Fileset, site: Site, expected: bytes, tmp_path: Path
) -> None:
    # or the tests that follow would show nothing
    other = run(Uneven(), [fileset], site, Limits(20, 100), "test", tmp_path)["q"]
    assert bits(other) != expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.usefixtures("large")
def test_large_results_are_summed_on_workers_to_the_same_bits(
    fileset: Fileset, expected: bytes, tmp_path: Path, workers: int
) -> None:
    processor = Uneven(longest_s=0.02)
    with client_for(LOCAL, workers, tmp_path / "logs") as site:
        result = run(processor, [fileset], site, LIMITS, "test", tmp_path / "kept")["q"]
    assert bits(result) == expected
    # what came to the client is kept: sums of groups
    assert len(list((tmp_path / "kept").iterdir())) < 20
    assert sum(worker["chunks"] for worker in result.ledger["workers"].values()) == 100
    assert all(worker["peak_rss_bytes"] > 1e8 for worker in result.ledger["workers"].values())


@pytest.mark.usefixtures("large")
def test_large_results_that_are_lost_with_their_worker(
    fileset: Fileset, site: Site, expected: bytes, tmp_path: Path
) -> None:
    # several results are on the worker when it ends
    act = Once(tmp_path / "act", die)
    processor = Uneven(longest_s=0.05, act=act)
    result = run(processor, [fileset], site, LIMITS, "test", tmp_path / "kept")["q"]
    assert act.path.exists()
    assert bits(result) == expected


@pytest.mark.usefixtures("large")
def test_large_results_of_a_file_that_fails_to_open_once(
    fileset: Fileset, site: Site, expected: bytes, tmp_path: Path
) -> None:
    late = tmp_path / "late.root"
    first = replace(fileset.files[0], url=str(late))
    moved = replace(fileset, files=(first, *fileset.files[1:]))
    act = Once(tmp_path / "act", Link(fileset.files[0].url, str(late)))
    result = run(Uneven(act=act), [moved], site, LIMITS, "test", tmp_path / "kept")["q"]
    assert bits(result) == expected
    assert max(chunk["tries"] for chunk in result.ledger["chunks"]) == 2


def test_a_broken_run_resumes_to_the_same_bits_whatever_was_kept(
    fileset: Fileset, site: Site, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(fileset.files[2], url=str(tmp_path / "missing"))
    broken = replace(fileset, files=(*fileset.files[:2], missing, fileset.files[3]))
    limits = replace(LIMITS, tries=1)
    kept = tmp_path / "kept"
    # some single results, then some sums, then the rest
    for bundle, large_bytes in ((100, 1 << 20), (1, 0)):
        monkeypatch.setattr(job, "BUNDLE_EVENTS", bundle)
        monkeypatch.setattr(job, "LARGE_BYTES", large_bytes)
        with pytest.raises(ProcessingFailed, match="no such file"):
            run(Uneven(), [broken], site, limits, "test", kept)
    assert len(list(kept.iterdir())) > 0
    assert bits(run(Uneven(), [fileset], site, limits, "test", kept)["q"]) == expected


def test_a_damaged_result_is_told_from_a_whole_one() -> None:
    content = packed({"pt": list(range(1000))})
    assert is_whole(content)
    assert unpacked(content) == {"pt": list(range(1000))}
    for place in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        assert not is_whole(bytes(damaged))
    assert not is_whole(content[:-1])
    assert not is_whole(b"")
