"""Charge flips: the probability that an electron's charge is measured wrongly, as a weight."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import awkward as ak
import correctionlib
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import DataFileError


@dataclass(frozen=True)
class FlipMap:
    """The flip probability of electrons by pT [GeV] and |eta|, from a correctionlib correction.

    `text` is the correctionlib file, kept as text so that it can be sent to workers. `name` is the
    correction in it, over (pT, |eta|) or (systematic, pT, |eta|), with `nominal` and, if the map
    has uncertainties, `stat_up` and `stat_down`.
    """

    text: str
    name: str

    @classmethod
    def from_file(cls, path: str | Path, name: str) -> "FlipMap":
        """The map in a file.

        Raises `DataFileError` naming the file if it doesn't have the correction.
        """
        try:
            text = Path(path).read_text()
            known = list(correctionlib.CorrectionSet.from_string(text))
        except (OSError, RuntimeError) as problem:
            raise DataFileError(f"{path}: not a correctionlib file ({problem})") from None
        if name not in known:
            raise DataFileError(f"{path}: has no correction {name!r}; it has {', '.join(known)}")
        return cls(text, name)

    @cached_property
    def _correction(self) -> correctionlib.highlevel.Correction:
        return correctionlib.CorrectionSet.from_string(self.text)[self.name]

    def __getstate__(self) -> dict[str, str]:
        return {"text": self.text, "name": self.name}

    @cached_property
    def systematics(self) -> list[str]:
        """`nominal`, and the variations that the map has."""
        if len(self._correction.inputs) < 3:
            return ["nominal"]
        names = ["nominal"]
        for name in ("stat_up", "stat_down"):
            with suppress(IndexError):
                self._correction.evaluate(name, 30.0, 0.0)
                names.append(name)
        return names

    def probability(
        self, pt: NDArray[Any], abs_eta: NDArray[Any], systematic: str = "nominal"
    ) -> NDArray[np.float64]:
        """The probability for each electron: pT [GeV], |eta|."""
        first = [systematic] if len(self._correction.inputs) == 3 else []
        probability = self._correction.evaluate(
            *first, np.asarray(pt, np.float64), np.asarray(abs_eta, np.float64)
        )
        return np.asarray(probability)

    def weights(
        self, chosen: Mapping[str, Any], systematic: str = "nominal", charge: int | None = None
    ) -> NDArray[np.float64]:
        """The weights of events with opposite charges as a prediction of events with equal charges.

        The weight is the sum over electrons of p / (1 - p), for one of them flipped and the other
        not. Muons don't flip. With a `charge`, +1 or -1, only flips to two leptons of that charge
        count. Source: the charge misidentification method, to first order in p.
        """
        if "Electron" not in chosen:
            return np.zeros(len(next(iter(chosen.values()))))
        electrons = chosen["Electron"]
        pt, eta = (ak.to_numpy(ak.flatten(electrons[field])) for field in ("pt", "eta"))
        p = self.probability(pt, np.abs(eta), systematic)
        odds = ak.unflatten(p / (1 - p), ak.num(electrons, axis=1))
        if charge is not None:
            odds = odds[electrons.charge == -charge]
        summed: NDArray[np.float64] = ak.to_numpy(ak.sum(odds, axis=1))
        return summed
