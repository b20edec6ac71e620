"""Samples in TopEFT's form: read as they are, refused with file and key."""

import json
from pathlib import Path
from typing import Any

import pytest

from looseleaf.errors import ConfigError
from looseleaf.records import read_catalogue
from looseleaf.topcoffea.samples import read_samples, write_sample_catalogue

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
        ({"nSumOfWeights_ISRUp": 0}, "nSumOfWeights_ISRUp: 0 should be a positive number"),
        ({"xsec": -1}, "xsec: -1 should be a positive number"),
        ({"year": 2019}, "year: '2019' is not one of 2016APV, 2016, 2017, 2018"),
        ({"isData": True}, "WCnames: data has no Wilson coefficients"),
        ({"WCnames": ["a", "a"]}, "WCnames: a coefficient is there twice"),
        ({"WCnames": "absent"}, "the key 'WCnames' is missing"),
        ({"treeName": "tree"}, "treeName: 'tree': NanoAOD's is Events"),
        ({"files": []}, "files: there are none"),
        ({"files": ["a", "a"]}, r"files: \['a'\] is there twice"),
        ({"histAxisName": "t t"}, "histAxisName: 't t' should be a word"),
        ({"WCnames": "ctG"}, "WCnames: 'ctG' should be a list of texts"),
        ({"WCnames": [1, 2]}, r"WCnames: \[1, 2\] should be a list of texts"),
        ({"WCnames": None}, "WCnames: None should be a list of texts"),
        ({"WCnames": ["sm", "ctG"]}, "WCnames: 'sm' is the Standard Model, no coefficient"),
        ({"files": "a.root"}, "files: 'a.root' should be a list of texts"),
        ({"isData": "False"}, "isData: 'False' should be true or false"),
        ({"nEvents": -5}, "nEvents: -5 should be a number of events"),
        ({"nEvents": "x"}, "nEvents: 'x' should be a number of events"),
        ({"xsec": float("inf")}, "xsec: inf should be a positive number"),
        ({"xsec": True}, "xsec: True should be a positive number"),
        ({"nSumOfWeights": float("nan")}, "nSumOfWeights: nan should be a positive number"),
    ],
)
def test_what_is_wrong_with_a_sample(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "tHq.json", **changes)
    with pytest.raises(ConfigError, match=f"tHq.json: {message}"):
        read_samples(path)


def test_what_is_wrong_with_a_cfg(tmp_path: Path) -> None:
    written(tmp_path / "tHq.json")
    cfg = tmp_path / "samples.cfg"
    cfg.write_text("tHq.json\ntHq.json\n")
    with pytest.raises(ConfigError, match=r"samples\.cfg: the sample 'tHq' is listed twice"):
        read_samples(cfg)
    cfg.write_text("root://somewhere//\ngone.json\n")
    with pytest.raises(ConfigError, match=r"samples\.cfg, line 2: there is no file 'gone\.json'"):
        read_samples(cfg)
    cfg.write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"samples\.cfg: lists no sample"):
        read_samples(cfg)
    cfg.write_text("tHq.jsn\n")
    with pytest.raises(ConfigError, match=r"line 1: 'tHq\.jsn' is neither a JSON file nor a redir"):
        read_samples(cfg)
    twice = json.dumps(SAMPLE)[:-1] + ', "xsec": 3.0}'
    (tmp_path / "tHq.json").write_text(twice)
    cfg.write_text("tHq.json\n")
    with pytest.raises(ConfigError, match=r"tHq\.json: xsec: is there twice"):
        read_samples(cfg)
    (tmp_path / "tHq.json").write_text("{")
    cfg.write_text("tHq.json\n")
    with pytest.raises(ConfigError, match=r"tHq\.json: not valid JSON"):
        read_samples(cfg)
