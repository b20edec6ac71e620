"""YAML without surprises: what readers of YAML interpret differently is read literally, or refused.

In YAML 1.1, which PyYAML reads, `0100` is 64, `12:30` is 750, a key `No` is false, `2018-01-01` is
a date and `1e5` is text. Here a key is the text as written, a date is text, `1e5` is a number, and
numbers that differ between versions of YAML are refused. `<<: *anchor` adds the keys of another
mapping, and top-level keys that begin with `x-` are for anchors only.
"""

import math
import re
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml

from looseleaf.errors import ConfigError, shown
from looseleaf.files import ODD_CHARACTER, read_text

# the number of values in a file with its anchors expanded; our largest has a few thousand
MOST_VALUES = 200_000
# integers beyond this can't be represented
LARGEST = 2**63
ANCHORS = "x-"
STANDARD = "tag:yaml.org,2002:"
TEXT, MAPPING, SEQUENCE, MERGE = (STANDARD + kind for kind in ("str", "map", "seq", "merge"))
NUMBERS = (STANDARD + "int", STANDARD + "float")
# with a leading zero, binary, octal, or in base sixty
OTHERWISE = re.compile(
    r"[-+]?(?:0[0-9_]+|0[bo][0-9_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)"
)


class Loader(yaml.SafeLoader):
    """Reads plain scalars by our own rules: no dates, and 1e5 is a number."""

    # the stubs have one for each instance
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


for _kind, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    (
        "bool",
        r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        "yYnNtTfFoO",
    ),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    Loader.add_implicit_resolver(STANDARD + _kind, re.compile(f"^(?:{_pattern})$"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file; empty for an empty file.

    Raises a `LooseleafError` naming the file, the line and what to do, if the file can't be read,
    isn't a mapping, has a key twice or has a value that readers of YAML interpret differently.
    """
    text = read_text(path)
    try:
        loader = Loader(text)
        loader.name = str(path)
        node = loader.get_single_node()
        if node is None:
            return {}
        _Check(loader).size(node)
        value = loader.construct_document(node)
    except yaml.composer.ComposerError as problem:
        if "single document" not in str(problem):
            raise ConfigError(f"{path}: not valid YAML: {problem}") from None
        mark = problem.problem_mark
        assert mark is not None
        raise ConfigError(
            f"{path}, line {mark.line + 1}: '---' begins another document; keep one to a file"
        ) from None
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path}: not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{path}: lists or keys are nested too deeply") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: should have keys with values, such as `name: value`")
    return without_anchors(value)


def without_anchors(value: dict[str, Any]) -> dict[str, Any]:
    """A file's declarations without the top-level keys for anchors."""
    return {key: one for key, one in value.items() if not str(key).startswith(ANCHORS)}


class _Check:
    """A walk over a file's nodes before values are made from them. Keys become texts."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node, *key: str) -> int:
        """The number of values in a node, with aliases expanded."""
        if id(node) in self._open:
            self._refuse(node, key, "the anchor refers to itself; write out the value")
        if id(node) not in self._sizes:
            self._open.add(id(node))
            self._sizes[id(node)] = 1 + self._of_parts(node, key)
            self._open.discard(id(node))
        if self._sizes[id(node)] > MOST_VALUES:
            self._refuse(
                node, key, f"more than {MOST_VALUES} values with its anchors expanded; use fewer"
            )
        return self._sizes[id(node)]

    def _of_parts(self, node: yaml.Node, key: tuple[str, ...]) -> int:
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node, key)
            return 0
        if node.tag not in (MAPPING, SEQUENCE):
            self._refuse_tag(node, key)
        if isinstance(node, yaml.SequenceNode):
            return sum(self.size(one, *key, str(index)) for index, one in enumerate(node.value))
        seen: set[str] = set()
        total = 0
        for index, (key_node, value) in enumerate(node.value):
            name = self._key(key_node, key)
            if name in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"{self._loader.name}, line {line}: {name!r} is given twice")
            seen.add(name)
            if key_node.tag != MERGE:
                # a new node, since an alias may use this one as a value
                marks = key_node.start_mark, key_node.end_mark
                node.value[index] = (yaml.ScalarNode(TEXT, name, *marks), value)
            total += self.size(value, *key, name)
        return total

    def _key(self, node: yaml.Node, key: tuple[str, ...]) -> str:
        """A key as written."""
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(node, key, "a key should be a word, not a list or a mapping")
        if node.tag not in (TEXT, self._plainly(node)):
            self._refuse_tag(node, key)
        if not node.value.strip():
            self._refuse(node, key, "a value has no key before its colon")
        text: str = node.value
        return text

    def _scalar(self, node: yaml.ScalarNode, key: tuple[str, ...]) -> None:
        if node.tag not in (TEXT, self._plainly(node)):
            self._refuse_tag(node, key)
        text = node.value
        if node.style is None and OTHERWISE.fullmatch(text):
            why = f"{text} is ambiguous in YAML; write {_clearly(text)}"
            self._refuse(node, key, why)
        if node.tag in NUMBERS and len(text) > 400:
            self._refuse(node, key, f"{text[:20]}... is too long for a number")

    def _plainly(self, node: yaml.ScalarNode) -> str:
        """The tag of a scalar without an explicit one."""
        if node.style is not None:
            return TEXT
        tag: str = self._loader.resolve(yaml.ScalarNode, node.value, (True, False))
        return tag

    def _refuse_tag(self, node: yaml.Node, key: tuple[str, ...]) -> NoReturn:
        tag = node.tag.replace(STANDARD, "!!")
        self._refuse(node, key, f"the tag {tag} isn't used here; write the value without it")

    def _refuse(self, node: yaml.Node, key: tuple[str, ...], why: str) -> NoReturn:
        line = node.start_mark.line + 1
        where = f"{'.'.join(key)}: " if key else ""
        raise ConfigError(f"{self._loader.name}, line {line}: {where}{why}")


def _clearly(text: str) -> str:
    """An unambiguous way to write a number that YAML readers interpret differently."""
    quoted = f'"{text}" in quotes'
    digits = text.replace("_", "")
    try:
        meant = int(digits, 0 if "b" in digits or "o" in digits else 10)
    except ValueError:
        return quoted
    return f"{meant}, or {quoted} if it is a text"


def check_plain(value: Any, file: str, *key: str) -> None:
    """Refuse keys that aren't text, and values that are neither text, yes or no, nor a number.

    NaN and infinity are refused too. Raises `ConfigError` naming the file and the key.
    """
    where = f"{file}: {'.'.join(key) or 'the file'}"
    if isinstance(value, dict):
        for name, one in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{where}: the key {name!r} should be a text: put it in quotes")
            check_plain(name, file, *key)
            check_plain(one, file, *key, name)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            check_plain(one, file, *key, str(index))
    elif isinstance(value, str):
        if odd := ODD_CHARACTER.search(value):
            raise ConfigError(f"{where}: has the character {odd[0]!r}, which isn't allowed in text")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(
            f"{where}: {value} is not a finite number; give one, or remove the key if "
            "it is optional"
        )
    elif isinstance(value, int) and abs(value) >= LARGEST:
        raise ConfigError(f"{where}: the number has too many digits")
    elif not isinstance(value, (int, float, type(None))):
        raise ConfigError(
            f"{where}: {shown(str(value))} is neither text nor number; put it in quotes"
        )
