"""Whatever stands in a configuration or a sample's file, reading it ends in a value or a sentence.

Files that are right are mutated: keys go, values become what people type by mistake and what
nobody would. Nothing but a `LooseleafError` may come of it.
"""

import copy
import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import places
from test_config_listed import SAMPLE

from looseleaf.config.listed import Listed, read_samples
from looseleaf.config.settings import load
from looseleaf.errors import LooseleafError
from looseleaf.topcoffea.notebook import eft_analysis
from looseleaf.yaml_files import check_plain, read_yaml

pytestmark = pytest.mark.slow

# how many examples is the profile's to say
PROPERTY = settings(deadline=None, derandomize=True)

ODD = st.one_of(
    st.sampled_from(
        [
            None, True, False, 0, 1, -1, 2**63, -(10**30), 10**400, 0.5, -0.0, 1e-320, 1e308,
            math.nan, math.inf, -math.inf, "", " ", "x", "No", "0100", "12:30", "1e5", "<<", "x-a",
            "a b", "a/b", "../..", "/", ".", "é", "\0", "\ud800", "n" * 300, "pt >", "(" * 200,
            "pt > 10", "n_lep == 2", "HLT_Mu8", "Muon", "loose", "tight", "SingleMuon", "data",
            "2018", 2018, "2016APV", 2024, datetime.date(2018, 1, 1), b"x", [], [[]], [None],
            [1, 1], [1, "a"], [1, 2], [2, 1], ["a", "a"], {}, {"a": 1}, {"up": 1}, {2018: 1},
            {None: {}}, {"2018": {}}, {True: []},
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)  # fmt: skip


def change(draw: st.DrawFn, tree: Any) -> None:
    container, key = draw(st.sampled_from(places(tree)))
    match draw(st.sampled_from(["replace", "replace", "delete", "rename", "wrap", "other"])):
        case "delete":
            del container[key]
        case "rename" if isinstance(container, dict):
            name = draw(ODD.filter(lambda v: not isinstance(v, (list, dict))))
            container[name] = container.pop(key)
        case "wrap":
            container[key] = [container[key]]
        case "other":
            other, place = draw(st.sampled_from(places(tree)))
            container[key] = copy.deepcopy(other[place])
        case _:
            container[key] = copy.deepcopy(draw(ODD))


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A tree with one, two or three things wrong."""
    tree = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        if places(tree):
            change(draw, tree)
    return tree


def shipped(*parts: str) -> list[str]:
    return sorted(str(p.relative_to(REPO)) for part in parts for p in (REPO / "config").glob(part))


MAIN = yaml.safe_load((REPO / "config/config.yaml").read_text())
# what the analyses of a file have to come after
BEFORE = [f"config/analyses/{name}.yaml" for name in ("muon", "electron", "flips")]
FILES = {
    name: yaml.safe_load((REPO / name).read_text())
    for name in (
        *shipped("datasets/*.yaml", "analyses/*.yaml", "sites/*.yaml"),
        *("config/working_points.yaml", "config/branches.yaml"),
    )
}


def config_with(name: str, path: Path) -> dict[str, Any]:
    """A main configuration that reads `path` instead of a shipped file."""
    config = {**copy.deepcopy(MAIN), "analyses": BEFORE}
    if "analyses/" in name:
        config["analyses"] = [*(one for one in BEFORE if one != name), str(path)]
        config["datasets"] = [
            f"config/datasets/{one}.yaml"
            for one in (
                "real"
                if "real_" in name
                else "qcd_muenriched_2021"
                if "2021_all" in name
                else "demo",
            )
        ]
    elif "datasets/" in name:
        config["datasets"] = [str(path)]
    elif "sites/" in name:
        config["site"] = path.stem
    else:
        config[Path(name).stem] = str(path)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


def written(path: Path, value: Any) -> Path:
    """A value as YAML; what YAML can't say as JSON, which is YAML too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(value, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def ends_well(read: Any, *arguments: Any) -> None:
    """In a value, or in a sentence."""
    sentence = "a value, which needs none"
    try:
        read(*arguments)
    except LooseleafError as problem:
        sentence = str(problem)
    assert len(sentence) > 20


@PROPERTY
@given(st.data())
def test_a_mutated_file_of_the_configuration(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(FILES)))
    value = data.draw(mutated(FILES[name]))
    with pytest.MonkeyPatch.context() as patch:
        # sites are looked for by name, first from the working folder
        patch.chdir(folder)
        path = written(folder / "config/sites/mutated.yaml", value)
        ends_well(load, config_with(name, path), REPO)


@PROPERTY
@given(st.data())
def test_a_mutated_main_configuration(data: st.DataObject) -> None:
    """Snakemake reads it, so any value may come."""
    config = {**MAIN, "analyses": ["config/analyses/muon.yaml"]}
    ends_well(load, data.draw(mutated(config)), REPO)


@PROPERTY
@given(st.data())
def test_a_mutated_analysis_of_a_notebook(folder: Path, data: st.DataObject) -> None:
    """With what it applies, and of samples in TopEFT's form."""
    name = data.draw(st.sampled_from(["tth_eft", "thq", "ftanalysis"]))
    path = written(folder / "eft.yaml", data.draw(mutated(FILES[f"config/analyses/{name}.yaml"])))
    measured = written(folder / "muon.yaml", data.draw(mutated(FILES[BEFORE[0]])))
    sample = folder / "tHq.json"
    sample.write_text(json.dumps({**SAMPLE, "WCnames": ["ctG", "ctp", "cpt", "cptb"]}))
    ends_well(
        eft_analysis,
        path,
        REPO / "config/working_points.yaml",
        read_samples(sample),
        [measured, REPO / BEFORE[1]],
    )


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


WORDS = st.sampled_from(
    [
        *(
            "a: ",
            "b:\n",
            "- ",
            "  ",
            "? ",
            ": ",
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "!x ",
            "--- ",
            "...",
        ),
        *(
            "[",
            "]",
            "{",
            "}",
            ",",
            "'",
            '"',
            "|\n",
            ">\n",
            "#",
            "%YAML 1.2\n",
            "\n",
            "\t",
            "0x",
            "_",
        ),
        *(
            "0100",
            "12:30",
            "1e5",
            ".nan",
            "2018-01-01",
            "No",
            "~",
            "é",
            "\x85",
            "\ufeff",
            "\\u",
            "=",
        ),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(WORDS, max_size=20).map("".join))


@PROPERTY
@given(st.one_of(TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary()))
def test_any_text_as_yaml_and_as_samples(folder: Path, raw: bytes) -> None:
    path = folder / "any.yaml"
    path.write_bytes(raw)

    def read() -> None:
        value = read_yaml(path)
        check_plain(value, "any.yaml")
        # what was read can be written down, and is read as the same
        json.dumps(value, allow_nan=False).encode()
        again = written(folder / "again.yaml", value)
        assert read_yaml(again) == value

    ends_well(read)
    for name in ("any.cfg", "any.json"):
        (folder / name).write_bytes(raw)
        ends_well(read_samples, folder / name)
        ends_well(read_samples, folder / name, Listed())


CFG = ["# samples", "root://here.example//", "tHq.json", "file:///data/", "other.json  # too"]


@PROPERTY
@given(st.data())
def test_mutated_samples(folder: Path, data: st.DataObject) -> None:
    """Of two samples one is right, or both: what is read adds up to what is listed."""
    sample = data.draw(mutated(SAMPLE))
    text = json.dumps(sample, default=str, skipkeys=True)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(max_size=3)) + text[place + 1 :]
    (folder / "tHq.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    (folder / "other.json").write_text(json.dumps({**SAMPLE, "files": ["/other.root"]}))
    listed = Listed()
    (folder / "samples.cfg").write_text("\n".join(CFG))
    found = read_samples(folder / "samples.cfg", listed)
    assert set(found) | set(listed.problems) == {"tHq", "other"}
    assert len(found) + len(listed.problems) == 2
    for declared in found.values():
        json.dumps(declared, allow_nan=False).encode()
        assert declared["xsec_pb"] > 0 if not declared["data"] else True
    lines = data.draw(mutated(CFG))
    (folder / "lines.cfg").write_text("\n".join(map(str, lines)), errors="surrogatepass")
    ends_well(read_samples, folder / "lines.cfg", Listed())
