"""Measured fake rates as weights of events in the application region."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import awkward as ak
import hist
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.histograms.coverage import Edges, cover, losses_beyond
from looseleaf.histograms.store import empty_bins, read_uhi
from looseleaf.histograms.typed import Plain, Weighted
from looseleaf.losses import Loss


def clamped_bins(
    pt_edges: Edges, eta_edges: Edges, pt: NDArray[Any], abs_eta: NDArray[Any]
) -> NDArray[np.int64]:
    """The flat bin of each lepton, pT first; leptons outside the edges are in the outermost
    bins."""
    row, column = (
        np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        for edges, values in ((pt_edges, pt), (eta_edges, abs_eta))
    )
    flat: NDArray[np.int64] = row * (len(eta_edges) - 1) + column
    return flat


def _pairs(maps: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The variations of a map file that go up and down, as name, up and down.

    The two tilts along an axis, `pt1` and `pt2`, are a pair; the check `prompt_off`
    isn't.
    """
    variations = {key.removeprefix("ratio_") for key in maps if key.startswith("ratio_")}
    for name in sorted(variations):
        for up, down in (("_up", "_down"), ("1", "2")):
            base = name.removesuffix(up)
            if base != name and base + down in variations:
                yield base, name, base + down


@dataclass(frozen=True)
class RateMap:
    """A measured rate in bins of pT and |eta|; leptons outside take the outermost bins.

    `rate`, `sigma` and `empty` have the shape of the axes. `sigma` is half of the 68.27% interval;
    `empty` marks bins without a measurement, where the rate is 0. `systematics` are the rates of
    each variation, up and down, by its name.
    """

    pt_edges: NDArray[np.float64]
    eta_edges: NDArray[np.float64]
    rate: NDArray[np.float64]
    sigma: NDArray[np.float64]
    empty: NDArray[np.bool_]
    systematics: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(
        default_factory=dict
    )

    @classmethod
    def from_files(cls, paths: Mapping[str, str] | None) -> "dict[str, RateMap]":
        """The maps in files by collection, as `from_file` reads them."""
        return {collection: cls.from_file(path) for collection, path in (paths or {}).items()}

    @classmethod
    def from_file(cls, path: str) -> "RateMap":
        """The map in a file that `fakerate.measure` wrote.

        Raises `DataFileError` if it has no map.
        """
        maps, metadata = read_uhi(path)
        if "ratio" not in maps:
            raise DataFileError(f"{path}: has no ratio; is it the map of a fake-rate analysis?")
        ratio: Weighted = maps["ratio"]
        pt, eta = (axis.edges for axis in ratio.axes)
        empty = empty_bins(metadata, ratio.shape)
        varied: Mapping[str, Plain] = maps
        pairs = {
            name: (varied[f"ratio_{up}"].values(), varied[f"ratio_{down}"].values())
            for name, up, down in _pairs(maps)
        }
        return cls(pt, eta, ratio.values(), np.sqrt(ratio.variances()), empty, pairs)

    @property
    def size(self) -> int:
        """The number of bins."""
        return self.rate.size

    def bins(self, pt: NDArray[Any], abs_eta: NDArray[Any]) -> NDArray[np.int64]:
        """The flat bin of each lepton; leptons outside the edges are in the outermost bins."""
        return clamped_bins(self.pt_edges, self.eta_edges, pt, abs_eta)


@dataclass(frozen=True)
class Prediction:
    """Weights of events in an application region.

    `weight` is (-1)^(k+1) prod f/(1-f) over an event's k failing leptons, 0 if none fails. `event`,
    `bin` and `slope` list the derivatives d weight / d f, one for each failing lepton; `capped`
    marks those whose rate was above the cap.
    """

    weight: NDArray[np.float64]
    failing: NDArray[np.int64]
    event: NDArray[np.int64]
    bin: NDArray[np.int64]
    slope: NDArray[np.float64]
    capped: NDArray[np.bool_]


def predict(bins: ak.Array, tight: ak.Array, rates: NDArray[np.float64], cap: float) -> Prediction:
    """The weights of events from their loose leptons.

    `bins` has each loose lepton's flat bin and `tight` whether it is tight, both jagged by event;
    `rates` are the rates by flat bin. Source: the tight-to-loose method, whose sign removes the
    double counting of events with two failing leptons.
    """
    failing = ~tight
    rate = rates[ak.to_numpy(ak.flatten(bins))]
    flat_failing = ak.to_numpy(ak.flatten(failing))
    capped = (rate > cap)[flat_failing]
    rate = np.minimum(rate, cap)
    counts = ak.num(bins, axis=1)
    odds = ak.unflatten(np.where(flat_failing, rate / (1 - rate), 1.0), counts)
    number = ak.to_numpy(ak.sum(failing, axis=1))
    sign = np.where(number % 2 == 1, 1.0, -1.0)
    weight = np.where(number > 0, sign * ak.to_numpy(ak.prod(odds, axis=1)), 0.0)

    # the product of the other leptons' odds, without a division by zero
    zero = odds == 0
    zeros = ak.sum(zero, axis=1)
    rest = ak.prod(ak.where(zero, 1.0, odds), axis=1)
    other_odds = ak.where(
        zero,
        ak.where(zeros == 1, rest, 0.0),
        ak.where(zeros == 0, rest, 0.0) / ak.where(zero, 1.0, odds),
    )
    event = np.repeat(np.arange(len(number)), ak.to_numpy(counts))[flat_failing]
    slope = ak.to_numpy(ak.flatten(other_odds))[flat_failing] / (1 - rate[flat_failing]) ** 2
    return Prediction(
        weight=weight,
        failing=number,
        event=event,
        bin=ak.to_numpy(ak.flatten(bins))[flat_failing],
        slope=sign[event] * slope,
        capped=capped,
    )


def map_edges(maps: Mapping[str, RateMap]) -> dict[str, Edges]:
    """The edges of all maps' axes, by the names of their coverage."""
    return {
        f"maps.{collection}.{axis}": edges
        for collection, rates in maps.items()
        for axis, edges in (("pt", rates.pt_edges), ("abs_eta", rates.eta_edges))
    }


def cover_maps(
    out: Plain,
    maps: Mapping[str, RateMap],
    chosen: Mapping[str, Any],
    among: NDArray[np.bool_],
) -> None:
    """Fill where failing leptons of the events `among` are on the axes of their maps.

    `chosen` are the loose leptons by collection, each with `tight`, jagged by event.
    """
    for collection, rates in maps.items():
        leptons = chosen[collection][among]
        failing = leptons[~leptons.tight]
        pt, eta = (ak.to_numpy(ak.flatten(failing[name])) for name in ("pt", "eta"))
        one = np.ones(len(pt))
        cover(out, f"maps.{collection}.pt", rates.pt_edges, pt, one)
        cover(out, f"maps.{collection}.abs_eta", rates.eta_edges, np.abs(eta), one)


def losses_beyond_maps(covered: Plain, maps: Mapping[str, RateMap]) -> list[Loss]:
    """The failing leptons outside a map, which take the rates of its outermost bins."""
    where = "they take the rates of the outermost bins"
    return losses_beyond(covered, map_edges(maps), "failing leptons", where)


def stacked(maps: Mapping[str, RateMap]) -> tuple[dict[str, int], NDArray[np.float64]]:
    """All maps' rates as one array, and the offset of each collection in it."""
    offsets, total = {}, 0
    for collection, rate_map in maps.items():
        offsets[collection] = total
        total += rate_map.size
    rates = np.concatenate([rate_map.rate.ravel() for rate_map in maps.values()])
    return offsets, rates


def empty_prediction(axes: list[Any], size: int) -> tuple[Weighted, Plain]:
    """A histogram for predicted events, and one for their derivatives by map bin."""
    bins = hist.axis.Integer(0, size, name="map_bin", flow=False)
    return (
        hist.Hist(*axes, storage=hist.storage.Weight()),
        hist.Hist(*axes, bins, storage=hist.storage.Double()),
    )
