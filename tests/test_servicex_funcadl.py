"""func_adl queries: the stock client's, carried out by the service, against plain arrays."""

import sys
from pathlib import Path
from typing import Any

import awkward as ak
import pytest
import uproot
from samples import SETTINGS, TRUTH, qcd
from servicex.query import FuncADL_Uproot

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.samples.generate import generate
from looseleaf.servicex.service.queries import check, usable
from looseleaf.servicex.transform import FileTask, transform_file

pytestmark = pytest.mark.slow

OWN = {"run", "luminosityBlock", "event", "genWeight"}
EVENTS = "(call EventDataset 'bogus.root' 'Events')"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    generate("q", {"q": qcd(3000, 1)}, SETTINGS, folder / "q/catalogue.json", TRUTH)
    return folder / "q/q_0.root"


def carried_out(selection: str, file: Path, output: Path, output_format: str) -> ak.Array:
    """The columns of the result that the query itself asks for."""
    transform_file(
        FileTask(
            name="q",
            urls=(str(file),),
            expected_bytes=None,
            expected_events=None,
            expected_adler32=None,
            queries=check("uproot", selection),
            output=str(output),
            work=selection,
            format=output_format,
        )
    )
    if output_format == "parquet":
        return ak.from_parquet(output)
    return uproot.open(output)["Events"].arrays()


def from_tree() -> Any:
    return FuncADL_Uproot().FromTree("Events")


def selected(events: Any) -> dict[str, Any]:
    pt, kept = events["Muon_pt"], events["Muon_pt"] > 8
    return {
        "MET_pt": events["MET_pt"],
        "twice": 2 * events["MET_pt"] - abs(events["MET_pt"] - 3) ** 0.5,
        "nMuon": ak.num(pt),
        "Muon_charge": events["Muon_charge"][kept],
        "Muon_pt": pt[kept],
        "hard": ak.num(pt[kept]),
        "sum_pt": ak.sum(pt[kept], axis=1),
        "first_pt": pt[:, 0],
        "last": ak.max(pt, axis=1, mask_identity=False) + ak.min(pt, axis=1, mask_identity=False),
        "any_hard": ak.any(kept, axis=1),
        "all_hard": ak.all(kept, axis=1),
        "relative": pt / events["MET_pt"],
        "one": ak.where(events["MET_pt"] > 20, 1, 0),
    }


@pytest.mark.parametrize("output_format", ["root-file", "root-rntuple", "parquet"])
def test_what_a_query_comes_to(file: Path, tmp_path: Path, output_format: str) -> None:
    query = (
        from_tree()
        .Where(lambda e: e.MET_pt > 10 and not e.MET_pt > 60)
        .Where(lambda e: e.Muon_pt.Count() > 0)
        .Select(
            lambda e: {
                "MET_pt": e.MET_pt,
                "twice": 2 * e["MET_pt"] - abs(e.MET_pt - 3) ** 0.5,
                "Muon": Zip({"charge": e.Muon_charge, "pt": e.Muon_pt}).Where(  # noqa: F821
                    lambda m: m.pt > 8
                ),
                "hard": e.Muon_pt.Where(lambda pt: pt > 8).Count(),
                "sum_pt": e.Muon_pt.Where(lambda pt: pt > 8).Sum(),
                "first_pt": e.Muon_pt.First(),
                "last": e.Muon_pt.Max() + e.Muon_pt.Min(),
                "any_hard": e.Muon_pt.Any(lambda pt: pt > 8),
                "all_hard": e.Muon_pt.All(lambda pt: pt > 8),
                "relative": e.Muon_pt.Select(lambda pt: pt / e.MET_pt),
                "one": 1 if e.MET_pt > 20 else 0,
            }
        )
    )
    text = query.generate_selection_string()
    found = carried_out(text, file, tmp_path / "out.root", output_format)
    source = uproot.open(file)["Events"].arrays()
    met = source["MET_pt"]
    kept = source[(met > 10) & (met <= 60) & (ak.num(source["Muon_pt"]) > 0)]
    wanted = selected(kept)
    # the collection's counter is that of its selected objects
    wanted["nMuon"] = wanted["hard"]
    assert 0 < len(found) == len(kept) < len(source)
    assert set(found.fields) - {"nrelative"} == set(wanted) | OWN
    for name, column in wanted.items():
        assert ak.almost_equal(found[name], column, rtol=1e-6, dtype_exact=False), name
    assert ak.all(found["event"] == kept["event"])


def test_a_branch_keeps_its_name_and_its_counter(file: Path, tmp_path: Path) -> None:
    query = from_tree().Select(lambda e: {"Muon_pt": e.Muon_pt, "Muon_eta": e.Muon_eta})
    found = carried_out(query.generate_selection_string(), file, tmp_path / "a.root", "root-file")
    assert set(found.fields) == {"nMuon", "Muon_pt", "Muon_eta"} | OWN
    alone = from_tree().Where(lambda e: e.MET_pt > 10).Select(lambda e: e.MET_pt)
    text = alone.generate_selection_string()
    found = carried_out(text, file, tmp_path / "b.root", "root-file")
    assert set(found.fields) == {"MET_pt"} | OWN


def test_a_selection_after_a_select_and_columns_by_another_name(file: Path, tmp_path: Path) -> None:
    query = (
        from_tree()
        .Select(lambda e: {"MET_pt": e.MET_pt / 2, "met": e.MET_pt, "mu": e.Muon_pt})
        .Where(lambda r: r.MET_pt > 5 and r.mu.Count() == 1)
        .Select(lambda r: {"MET_pt": r.MET_pt, "met": r.met, "mu": r.mu.First()})
    )
    text = query.generate_selection_string()
    found = carried_out(text, file, tmp_path / "out.root", "root-file")
    source = uproot.open(file)["Events"].arrays()
    kept = source[(source["MET_pt"] / 2 > 5) & (ak.num(source["Muon_pt"]) == 1)]
    assert len(found) == len(kept) > 0
    # halved under its own name, whole under another
    assert ak.all(found["MET_pt"] == kept["MET_pt"] / 2)
    assert ak.all(found["met"] == kept["MET_pt"])
    assert ak.all(found["mu"] == kept["Muon_pt"][:, 0])


def test_without_a_select_everything_is_kept(file: Path, tmp_path: Path) -> None:
    text = from_tree().Where(lambda e: e.MET_pt > 30).generate_selection_string()
    found = carried_out(text, file, tmp_path / "out.root", "root-file")
    source = uproot.open(file)["Events"].arrays()
    assert set(found.fields) == set(source.fields)
    assert len(found) == ak.sum(source["MET_pt"] > 30) > 0


def test_an_event_without_an_object_has_no_first_one(file: Path, tmp_path: Path) -> None:
    query = from_tree().Select(lambda e: {"x": e.Electron_pt.First()})
    text = query.generate_selection_string()
    with pytest.raises(DataFileError, match=r"first\(Electron_pt\)' has no value in some events"):
        carried_out(text, file, tmp_path / "out.root", "root-file")
    assert not (tmp_path / "out.root").exists()
    # and passes no comparison of it
    query = from_tree().Where(lambda e: e.Electron_pt.First() > 0)
    text = query.generate_selection_string()
    found = carried_out(text, file, tmp_path / "out.root", "root-file")
    assert len(found) == ak.sum(uproot.open(file)["Events"]["nElectron"].array() > 0)


def test_a_list_beside_an_object_is_refused(file: Path, tmp_path: Path) -> None:
    query = from_tree().Select(lambda e: {"x": e.Muon_pt.Select(lambda p: p + e.Muon_eta)})
    text = query.generate_selection_string()
    with pytest.raises(ConfigError, match=r"scalar\(\) takes one value for each event"):
        carried_out(text, file, tmp_path / "out.root", "root-file")


def select(body: str, more: str = "") -> str:
    return f"(call Select {EVENTS} (lambda (list e) {body})){more}"


PT = "(attr e 'Muon_pt')"


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("(", "func_adl selection is qastle"),
        ("", "func_adl selection is qastle"),
        ("(call EventDataset 'bogus.root')", r"FromTree\('Events'\)"),
        ("(call open '/etc/passwd')", "Select and Where of a dataset"),
        (select("(call open '/etc/passwd')"), "the function open: use a python query"),
        (select("(dict (list 'x') (list (call exec 'pass')))"), "the function exec"),
        (select("(dict (list 'x') (list (attr e '__class__.x')))"), "the name '__class__.x'"),
        (select("(dict (list 'x y') (list (attr e 'a')))"), "the name 'x y'"),
        (select("(list (attr e 'a') (attr e 'b'))"), "List: give the columns names"),
        (select("(* 2 (attr e 'a'))"), "give the columns names"),
        (select("(dict (list 'x') (list other))"), "the name other"),
        (
            f"(call SelectMany {EVENTS} (lambda (list e) {PT}))",
            "SelectMany of the events: keep the lists with Select",
        ),
        (f"(call Count {EVENTS})", "Count of the events"),
        (
            select(f"(dict (list 'x') (list (OrderBy {PT} (lambda (list p) p))))"),
            "OrderBy: use a python query",
        ),
        (
            select(f"(dict (list 'x') (list (Where {PT} (lambda (list p) (> (attr e 'a') 1)))))"),
            "a Where whose lambda doesn't use its object",
        ),
        (
            select(
                f"(dict (list 'x') (list (Select {PT} (lambda (list p) (Count (Where "
                "(attr e 'Jet_pt') (lambda (list j) (> j p))))))))"
            ),
            "the objects of two lists together: use a python query",
        ),
        (select("(dict (list 'x') (list (dict (list 'y') (list 1))))"), r"{...}\.Zip\(\)"),
        (select("(dict (list 'x' 'x') (list 1 2))"), "a key twice"),
        (
            select(
                f"(dict (list 'Muon_pt' 'Muon') (list {PT} (Zip (dict (list 'eta') "
                "(list (attr e 'Muon_eta'))))))"
            ),
            "two columns would be called Muon_pt",
        ),
        (select("(dict (list 'x') (list (% (attr e 'a') 2)))"), "not allowed in an expression"),
        (f"(call Where {EVENTS} (lambda (list e) True))", "doesn't use the event"),
        (select("(- " * 400 + "1" + ")" * 400), "too deeply|too large"),
        ("x" * 60_000, "longer than 50,000 characters"),
    ],
)
def test_what_is_refused_says_what_to_use(selection: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check("uproot", selection)


def test_without_the_package_there_are_no_such_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(usable()) == {"looseleaf", "uproot-raw", "uproot", "python"}
    monkeypatch.setitem(sys.modules, "qastle", None)
    assert set(usable()) == {"looseleaf", "uproot-raw", "python"}
    with pytest.raises(ConfigError, match=r"pip install 'looseleaf\[func-adl\]'"):
        check("uproot", EVENTS)
