"""The configuration's schemas explain themselves: every key has a description, and its default."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Resource

from looseleaf.cluster import slurm
from looseleaf.config.kinds import KINDS
from looseleaf.config.schemas import COMMON, check, registry, schema
from looseleaf.errors import ConfigError
from looseleaf.layout import schemas
from looseleaf.objects.analysis import Section
from looseleaf.samples.generate import plan
from looseleaf.samples.physics import PROMPT_TIGHT
from looseleaf.yaml_files import read_yaml

NAMES = sorted({path.name.partition(".")[0] for path in schemas().iterdir()} - {COMMON})


@dataclass(frozen=True)
class Key:
    """A key of a configuration file: its path, as `triggers[].paths` or `<name>.das`, its schema
    with what that refers to, and whether it may be left out."""

    path: str
    said: Mapping[str, Any]
    optional: bool

    def takes(self, value: Any) -> bool:
        return bool(jsonschema.Draft202012Validator(self.said).is_valid(value))


def test_schemas_read_the_same_by_our_reader_of_yaml() -> None:
    for name in (*NAMES, COMMON):
        assert schema(name) == read_yaml(schemas() / f"{name}.schema.yaml"), name


@cache
def keys_of(name: str) -> tuple[Key, ...]:
    file = f"{name}.schema.yaml"
    known = registry().with_resource(file, Resource.from_contents(schema(name)))
    return tuple(_keys(_written_out(schema(name), known.resolver(file)), ""))


def _written_out(part: Any, resolver: Any) -> Any:
    """A schema with what it refers to in place; what stands beside a reference wins."""
    if isinstance(part, list):
        return [_written_out(one, resolver) for one in part]
    if not isinstance(part, dict):
        return part
    own = {k: _written_out(v, resolver) for k, v in part.items() if k not in ("$ref", "$defs")}
    if "$ref" not in part:
        return own
    found = resolver.lookup(part["$ref"])
    return {**_written_out(found.contents, found.resolver), **own}


def _keys(part: Any, at: str) -> Iterator[Key]:
    if not isinstance(part, dict):
        return
    for name, value in part.get("properties", {}).items():
        # a key that is false may not be there together with others
        if isinstance(value, dict):
            key = Key(f"{at}.{name}".strip("."), value, name not in part.get("required", ()))
            yield key
            yield from _keys(value, key.path)
    yield from _keys(part.get("items"), f"{at}[]")
    yield from _keys(part.get("additionalProperties"), f"{at}.<name>".strip("."))
    for one in (*part.get("oneOf", ()), *part.get("allOf", ()), part.get("then"), part.get("else")):
        yield from _keys(one, at)


def by_path(name: str) -> dict[str, Key]:
    return {key.path: key for key in keys_of(name)}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_and_every_key_is_described_in_sentences(name: str) -> None:
    said = [("the file", schema(name)), *((key.path, key.said) for key in keys_of(name))]
    assert [path for path, one in said if not _is_prose(one.get("description", ""))] == []


def _is_prose(text: str) -> bool:
    return text.endswith(".") and text[:1].isupper() and "\n" not in text


def test_keys_of_all_depths_are_looked_at() -> None:
    expected = {
        "application": {"datasets.observe", "triggers[].primary", "jets.btag.min"},
        "datasets": {"<name>.das", "<name>.sample.charge_flips.endcap"},
        "efficiency": {"passing.filter_bits", "corrections.<name>.variations.up"},
        "fakerate": {"systematics.prompt.up", "triggers[].prescale", "allow.empty_bins"},
        "site": {"address", "cluster.walltime"},
        "topcoffea": {"channels.<name>.lep_chan_lst", "systematics.shape.<name>.correlated"},
        "working_points": {"<name>.<name>.cone_pt"},
    }
    for name, paths in expected.items():
        assert paths - set(by_path(name)) == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_key_that_may_be_left_out_has_a_default_that_may_be_written(name: str) -> None:
    optional = [key for key in keys_of(name) if key.optional]
    assert [key.path for key in optional if "default" not in key.said] == []
    # null: not done; nothing in it: as if it weren't there
    written = [key for key in optional if key.said["default"] not in (None, [], {})]
    assert [key.path for key in written if not key.takes(key.said["default"])] == []
    # the main configuration's own file has what others may leave out
    required = [key for key in keys_of(name) if not key.optional and name != "config"]
    assert [key.path for key in required if "default" in key.said] == []


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_of_analyses_are_those_of_their_classes(kind: str) -> None:
    keys = {path: key for path, key in by_path(kind).items() if path != "kind"}
    defaults = dict(_fields(KINDS[kind].analysis))
    sections = {"", *(path.rpartition(".")[0] for path in defaults)}
    assert "allow" in sections
    assert {path for path in keys if path.rpartition(".")[0] in sections} - set(defaults) == set()
    needed = {path for path, default in defaults.items() if default is MISSING}
    assert {path for path in needed if path not in keys or keys[path].optional} == set()
    optional = [path for path in defaults if path in keys and keys[path].optional]
    assert {p: keys[p].said["default"] for p in optional} == {p: defaults[p] for p in optional}


def _fields(section: type[Section], at: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a section and of sections in it, with their defaults as YAML has them."""
    for one in fields(section):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        yield at + one.name, default if default is MISSING else _plain(default)
        if isinstance(one.type, type) and issubclass(one.type, Section):
            yield from _fields(one.type, f"{at}{one.name}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value


def test_defaults_of_the_main_configuration_are_its_own(repo: Path) -> None:
    main = yaml.safe_load((repo / "config/config.yaml").read_text())
    values = dict(_leaves(main))
    keys = {key.path: key.said for key in keys_of("config")}
    assert set(values) == set(keys) - set(_sections(main))
    without = [path for path in values if "default" not in keys[path]]
    assert without == ["datasets", "analyses"]
    for path, value in values.items():
        if path not in without:
            assert (path, keys[path]["default"]) == (path, value)


def _sections(value: Mapping[str, Any]) -> list[str]:
    return [name for name, one in value.items() if isinstance(one, dict)]


def _leaves(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, dict):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in one.items())
        else:
            yield name, one


def test_other_defaults_are_those_of_the_code() -> None:
    sample = by_path("datasets")
    assert sample["<name>.sample.prompt_tight"].said["default"] == PROMPT_TIGHT
    declared = {"das": "/A/B/C", "data": True, "sample": {"kind": "data", "files": 1}}
    declared["sample"] |= {"sum_of": [], "lumi_ifb": 1.0}
    settings = {"seed": 1, "scale": 1.0, "step": 1, "compression": "lz4"}
    (file,) = plan("a", {"a": declared}, settings, Path(), "")
    assert file.data_flavour == sample["<name>.sample.flavour"].said["default"]
    name = by_path("site")["cluster.job_name"].said["default"]
    assert slurm.tagged({}, "1")["job_name"] == f"{name}-1"


def test_what_is_expected_is_said_in_errors_and_the_description_is_not() -> None:
    allowed = {"pattern": "^a+$", "description": "A word.", "x-expected": "a word of a's"}
    with pytest.raises(ConfigError) as problem:
        check({"key": "b"}, {"properties": {"key": allowed}}, "file.yaml")
    assert str(problem.value) == "file.yaml: key: 'b' should be a word of a's"
    del allowed["x-expected"]
    with pytest.raises(ConfigError, match="'b' should be something like \\^a\\+\\$"):
        check({"key": "b"}, {"properties": {"key": allowed}}, "file.yaml")


def test_an_error_below_a_reference_names_file_and_key_and_the_nearest_one(repo: Path) -> None:
    analysis = yaml.safe_load((repo / "config/analyses/flips.yaml").read_text())
    for change, message in (
        (
            {"allow": {"not_finit": []}},
            "allow: unknown key 'not_finit'; did you mean 'not_finite'?",
        ),
        ({"triggers": [{"path": []}]}, "triggers.0: unknown key 'path'; did you mean 'paths'?"),
        ({"triggers": [{}]}, "triggers.0: the key 'paths' is missing"),
        ({"name": "two words"}, "name: 'two words' should be a word of letters, digits and _"),
    ):
        with pytest.raises(ConfigError) as problem:
            check({**analysis, **change}, schema("flips"), "flips.yaml")
        assert str(problem.value) == f"flips.yaml: {message}"


def test_no_shared_shape_is_left_that_nothing_refers_to() -> None:
    text = "".join(path.read_text() for path in schemas().glob("*.yaml"))
    assert [name for name in schema(COMMON)["$defs"] if f"#/$defs/{name}" not in text] == []
