"""YAML files: what is written is what is read, or a sentence says what to write instead."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TEST_DATA, Snakemake

from looseleaf.config.settings import Settings, load
from looseleaf.errors import ConfigError, LooseleafError
from looseleaf.topcoffea.notebook import eft_analysis
from looseleaf.yaml_files import check_plain, read_yaml

pytestmark = pytest.mark.slow

Read = Callable[[str], dict[str, Any]]
Refused = Callable[[str | bytes], str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def of(text: str) -> dict[str, Any]:
        (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
        return read_yaml(tmp_path / "my.yaml")

    return of


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """The message with which a text is refused, from the file's name on."""

    def of(text: str | bytes) -> str:
        raw = text.encode() if isinstance(text, str) else text
        (tmp_path / "my.yaml").write_bytes(raw)
        with pytest.raises(LooseleafError) as problem:
            check_plain(read_yaml(tmp_path / "my.yaml"), "my.yaml")
        return str(problem.value).removeprefix(f"{tmp_path}/")

    return of


def test_keys_are_what_is_written(read: Read) -> None:
    text = "2018: 1\nNo: 2\n2018-01-01: 3\n0100: 4\n1.50: 5\n12:30: 6\n~: 7\n'9': 8\non: {y: 9}\n"
    assert read(text) == {
        "2018": 1, "No": 2, "2018-01-01": 3, "0100": 4, "1.50": 5, "12:30": 6, "~": 7, "9": 8,
        "on": {"y": 9},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e5", 100_000.0), ("5e-5", 0.00005), ("1.0e5", 100_000.0), ("1.0e+5", 100_000.0),
        ("-2E3", -2000.0), (".5", 0.5), ("1.", 1.0), ("+3", 3), ("1_000", 1000), ("0x1F", 31),
        ("100", 100), ("010.5", 10.5), ("0", 0), ("-0", 0), ("'0100'", "0100"), ("2018-01-01",) * 2,
        ('"1e5"', "1e5"), ("!!str 12", "12"), ("true", True), ("yes", True), ("off", False),
        ("null", None), ("~", None), ("", None), ("1.2.3", "1.2.3"), ("1e5x", "1e5x"), ("=", "="),
    ],
)  # fmt: skip
def test_values_are_what_is_meant(read: Read, written: str, value: object) -> None:
    found = read(f"a: {written}")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("written", "write"),
    [
        ("0100", '100, or "0100" in quotes if it is a text'),
        ("-0_17", '-17, or "-0_17" in quotes if it is a text'),
        ("089", '89, or "089" in quotes if it is a text'),
        ("0o17", '15, or "0o17" in quotes if it is a text'),
        ("0b101", '5, or "0b101" in quotes if it is a text'),
        ("0b12", '"0b12" in quotes'),
        ("12:30", '"12:30" in quotes'),
        ("1:30:00.5", '"1:30:00.5" in quotes'),
    ],
)
def test_numbers_that_versions_of_yaml_take_for_others(
    refused: Refused, written: str, write: str
) -> None:
    assert refused(f"x: 1\ndataset:\n  xsec_pb: [2, {written}]\n") == (
        f"my.yaml, line 3: dataset.xsec_pb.1: {written} is ambiguous in YAML; write {write}"
    )


@pytest.mark.parametrize("written", [".nan", ".inf", "-.inf", "1e400", "1.0e+400", ".NaN"])
def test_numbers_that_are_none(refused: Refused, written: str) -> None:
    assert "my.yaml: a.1.b: " in (message := refused(f"a: [1, {{b: {written}}}]"))
    assert message.endswith("is not a finite number; give one, or remove the key if it is optional")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n'a': 2\n", "my.yaml, line 2: 'a' is given twice"),
        ("a: {2018: 1,\n '2018': 2}", "my.yaml, line 2: '2018' is given twice"),
        ("d:\n  <<: {a: 1}\n  <<: {b: 1}", "my.yaml, line 3: '<<' is given twice"),
        ("? [a, b]\n: 1", "my.yaml, line 1: a key should be a word, not a list or a mapping"),
        ("x: {? {a: b} : 1}", "my.yaml, line 1: x: a key should be a word, not a list or a map"),
        ("a: 1\n? \n: 2", "my.yaml, line 2: a value has no key before its colon"),
        ("a: &a [*a]", "my.yaml, line 1: a.0: the anchor refers to itself; write out the value"),
        ("a: &a\n  b: {c: *a}", "my.yaml, line 1: a.b.c: the anchor refers to itself"),
        ("a: !!int x", "my.yaml, line 1: a: the tag !!int isn't used here; write the value with"),
        ("a: !!python/name:os.system", "the tag !!python/name:os.system isn't used here"),
        ("a: !!set {b}", "my.yaml, line 1: a: the tag !!set isn't used here"),
        ("!!int a: 1", "my.yaml, line 1: the tag !!int isn't used here"),
        ("a: 1\n---\nb: 2", "my.yaml, line 2: '---' begins another document; keep one to a file"),
        ("a:\n\tb: 1", "line 2, column 1"),
        ("- a\n- b", "my.yaml: should have keys with values, such as `name: value`"),
        ("text", "my.yaml: should have keys with values, such as `name: value`"),
        ("a: *b", "my.yaml: not valid YAML: found undefined alias 'b'"),
        ("d: {<<: 5}", "expected a mapping or list of mappings for merging, but found scalar"),
        ("a: " + "9" * 500, "my.yaml, line 1: a: 99999999999999999999... is too long for a number"),
        ("a: 9223372036854775808", "my.yaml: a: the number has too many digits"),
        ("[" * 5000, "my.yaml: lists or keys are nested too deeply"),
        ("a: " + "[" * 900 + "]" * 900, "my.yaml: lists or keys are nested too deeply"),
        ('a: ["\\0"]', r"my.yaml: a.0: has the character '\x00', which isn't allowed in text"),
        ('a: {"\\ud800": 1}', r"my.yaml: a: has the character '\ud800', which isn't allowed in"),
        ("a: 1\nb: é".encode("latin-1"), "my.yaml, line 2: the byte 0xe9 isn't UTF-8 (is the file"),
        ("a: 1".encode("utf-16"), "my.yaml: is UTF-16 or binary; save it as UTF-8 text"),
        ("a: 1".encode("utf-16-be"), "my.yaml: is UTF-16 or binary; save it as UTF-8 text"),
        (b"abcd: 1\nb\0: 2", r"my.yaml, line 2: has the control character '\x00'; remove it"),
        (b"a: 1\n\x1b[0m: 2", r"my.yaml, line 2: has the control character '\x1b'; remove it"),
    ],
)
def test_what_is_wrong_with_a_file(refused: Refused, text: str | bytes, message: str) -> None:
    assert message in refused(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LooseleafError, match=r": is a folder; name a file in it$"):
        read_yaml(tmp_path)
    with pytest.raises(LooseleafError, match=r"gone\.yaml: no such file"):
        read_yaml(tmp_path / "gone.yaml")
    with pytest.raises(LooseleafError, match=r"n\.yaml: can't be read: File name too long"):
        read_yaml(tmp_path / ("n" * 300 + "n.yaml"))


def test_a_byte_order_mark_and_no_content(read: Read) -> None:
    assert read("\ufeffa: 1") == {"a": 1}
    assert read("") == read("# nothing\n") == read("---\n") == {}


def test_merged_keys_may_be_given_again(read: Read) -> None:
    """What is nearer wins: a key of one's own, then the first of several mappings."""
    text = """
x-base: &base {a: 1, b: &list [1, 2]}
one: &one
  <<: *base
  b: 3
two: {<<: [*one, {c: 1, a: 9}], d: *list}
"""
    assert read(text) == {
        "one": {"a": 1, "b": 3},
        "two": {"a": 1, "b": 3, "c": 1, "d": [1, 2]},
    }
    # an anchor deeper than where it is used
    deep = "a:\n  b: &n\n    <<: &m {p: 1, q: 2}\n    q: 3\nc:\n  <<: *n\n  p: 5\n"
    assert read(deep) == {"a": {"b": {"p": 1, "q": 3}}, "c": {"p": 5, "q": 3}}
    # a number that is also a key stays one
    assert read("a: &k 5\n*k : 3\n") == {"a": 5, "5": 3}


@pytest.mark.parametrize("link", ["[{}]", "{{<<: [{}]}}"])
def test_anchors_that_stand_for_too_much(read: Read, refused: Refused, link: str) -> None:
    """Nine levels of ten would be a thousand million values; three are a thousand."""
    first = "a: &a {k: 1}\n"
    lines = [
        f"{name}: &{name} " + link.format(",".join([f"*{before}"] * 10))
        for before, name in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    message = refused(first + "\n".join(lines))
    assert "more than 200000 values with its anchors expanded; use fewer" in message
    assert list(read(first + "\n".join(lines[:3]))) == ["a", "b", "c", "d"]


CASES = TEST_DATA.parent / "cases"


@pytest.fixture
def case(
    main_config: dict[str, Any], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Settings]:
    """The settings of a case, with a text of datasets in place of its own and a name to measure."""
    if not CASES.is_dir():
        pytest.skip(f"no cases in {CASES}: name the folder beside it in LOOSELEAF_TEST_DATA")
    # the cases speak of themselves from a project's folder
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def settings(name: str, datasets: str | None = None, measured: str = "d") -> Settings:
        here = tmp_path / "shared/cases" / name
        shutil.copytree(CASES / name, here, dirs_exist_ok=True)
        if datasets is not None:
            (here / "datasets.yaml").write_text(datasets)
        text = (here / "a_d.yaml").read_text()
        (here / "a_d.yaml").write_text(text.replace("  - d\n", f"  - {measured}\n"))
        override = yaml.safe_load((here / "main.yaml").read_text())
        config = copy.deepcopy(main_config)
        for key, value in override.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
        return load(config, repo)

    return settings


def test_case_10_merge_keys(case: Callable[..., Settings]) -> None:
    found = case("10-yaml-merge-keys").datasets
    common = {"process": "qcd", "xsec_pb": 100_000, "files": ["a.root"], "data": False}
    for name in ("common", "d"):
        declared = {k: v for k, v in found[name].items() if k != "declared_in"}
        assert declared == {**common, "das": f"/{name}/x-v1/NANOAODSIM"}


DATASET = "  das: /d/x-v1/NANOAODSIM\n  process: qcd\n  files: [a.root]\n  xsec_pb: "


@pytest.mark.parametrize("name", ["2018", "No", "2018-01-01", "on", "1.5", "0100", "1e5"])
def test_case_11_names(case: Callable[..., Settings], name: str) -> None:
    """A dataset's name is what is written, with or without quotes."""
    found = case("11-yaml-names-and-numbers", f"{name}:\n{DATASET}1\n", f'"{name}"')
    assert list(found.datasets) == found.datasets_of("a_d") == [name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2018", "datasets.measure.0: 2018 should be of type string; put text in quotes, as"),
        ("No", "datasets.measure.0: False should be of type string; put text in quotes, as"),
        ("[d]", r"datasets.measure.0: ['d'] should be of type string"),
        ("0100", "datasets.measure.0: 0100 is ambiguous in YAML; write 100, o"),
        (
            "x-d",
            "datasets: 'x-d' is not declared; names that begin with x- are reserved for YAML "
            "anchors",
        ),
    ],
)
def test_case_11_names_in_lists(case: Callable[..., Settings], name: str, message: str) -> None:
    with pytest.raises(ConfigError) as problem:
        case("11-yaml-names-and-numbers", f"d:\n{DATASET}1\nx-d:\n{DATASET}1\n", name)
    assert "a_d.yaml" in str(problem.value)
    assert message in str(problem.value)


@pytest.mark.parametrize(
    ("written", "value"), [("1.0e5", 1e5), ("1e5", 1e5), ("1.0e+5", 1e5), ("100_000", 1e5)]
)
def test_case_11_numbers(case: Callable[..., Settings], written: str, value: float) -> None:
    found = case("11-yaml-names-and-numbers", f"d:\n{DATASET}{written}\n")
    assert found.datasets["d"]["xsec_pb"] == value


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("0100", 'line 5: d.xsec_pb: 0100 is ambiguous in YAML; write 100, or "'),
        ("12:30", "line 5: d.xsec_pb: 12:30 is ambiguous in YAML; write"),
        (".nan", "datasets.yaml: d.xsec_pb: nan is not a finite number"),
        (".inf", "datasets.yaml: d.xsec_pb: inf is not a finite number"),
        ("2018-01-01", "datasets.yaml: d.xsec_pb: '2018-01-01' should be of type number"),
    ],
)
def test_case_11_numbers_that_are_refused(
    case: Callable[..., Settings], written: str, message: str
) -> None:
    with pytest.raises(ConfigError) as problem:
        case("11-yaml-names-and-numbers", f"d:\n{DATASET}{written}\n")
    assert "11-yaml-names-and-numbers/datasets.yaml" in str(problem.value)
    assert message in str(problem.value)


def test_anchors_in_every_file(
    main_config: dict[str, Any], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file with a top-level x- key and a merge says the same as without."""

    def with_anchors(name: str, section: str) -> Path:
        """A shipped file of which a section's first key comes by a merge."""
        value = yaml.safe_load((repo / name).read_text())
        key, moved = next(iter(value[section].items()))
        del value[section][key]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = yaml.safe_dump({"x-mine": {key: moved}}, sort_keys=False)
        text = yaml.safe_dump(value, sort_keys=False)
        text = text.replace(f"{section}:\n", f"{section}:\n  <<: *mine\n", 1)
        path.write_text(mine.replace("x-mine:", "x-mine: &mine") + text)
        return path

    def meant(config: dict[str, Any]) -> dict[str, Any]:
        value = load(config, repo).to_json()
        for dataset in value["datasets"].values():
            del dataset["declared_in"]
        return value

    monkeypatch.chdir(tmp_path)
    plain = meant({**main_config, "site": "htcondor"})
    for name, section in (
        ("config/datasets/demo.yaml", "ttH_EFT"),
        ("config/analyses/muon.yaml", "binning"),
        ("config/analyses/tth_eft.yaml", "observables"),
        ("config/working_points.yaml", "Muon"),
        ("config/sites/htcondor.yaml", "cluster"),
    ):
        path = with_anchors(name, section)
        assert "<<: *mine" in path.read_text()
    branches = yaml.safe_load((repo / "config/branches.yaml").read_text())
    lines = [f"{key}: {value}\n" for key, value in branches.items()]
    (tmp_path / "config/branches.yaml").write_text(
        f"x-mine: &mine {{{lines[0].strip()}}}\n<<: *mine\n{''.join(lines[1:])}"
    )
    config = {**main_config, "site": "htcondor", "x-mine": {2018: float("nan")}}
    assert meant(config) == plain


def test_anchors_in_a_notebook(repo: Path, tmp_path: Path) -> None:
    text = (repo / "config/analyses/tth_eft.yaml").read_text()
    text = text.replace("  lep0_pt:\n", "  lep0_pt: &o\n").replace("  ht:\n", "  ht:\n    <<: *o\n")
    path = tmp_path / "eft.yaml"
    path.write_text(f"x-mine: 1\n{text}")
    sample = {"process": "ttH", "data": False, "wc_names": ["ctG", "ctp", "cpt"]}
    points = repo / "config/working_points.yaml"
    found, _ = eft_analysis(path, points, {"a": sample})
    plain, _ = eft_analysis(repo / "config/analyses/tth_eft.yaml", points, {"a": sample})
    assert found == plain
    path.write_text(text.replace("edges: [0, 40,", "edges: [.nan, 40,"))
    with pytest.raises(ConfigError, match=r"eft\.yaml: observables\.lep0_pt\.edges\.0: nan is no"):
        eft_analysis(path, points, {"a": sample})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("results: a\nresults: b\n", "override.yaml, line 2: 'results' is given twice"),
        ("samples:\n  seed: 0100\n", "override.yaml, line 2: samples.seed: 0100 is ambiguous"),
        ("samples: {scale: .nan}\n", "configuration: samples.scale: nan is not a finite"),
        (
            "samples: {seed: 2018-01-01}\n",
            "samples.seed: '2018-01-01' is neither text nor number; put",
        ),
        ("samples: {2018: 1}\n", "configuration: samples: "),
        ("samples: {scale: 1e-3}\n", "YAML takes 5e-5 as text: write 5.0e-5"),
    ],
)
def test_the_main_file_that_snakemake_reads(
    snakemake: Snakemake, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "override.yaml").write_text(text)
    run = snakemake("-n", "--configfile", str(tmp_path / "override.yaml"))
    assert run.status != 0
    assert message in run.text
    assert "Traceback" not in run.text


@pytest.mark.parametrize("key", [2018, None, True, 1.5])
def test_keys_that_snakemake_read_as_something_else(
    main_config: dict[str, Any], repo: Path, key: object
) -> None:
    config = {**main_config, "samples": {**main_config["samples"], key: 1}}
    with pytest.raises(ConfigError, match=r"configuration: samples: the key .* should be a text"):
        load(config, repo)
