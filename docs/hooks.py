"""The generated parts of the site: the rule graph and the reference of the configuration.

A page asks for them with a line of its own: `<!-- rule graph: FILE... -->` is the graph of the
demo and of these analyses beside, `<!-- schema: NAME -->` the keys of `config/schemas`.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
GRAPH = re.compile(r"^<!-- rule graph:(.*)-->$", re.MULTILINE)
SCHEMA = re.compile(r"^<!-- schema: (\w+) -->$", re.MULTILINE)
# in a key's path, for names that the user chooses
ANY_NAME, ITEM = "NAME", "[]"


class Undescribed(Exception):
    """Keys of a schema have no description, and the build asks for them."""


def on_page_markdown(markdown: str, config: Mapping[str, Any], **_: Any) -> str:
    """Put the rule graph and the tables of keys in their places."""
    described = config["extra"]["descriptions"] == "required"
    markdown = GRAPH.sub(lambda match: rule_graph(match[1].split()), markdown)
    return SCHEMA.sub(lambda match: keys_of(match[1], described), markdown)


def rule_graph(more: Sequence[str] = ()) -> str:
    """The rules of the demo, and of more analyses, as a Mermaid block.

    The rules of one kind's analyses are one box, and an arrow that others imply is left out.
    """
    main = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    analyses = [*main["analyses"], *more]
    with tempfile.TemporaryDirectory() as folder:
        override = Path(folder, "override.yaml")
        override.write_text(yaml.safe_dump({"analyses": analyses}))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", folder, "--configfile", str(override)]
        drawn = subprocess.run(
            [*command, "--rulegraph", "mermaid-js"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if drawn.returncode != 0:
        raise RuntimeError(f"snakemake draws no rule graph: {drawn.stderr}")
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]$", drawn.stdout, re.MULTILINE))
    named = {yaml.safe_load((ROOT / path).read_text())["name"] for path in analyses}
    kinds = {key: _without(name, named) for key, name in names.items()}
    arrows = re.findall(r"^\s*(id\d+) --> (id\d+)$", drawn.stdout, re.MULTILINE)
    edges = {(kinds[a], kinds[b]) for a, b in arrows if kinds[a] != kinds[b] != "all"}
    lines = [f"    {a} --> {b}" for a, b in sorted(reduced(edges))]
    return "\n".join(["```mermaid", "flowchart TB", *lines, "```"])


def _without(rule: str, analyses: set[str]) -> str:
    """A rule's name without that of the analysis at its end."""
    endings = [name for name in analyses if rule.endswith(f"_{name}")]
    return rule.removesuffix(f"_{max(endings, key=len)}") if endings else rule


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges of a graph without cycles that no longer way replaces."""

    def reachable(start: str) -> set[str]:
        after = {b for a, b in edges if a == start}
        return after.union(*(reachable(one) for one in after))

    return {
        (a, b) for a, b in edges if not any(b in reachable(c) for x, c in edges if x == a != c != b)
    }


def keys_of(name: str, described: bool = False) -> str:
    """The keys of a schema as a table.

    Raises `Undescribed` if some have no description and `described` asks for them.
    """
    schema = _schema(name)
    rows = list(_rows(schema, schema, ""))
    without = [path for path, _, _, text in rows if not text]
    if described and without:
        raise Undescribed(f"{name}.schema.yaml: no description: {', '.join(without)}")
    table = ["| key | type | default | what it is |", "|---|---|---|---|"]
    table += [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in rows]
    return "\n".join(table)


def _schema(name: str) -> dict[str, Any]:
    """A schema, with the shapes that it may refer to."""
    folder = ROOT / "config/schemas"
    own = yaml.safe_load((folder / f"{name}.schema.yaml").read_text())
    common = yaml.safe_load((folder / "common.schema.yaml").read_text())
    return {**own, "$defs": {**common["$defs"], **own.get("$defs", {})}}


def _rows(
    part: Mapping[str, Any], schema: Mapping[str, Any], path: str
) -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and description of every key below a part of a schema."""
    part = _resolved(part, schema)
    for name, unresolved in _inside(part):
        value = _resolved(unresolved, schema)
        inner = f"{path}.{name}".lstrip(".")
        if name not in (ANY_NAME, ITEM):
            default = _default(value) or ("required" if name in part.get("required", ()) else "")
            yield inner, _type(value, schema), default, _text(value.get("description", ""))
        yield from _rows(value, schema, inner)


def _inside(part: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas of an object's keys, of any key where they are free, and of a list's items; those
    of a condition have keys that it asks for."""
    conditional = [one.get("then", {}) for one in part.get("allOf", ())]
    choices = [one for one in part.get("oneOf", ()) if one.get("type") == "object"]
    for one in (part, *choices):
        properties = {name: dict(value) for name, value in one.get("properties", {}).items()}
        for then in conditional:
            for name, value in then.get("properties", {}).items():
                properties[name] = {**properties.get(name, {}), **value}
        yield from properties.items()
    if isinstance(part.get("additionalProperties"), Mapping):
        yield ANY_NAME, part["additionalProperties"]
    if "items" in part:
        yield ITEM, part["items"]


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a schema with what it refers to."""
    if "$ref" not in part:
        return dict(part)
    own = {key: value for key, value in part.items() if key != "$ref"}
    target: Any = schema
    for step in part["$ref"].partition("#/")[2].split("/"):
        target = target[step]
    return {**_resolved(target, schema), **own}


def _type(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words."""
    part = _resolved(part, schema)
    if "enum" in part:
        return "one of " + ", ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if "oneOf" in part:
        choices = [
            _type(one, schema)
            for one in part["oneOf"]
            if {"const", "enum", "type", "$ref"} & set(one)
        ]
        if choices:
            return " or ".join(choices)
    kinds = part.get("type", "string" if "pattern" in part else "object")
    words = [_word(kind, part, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " or ".join(words)


def _word(kind: str, part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    match kind:
        case "array":
            return f"list{_items(part, schema)}"
        case "object":
            free = part.get("additionalProperties")
            return f"mapping to {_type(free, schema)}" if isinstance(free, Mapping) else "mapping"
        case "string":
            return "text"
        case "boolean":
            return "`true` or `false`"
        case "integer":
            return f"integer{_limits(part)}"
        case "number":
            return f"number{_limits(part)}"
        case _:
            return kind


def _items(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "items" not in part:
        return ""
    first, *rest = _type(part["items"], schema).split(" ")
    several = first if first in ("text", "one") or first.startswith("`") else f"{first}s"
    exact = [f"{part['minItems']}"] if part.get("minItems") == part.get("maxItems", -1) else []
    return " ".join(["", "of", *exact, several, *rest])


def _limits(part: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {part[key]}" for key, sign in signs.items() if key in part]
    return f" {' and '.join(limits)}" if limits else ""


def _text(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def _default(part: Mapping[str, Any]) -> str:
    if "default" not in part:
        return ""
    return f"`{json.dumps(part['default'], ensure_ascii=False)}`"
