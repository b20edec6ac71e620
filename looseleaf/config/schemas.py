"""Validation of values against the JSON schemas of looseleaf, with messages for the user."""

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

from looseleaf.errors import ConfigError, shown
from looseleaf.layout import schemas
from looseleaf.yaml_files import check_plain

# the schema with common definitions, to which the others refer
COMMON = "common"


@cache
def schema(name: str) -> dict[str, Any]:
    """A schema by name. It refers to the common schema by that file's name."""
    # libyaml is nine times as fast as our own reader, which users' files need
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    read: dict[str, Any] = yaml.load((schemas() / _file(name)).read_bytes(), loader)
    return read


@cache
def registry() -> Registry[Any]:
    """The registry in which references to the common schema are resolved."""
    resource = Resource.from_contents(schema(COMMON))
    references: Registry[Any] = Registry().with_resource(_file(COMMON), resource)
    return references


def _file(name: str) -> str:
    return f"{name}.schema.yaml"


def check(value: Any, allowed: Mapping[str, Any], file: str) -> None:
    """Check a value against a JSON schema; raise `ConfigError` for the most telling violation.

    NaN and infinity, which a schema lets pass, are refused everywhere.
    """
    check_plain(value, file)
    found = violation(value, allowed)
    if found is not None:
        key, problem = found
        raise ConfigError(f"{file}: {key}: {_in_words(problem)}")


def violation(
    value: Any, allowed: Mapping[str, Any]
) -> tuple[str, jsonschema.ValidationError] | None:
    """The most telling violation of a JSON schema, with the key at which it is."""
    validator = jsonschema.Draft202012Validator(allowed, registry=registry())
    problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if problem is None:
        return None
    return ".".join(str(part) for part in problem.absolute_path) or "the file", problem


def _in_words(problem: jsonschema.ValidationError) -> str:
    rule = problem.validator
    value: Any = problem.instance
    allowed: Any = problem.validator_value
    around = problem.schema if isinstance(problem.schema, Mapping) else {}
    match rule:
        case "additionalProperties" if isinstance(value, dict):
            allowed_keys = list(around.get("properties", {}))
            unknown = sorted(set(value) - set(allowed_keys))
            near = difflib.get_close_matches(unknown[0], allowed_keys, n=1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(allowed_keys)}"
            )
            return f"unknown key {unknown[0]!r}{hint}"
        case "required":
            missing = [name for name in allowed if name not in value]
            return f"the key {missing[0]!r} is missing"
        case "type":
            hint = "" if not _is_number(value) else "; YAML takes 5e-5 as text: write 5.0e-5"
            if "string" in allowed and isinstance(value, (bool, int, float)):
                hint = '; put text in quotes, as "2018" or "No"'
            return f"{shown(value)} should be of type {allowed}{hint}"
        case "enum":
            return f"{shown(value)} is not one of {', '.join(map(str, allowed))}"
        case "const":
            return f"{value!r} should be {allowed!r}"
        case "minimum" | "exclusiveMinimum":
            relation = "at least" if rule == "minimum" else "more than"
            return f"{value!r} should be {relation} {allowed}"
        case "maximum" | "exclusiveMaximum":
            relation = "at most" if rule == "maximum" else "less than"
            return f"{value!r} should be {relation} {allowed}"
        case "pattern":
            expected = around.get("x-expected", f"something like {allowed}")
            return f"{shown(value)} should be {expected}"
        case "maxLength":
            return f"{shown(value)} is longer than {allowed} characters, too long for a file name"
        case "minProperties" if not value:
            return "it is empty"
        case _:
            return str(problem.message)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False
