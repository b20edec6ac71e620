"""Weights of simulated events from correctionlib files: pile-up, scale factors and others."""

import gzip
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import awkward as ak
import correctionlib
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import ConfigError
from looseleaf.objects.chunk import Branches
from looseleaf.objects.evaluation import as_floats
from looseleaf.objects.events import Selection
from looseleaf.objects.expressions import Expression, shown
from looseleaf.objects.flat import Flat
from looseleaf.objects.needed_branches import corrected_collection


def read_correction(path: str | Path, name: str) -> str:
    """One correction of a file, as the text of a correctionlib file that holds it alone.

    A file can hold megabytes of corrections, and each chunk is sent with its own. Raises
    `ConfigError` naming the file if it can't be read or has no correction of that name.
    """
    try:
        raw = Path(path).read_bytes()
        value = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
        known = {correction["name"]: correction for correction in value["corrections"]}
    except (OSError, EOFError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"{path}: not a correctionlib file: {problem}") from None
    if name not in known:
        raise ConfigError(f"{path}: has no correction {name!r}; it has {', '.join(sorted(known))}")
    return json.dumps({"schema_version": 2, "corrections": [known[name]]})


@lru_cache(maxsize=32)
def _correction(text: str, name: str) -> Any:
    return correctionlib.CorrectionSet.from_string(text)[name]


class Corrections:
    """The corrections that an analysis declares.

    `declared` is the section `corrections` of an analysis, by name. Each entry has the name of a
    `correction` in its file, an expression over branches for each numeric input (`inputs`), a word
    for each text input (`choices`), and other words by variation (`variations`). `of` says which
    leptons the weight belongs to, `loose` or `tight` ones; without it, the weight is of the event.
    `texts` are the results of `read_correction`, by name.

    Raises `ConfigError` if inputs are missing, unknown or of the wrong type.
    """

    def __init__(self, declared: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str]) -> None:
        self._declared, self._texts = declared, texts
        for name, entry in declared.items():
            try:
                inputs = _correction(texts[name], entry["correction"]).inputs
            except RuntimeError as problem:
                raise ConfigError(
                    f"corrections.{name}: {entry['correction']!r} of {entry['file']} can't be "
                    f"used: {problem}"
                ) from None
            kinds = {v.name: v.type for v in inputs}
            for side, words in entry.get("variations", {}).items():
                unknown = set(words) - {n for n, kind in kinds.items() if kind == "string"}
                if unknown:
                    raise ConfigError(
                        f"corrections.{name}.variations.{side}: {sorted(unknown)[0]!r} isn't a "
                        f"text input of {entry['correction']!r}"
                    )
            for key, is_text in (("inputs", False), ("choices", True)):
                expected = {n for n, kind in kinds.items() if (kind == "string") == is_text}
                names = set(entry.get(key, {}))
                if names != expected:
                    raise ConfigError(
                        f"corrections.{name}.{key}: {entry['correction']!r} takes "
                        f"{', '.join(sorted(expected)) or 'none'}, not "
                        f"{', '.join(sorted(names)) or 'none'}"
                    )

    @classmethod
    def from_files(cls, declared: Mapping[str, Mapping[str, Any]]) -> "Corrections":
        """The declared corrections, read from the files that they name."""
        texts = {
            name: read_correction(entry["file"], entry["correction"])
            for name, entry in declared.items()
        }
        return cls(declared, texts)

    def event_weight(
        self, branches: Branches, variation: str = "nominal"
    ) -> NDArray[np.float64] | float:
        """The product of all event corrections in a variation, a number for each event; 1 if there
        is none."""
        weight: NDArray[np.float64] | float = 1.0
        for name, entry in self._declared.items():
            if "of" not in entry:
                weight = weight * self._of_events(name, branches, variation)
        return weight

    def _of_events(self, name: str, branches: Branches, variation: str) -> Any:
        inputs = self._declared[name]["inputs"]
        values = {key: Expression(text)(branches) for key, text in inputs.items()}
        jagged = [inputs[k] for k, v in values.items() if getattr(v, "ndim", 0) > 1]
        if jagged:
            raise ConfigError(
                f"corrections.{name}: {jagged[0]!r} has a value for each lepton; set "
                "`of: loose` or `of: tight` to say which leptons have the weight"
            )
        return self._evaluate(name, values, variation)

    def lepton_weight(
        self, selection: Selection, of: str, variation: str
    ) -> NDArray[np.float64] | float:
        """The product of all corrections of loose or tight leptons, a number for each lepton; 1 if
        there is none."""
        weight: NDArray[np.float64] | float = 1.0
        for name, entry in self._declared.items():
            if entry.get("of") == of:
                weight = weight * self._of_leptons(name, selection, variation)
        return weight

    def _of_leptons(self, name: str, selection: Selection, variation: str) -> Any:
        inputs = self._declared[name]["inputs"]
        values = {key: selection.column(text) for key, text in inputs.items()}
        return self._evaluate(name, values, variation)

    def of_event(
        self,
        name: str,
        branches: Branches,
        chosen: Mapping[str, Mapping[str, Any]],
        variation: str = "nominal",
    ) -> NDArray[np.float64]:
        """The weight of each event from one correction: its own, or the product over its leptons.

        `chosen` are jagged masks of the events' leptons, by collection and then by `loose` and
        `tight`.
        """
        entry = self._declared[name]
        weight = np.ones(len(branches))
        if "of" not in entry:
            weight *= self._of_events(name, branches, variation)
            return weight
        mask = chosen[corrected_collection(name, entry, chosen)][entry["of"]]
        selection = Selection.of(branches, Flat(mask), ak.to_numpy(ak.flatten(mask)))
        np.multiply.at(weight, selection.event, self._of_leptons(name, selection, variation))
        return weight

    def _evaluate(self, name: str, values: Mapping[str, Any], variation: str) -> Any:
        entry = self._declared[name]
        sides = {f"{name}_{side}": words for side, words in entry.get("variations", {}).items()}
        choices = {**entry.get("choices", {}), **sides.get(variation, {})}
        correction = _correction(self._texts[name], entry["correction"])
        arguments = []
        for v in correction.inputs:
            if v.type == "string":
                arguments.append(choices[v.name])
                continue
            value = as_floats(values[v.name])
            lost = int(np.count_nonzero(~np.isfinite(value)))
            if lost:
                # correctionlib would take the last bin
                raise ConfigError(
                    f"corrections.{name}: {v.name}, {shown(entry['inputs'][v.name])}, has no "
                    f"finite value for {lost} of {value.size} weights (0/0, an empty list or a "
                    "branch that is NaN, say): give it one with where(), or remove these events "
                    "with servicex.cut"
                )
            if v.type == "int" and np.any(value != np.rint(value)):
                raise ConfigError(f"corrections.{name}: {v.name} takes whole numbers only")
            arguments.append(value.astype(np.int64) if v.type == "int" else value)
        try:
            weight = correction.evaluate(*arguments)
        except (RuntimeError, IndexError, ValueError) as problem:
            raise ConfigError(
                f"corrections.{name}: {problem}; minimum() and maximum() in its inputs keep "
                "them within its range"
            ) from None
        if not np.isfinite(weight).all():
            raise ConfigError(f"corrections.{name}: some weights are NaN or infinite")
        return weight
