"""Samples in TopEFT's form: read as they are, refused with file and key."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TEST_DATA

from looseleaf.config.listed import REQUIRED, Listed, read_samples, write_sample_catalogue
from looseleaf.errors import ConfigError, LooseleafError
from looseleaf.stage_files import read_catalogue

SAMPLE: dict[str, Any] = {
    "xsec": 0.07096,
    "year": "2018",
    "treeName": "Events",
    "histAxisName": "tHq_private2018",
    "options": "",
    "WCnames": ["ctG", "ctp"],
    "files": ["/store/user/someone/tHq/output_1.root", "/store/user/someone/tHq/output_2.root"],
    "nEvents": 2000,
    "nGenEvents": 2000,
    "nSumOfWeights": 345.4,
    "isData": False,
    "path": "/store/user/someone/tHq/",
    "nSumOfWeights_ISRUp": 345.5,
    "nSumOfWeights_ISRDown": 345.3,
    "nSumOfWeights_renormDown_factUp": 361.5,
}


def written(path: Path, **changes: Any) -> Path:
    value = {k: v for k, v in {**SAMPLE, **changes}.items() if v != "absent"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_a_sample_file_is_read_as_it_is(tmp_path: Path) -> None:
    found = read_samples(written(tmp_path / "tHq.json", year=2018))
    assert found == {
        "tHq": {
            "das": "/tHq/listed-2018/USER",
            "process": "tHq_private2018",
            "data": False,
            "year": "2018",
            "xsec_pb": 0.07096,
            "wc_names": ["ctG", "ctp"],
            "sums_of_weights": {"ISRUp": 345.5, "ISRDown": 345.3, "renormDown_factUp": 361.5},
            "listed": {
                "file": str(tmp_path / "tHq.json"),
                "redirector": "",
                "events": 2000,
                "sum_of_weights": 345.4,
            },
        }
    }


CFG = """# the samples of a test
root://somewhere.example//

../jsons/tHq.json   # a signal
#../jsons/off.json
file:///data/
../jsons/muons.json
"""


def test_a_cfg_lists_redirectors_and_samples(tmp_path: Path) -> None:
    written(tmp_path / "jsons/tHq.json")
    data = {"isData": True, "WCnames": [], "xsec": 1, "nSumOfWeights": "absent"}
    written(tmp_path / "jsons/muons.json", **data)
    (tmp_path / "cfgs").mkdir()
    (tmp_path / "cfgs/all.cfg").write_text(CFG)
    found = read_samples(tmp_path / "cfgs/all.cfg")
    assert [(n, d["data"], d["listed"]["redirector"]) for n, d in found.items()] == [
        ("tHq", False, "root://somewhere.example//"),
        ("muons", True, "/data/"),
    ]
    assert "xsec_pb" not in found["muons"]
    write_sample_catalogue(found["tHq"], tmp_path / "catalogue.json")
    records = read_catalogue(tmp_path / "catalogue.json")["/tHq/listed-2018/USER"]
    assert [record.url for record in records] == [
        f"root://somewhere.example//store/user/someone/tHq/output_{n}.root" for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nSumOfWeights": "absent"}, "nSumOfWeights: None should be a positive number"),
        ({"nSumOfWeights": -3.0}, "nSumOfWeights: -3.0 should be a positive number"),
        ({"nSumOfWeights_ISRUp": "0"}, "nSumOfWeights_ISRUp: '0' should be a positive number"),
        ({"xsec": -1}, "xsec: -1 should be a positive number"),
        ({"year": 2019}, "year: '2019' is not one of 2016APV, 2016, 2017, 2018"),
        ({"isData": True}, "WCnames: data has no Wilson coefficients"),
        ({"WCnames": ["a", "a"]}, "WCnames: a coefficient is listed twice"),
        ({"WCnames": "absent"}, "the key 'WCnames' is missing"),
        ({"treeName": "tree"}, "treeName: 'tree': NanoAOD's is Events"),
        ({"files": []}, "files: there are none"),
        ({"files": ["a", "a"]}, r"files: \['a'\] is listed twice"),
        ({"histAxisName": " - "}, "histAxisName: ' - ' should be the name of a process"),
        ({"histAxisName": 5}, "histAxisName: 5 should be the name of a process"),
        ({"histAxisName": "t" * 201}, "histAxisName: 't{96}.* has more than 200 characters"),
        ({"WCnames": "ctG"}, "WCnames: 'ctG' should be a list of texts"),
        ({"WCnames": [1, 2]}, r"WCnames: \[1, 2\] should be a list of texts"),
        ({"WCnames": None}, "WCnames: None should be a list of texts"),
        (
            {"WCnames": ["sm", "ctG"]},
            "WCnames: 'sm' stands for the Standard Model and can't be a coefficient",
        ),
        ({"files": "a.root"}, "files: 'a.root' should be a list of texts"),
        ({"isData": "False"}, "isData: 'False' should be true or false"),
        ({"nEvents": -5}, "nEvents: -5 should be a number of events"),
        ({"nEvents": "x"}, "nEvents: 'x' should be a number of events"),
        ({"nEvents": 2000.5}, "nEvents: 2000.5 should be a number of events"),
        ({"nEvents": True}, "nEvents: True should be a number of events"),
        ({"nEvents": float("nan")}, "nEvents: nan should be a number of events"),
        ({"nEvents": float("inf")}, "nEvents: inf should be a number of events"),
        ({"xsec": 10**400}, "xsec: 10{96}.* should be a positive number"),
        ({"WCnames": ["ct_G"]}, "WCnames: 'ct_G' should be a word of letters and digits"),
        ({"files": [["a"]]}, r"files: \[\['a'\]\] should be a list of texts"),
        ({"files": ["a\0"]}, r"files: \['a\\x00'\] should be a list of texts"),
        ({"files": [""]}, r"files: \[''\] should be a list of texts"),
        ({"year": ["2018"]}, r"year: \"\['2018'\]\" is not one of"),
        ({"isData": []}, r"isData: \[\] should be true or false"),
        ({"xsec": float("inf")}, "xsec: inf should be a positive number"),
        ({"xsec": True}, "xsec: True should be a positive number"),
        ({"nSumOfWeights": float("nan")}, "nSumOfWeights: nan should be a positive number"),
    ],
)
def test_what_is_wrong_with_a_sample(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "tHq.json", **changes)
    with pytest.raises(ConfigError, match=f"tHq.json: {message}"):
        read_samples(path)


def test_a_sample_that_is_wrong_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    """What is wrong with it is a sentence by its name, for those who use it."""
    written(tmp_path / "tHq.json")
    written(tmp_path / "bad.json", xsec=-1)
    written(tmp_path / "copy.json", files=["/other.root", SAMPLE["files"][1]])
    (tmp_path / "twice.json").write_text(json.dumps(SAMPLE)[:-1] + ', "xsec": 3.0}')
    (tmp_path / "cut.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "latin.json").write_bytes("{\n'é': 1}".encode("latin-1"))
    (tmp_path / "with space.json").write_text("{}")
    (tmp_path / "folder.json").mkdir()
    lines = ["root://here//", "tHq.json", "tHq.jsn", "bad.json", "gone.json", "copy.json"]
    lines += ["twice.json", "cut.json", "list.json", "deep.json", "latin.json", "with space.json"]
    lines += ["folder.json", "jsons/FixJsons.py", "n" * 300 + ".json"]
    cfg = tmp_path / "samples.cfg"
    cfg.write_text("\n".join(lines))
    listed = Listed()
    assert list(read_samples(cfg, listed)) == ["tHq"]
    assert listed.remarks == []
    # what isn't read leaves no files behind that another could share
    assert len(listed.files) == 2
    start = f"{tmp_path}/"
    found = {name: text.removeprefix(start) for name, text in listed.problems.items()}
    shared = "root://here//store/user/someone/tHq/output_2.root"
    assert found.pop("n" * 300).startswith("samples.cfg, line 15: the file 'nnn")
    assert found.pop("deep").startswith("deep.json: not valid JSON (")
    assert found.pop("cut").startswith("cut.json: not valid JSON (")
    assert found == {
        "tHq": "samples.cfg, line 3: 'tHq.jsn' is not a sample; a sample is a JSON file",
        "bad": "bad.json: xsec: -1 should be a positive number",
        "gone": "samples.cfg, line 5: the file 'gone.json' does not exist",
        "copy": (
            f"copy.json: files: {shared} already belongs to 'tHq', so its events would count "
            "twice; "
            "list one of the two samples"
        ),
        "twice": "twice.json: xsec: is given twice",
        "list": "list.json: a sample is a JSON object with " + ", ".join(REQUIRED),
        "latin": (
            "latin.json, line 2: the byte 0xe9 isn't UTF-8 (is the file Latin-1?); save it as "
            "UTF-8 text"
        ),
        "with space": (
            "with space.json: a sample has the name of its file, which may have up to 200 "
            "letters, digits, _, - and ."
        ),
        "folder": "samples.cfg, line 13: the file 'folder.json' does not exist",
        "FixJsons": (
            "samples.cfg, line 14: 'jsons/FixJsons.py' is not a sample; a sample is a JSON file"
        ),
    }
    # by itself, where nothing says which are used, each of them is an error
    with pytest.raises(ConfigError, match=r"line 3: 'tHq\.jsn' is not a sample"):
        read_samples(cfg)


def test_a_line_that_is_no_sample_is_no_redirector_either(tmp_path: Path) -> None:
    """Files of all that follow would be looked for below it."""
    written(tmp_path / "tHq.json")
    cfg = tmp_path / "samples.cfg"
    cfg.write_text("root://here//\njsons/FixJsons.py\ntHq.json\n")
    found = read_samples(cfg, Listed())
    assert found["tHq"]["listed"]["redirector"] == "root://here//"
    for line in ("root:/here", "here", "root://one root://two", "root:/here.py"):
        cfg.write_text(f"root://here//\n{line}\ntHq.json\n")
        with pytest.raises(
            ConfigError, match=r"line 2: .* is neither a JSON file nor a redirector"
        ):
            read_samples(cfg, Listed())


def test_a_sample_that_is_listed_again_counts_once(tmp_path: Path) -> None:
    """In one cfg file or in several; behind another redirector it may be another."""
    path = written(tmp_path / "jsons/tHq.json")
    one, other = tmp_path / "one.cfg", tmp_path / "other.cfg"
    one.write_text("root://here//\njsons/tHq.json\n./jsons/../jsons/tHq.json\n")
    other.write_text(f"root://here//\n{path}\n")
    listed = Listed()
    assert list(read_samples(one, listed)) == ["tHq"]
    assert read_samples(other, listed) == {}
    assert listed.problems == {}
    assert listed.remarks == [
        f"{one}: tHq is listed twice and counts once",
        f"{other}: tHq is listed twice and counts once",
    ]
    other.write_text(f"root://there//\n{path}\n")
    with pytest.raises(ConfigError, match=r"two samples are called 'tHq': .* behind root://here//"):
        read_samples(other, listed)
    written(tmp_path / "mine/tHq.json", files=["/mine.root"])
    other.write_text("root://here//\nmine/tHq.json\n")
    with pytest.raises(ConfigError, match="two samples are called 'tHq'"):
        read_samples(other, listed)


@pytest.mark.parametrize(
    ("name", "process"),
    [
        ("ttHnobb-1Jets_central2022", "ttHnobb_1Jets_central2022"),
        (" TZQB-Zto2L-4FS_MLL-30_central2022", "TZQB_Zto2L_4FS_MLL_30_central2022"),
        ("4tops", "p4tops"),
        ("t t", "t_t"),
        ("_x", "p_x"),
        ("WW+jets/é", "WW_jets__"),
    ],
)
def test_processes_have_names_that_results_can_use(tmp_path: Path, name: str, process: str) -> None:
    listed = Listed()
    path = written(tmp_path / "tHq.json", histAxisName=name)
    found = read_samples(path, listed)["tHq"]
    assert (found["process"], found["listed"]["process"]) == (process, name)
    assert listed.remarks == [
        f"{path}: names of processes take letters, digits and _ only: {process} for {name}"
    ]


def test_files_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path / "tHq.json")
    path.write_text(path.read_text(), encoding="utf-8-sig")
    cfg = tmp_path / "samples.cfg"
    cfg.write_text("root://here//\r\ntHq.json\r\n", encoding="utf-8-sig")
    assert read_samples(cfg)["tHq"]["listed"]["redirector"] == "root://here//"


def test_numbers_of_events_may_be_floats(tmp_path: Path) -> None:
    found = read_samples(written(tmp_path / "tHq.json", nEvents=148654795.0))
    events = found["tHq"]["listed"]["events"]
    assert (events, type(events)) == (148654795, int)


def test_sums_that_cannot_normalise_are_left_out(tmp_path: Path) -> None:
    listed = Listed()
    path = written(tmp_path / "tHq.json", nSumOfWeights_ISRUp=-3.5, nSumOfWeights_ISRDown=0)
    found = read_samples(path, listed)["tHq"]
    assert found["sums_of_weights"] == {"renormDown_factUp": 361.5}
    assert listed.remarks == [
        f"{path}: nSumOfWeights_ISRUp, nSumOfWeights_ISRDown should be positive; the "
        "variation can't be normalised"
    ]


def test_paths_that_were_written_for_another_folder(tmp_path: Path) -> None:
    """What they climb to is looked for above the cfg file, no further than they climb."""
    right = written(tmp_path / "in/jsons/tHq.json")
    cfg = tmp_path / "in/cfgs/samples.cfg"
    cfg.parent.mkdir()
    cfg.write_text("../../jsons/tHq.json\n")
    listed = Listed()
    found = read_samples(cfg, listed)
    assert Path(found["tHq"]["listed"]["file"]) == right
    assert listed.remarks == [
        f"{cfg}: ../../jsons/tHq.json does not exist relative to this file; {right} is read instead"
    ]
    # as it is written comes first
    first = written(tmp_path / "jsons/tHq.json")
    listed = Listed()
    assert Path(read_samples(cfg, listed)["tHq"]["listed"]["file"]).resolve() == first
    assert listed.remarks == []
    first.unlink()
    # no further up than the path climbs, and not at all if it doesn't
    (cfg.parent / "deep").mkdir()
    for line, folder in (("../jsons/tHq.json", "deep"), ("cfgs/../jsons/tHq.json", "deep")):
        far = cfg.parent / folder / "far.cfg"
        far.write_text(f"{line}\n")
        listed = Listed()
        read_samples(far, listed)
        assert listed.problems == {"tHq": f"{far}, line 1: the file {line!r} does not exist"}


def test_what_is_wrong_with_a_cfg(tmp_path: Path) -> None:
    cfg = tmp_path / "samples.cfg"
    cfg.write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"samples\.cfg: lists no sample"):
        read_samples(cfg)
    listed = Listed(problems={"of": "another file"})
    with pytest.raises(ConfigError, match=r"samples\.cfg: lists no sample"):
        read_samples(cfg, listed)
    for raw, message in (
        ("tHq.json\n".encode("utf-16"), "is UTF-16 or binary; save it as UTF-8 text"),
        (b"tHq.json\n\xe9.json\n", "line 2: the byte 0xe9 isn't UTF-8"),
        (b"tHq.json\n\n\0.json\n", "line 3: has the control character"),
    ):
        cfg.write_bytes(raw)
        with pytest.raises(LooseleafError, match=message):
            read_samples(cfg)


TOPEFT = TEST_DATA / "topeft/input_samples"
# lines of TopEFT's cfg files that are no sample: four JSON files aren't there, one is no JSON
# file, one sample has no files
UNUSABLE = {"TTto4Q", "WZto3LNu-2Jets", "WZto3LNu", "WZZ", "FixJsons", "Muon_F-22Sep2023"}


@pytest.fixture(scope="module")
def topeft() -> Path:
    if not TOPEFT.is_dir():
        pytest.skip(f"no sample files in {TOPEFT}: name the parent in LOOSELEAF_TEST_DATA")
    return TOPEFT


def test_all_of_topefts_samples_are_read(topeft: Path) -> None:
    """All eight cfg files as one configuration, then those samples that no cfg file lists."""
    listed = Listed()
    samples: dict[str, dict[str, Any]] = {}
    counts = {}
    for cfg in sorted((topeft / "cfgs").glob("*.cfg")):
        found = read_samples(cfg, listed)
        counts[cfg.name] = len(found)
        samples |= found
    # grep -c '^[^#]*\.json' of each, less the four files that aren't there and Muon_F
    assert counts == {
        "2022EE_data_samples.cfg": 7,
        "2022_data_samples.cfg": 6,
        "2022_mc_background_samples.cfg": 33,
        "2022_mc_signal_samples.cfg": 7,
        "data_samples.cfg": 86,
        "mc_background_samples.cfg": 124,
        "mc_central_signal_samples.cfg": 20,
        "mc_signal_samples.cfg": 24,
    }
    assert set(listed.problems) == UNUSABLE
    stated = {path.stem: json.loads(path.read_text()) for path in topeft.rglob("*.json")}
    assert len(stated) == 340
    read = dict(samples)
    for path in topeft.rglob("*.json"):
        if path.stem not in {*samples, *UNUSABLE}:
            # by themselves, since some have files of others
            alone = Listed()
            read |= read_samples(path, alone)
            assert alone.problems == {}
    assert set(stated) - set(read) == {"Muon_F-22Sep2023"}
    assert sum(len(sample["files"]) for sample in stated.values()) == 19_697
    assert sum(sample["listed"]["events"] for sample in read.values()) == 15_063_717_303
    assert len(listed.files) == sum(len(stated[name]["files"]) for name in samples)
    for name, sample in read.items():
        of = stated[name]
        assert sample["data"] is of["isData"]
        assert sample["year"] == of["year"]
        assert sample.get("wc_names", []) == of["WCnames"]
        if not of["isData"]:
            assert sample["xsec_pb"] == of["xsec"]
            assert sample["listed"]["sum_of_weights"] == of["nSumOfWeights"]
    processes = {
        of["histAxisName"]: read[name]["process"] for name, of in stated.items() if name in read
    }
    # one name in results for one of TopEFT's, and another for another
    assert len(set(processes.values())) == len(processes)
    assert sum("process" in sample["listed"] for sample in read.values()) == 37
    # sums that are negative in TopEFT's own file
    assert set(read["2022_TZQB-4FS_OnshellZ"]["sums_of_weights"]) == {
        *("ISRDown", "FSRUp", "renormDown", "factUp", "renormDown_factUp", "renormfactUp")
    }
