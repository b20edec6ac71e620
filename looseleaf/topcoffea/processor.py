"""The coffea processor that fills EFT histograms in declared channels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import awkward as ak
import hist
import numpy as np
from numpy.typing import NDArray

from looseleaf.efthist import EFTHist, quadratic_terms
from looseleaf.errors import DataFileError
from looseleaf.histograms.coverage import (
    cover,
    coverage,
    enter,
    entries,
    observable_edges,
)
from looseleaf.histograms.typed import Plain, Weighted
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.chunk import Branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.evaluation import REFUSING, Undecided, possible
from looseleaf.objects.events import is_prompt, loose_leptons, recorded, weights
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import certified
from looseleaf.objects.multilepton import (
    JET_QUANTITIES,
    LEPTON_FIELDS,
    SelectedJets,
    lepton_quantities,
    merged,
)
from looseleaf.objects.names import COVERAGE, ENTRIES
from looseleaf.objects.processor import BranchesProcessor
from looseleaf.objects.rates import RateMap, cover_maps, map_edges, predict, stacked
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis, varies
from looseleaf.topcoffea.axes import (
    CAPPED,
    CHANNEL,
    FAILING,
    NOMINAL,
    REGION,
    SYSTEMATIC,
    UNMEASURED,
)
from looseleaf.topcoffea.channels import (
    FLIPS,
    NONPROMPT,
    NONPROMPT_RATE,
    OF_A_MAP,
    SIGNAL,
    Region,
    flips_nuisance,
)
from looseleaf.topcoffea.flip_map import FlipMap

# keys of events that predict flips, by the leptons' charge after the flip if it matters
FLIPPED: dict[str, int | None] = {FLIPS: None, "flips to +": 1, "flips to -": -1}
BY_CHARGE = [key for key, charge in FLIPPED.items() if charge is not None]
CHARGES = {"charge", "lep0_charge"}
ELECTRON = 11
# how many events have their squares at points computed at a time
TILE_EVENTS = 8192

NO_CORRECTIONS = Corrections({}, {})

Mask = NDArray[np.bool_]
Weights = NDArray[np.float64]


def _after_a_flip(quantities: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The quantities of a two-lepton event after a flip to the charge in `key`.

    The two leptons no longer form a Z boson candidate.
    """
    out = {**quantities, "m_z": np.zeros_like(quantities["m_z"])}
    charge = FLIPPED[key]
    if charge is not None:
        out |= {"charge": np.full_like(quantities["charge"], 2 * charge)}
        out |= {"lep0_charge": np.full_like(quantities["lep0_charge"], charge)}
    return out


@dataclass(frozen=True)
class Candidates:
    """Events that channels select from, with what doesn't depend on the energy of their jets.

    `rows` are their places in the chunk, `of_leptons` the quantities of leptons and of missing
    momentum. `tight` are events whose loose leptons are all tight, `flipped` simulated events with
    a wrong charge. `weights` are by region, or flips to one charge, and by variation. The arrays
    have one entry for each of these events.
    """

    rows: NDArray[np.int64]
    of_leptons: Mapping[str, NDArray[Any]]
    jets: SelectedJets
    tight: Mask
    flipped: Mask
    weights: Mapping[str, Mapping[str, Weights]]

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, chosen: Mask) -> "Candidates":
        """Some of these events."""
        places = np.flatnonzero(chosen)
        return Candidates(
            self.rows[places],
            {name: values[places] for name, values in self.of_leptons.items()},
            self.jets.of_events(places),
            self.tight[places],
            self.flipped[places],
            {
                key: {label: weight[places] for label, weight in varied.items()}
                for key, varied in self.weights.items()
            },
        )


class Filled(NamedTuple):
    """Candidates in a channel's region, `role`, that are filled with the weights of `key`.

    `key` names the weights and quantities: those of the role, or of flips to one charge.
    """

    channel: str
    role: str
    key: str
    mask: Mask


class Varied(NamedTuple):
    """What is filled of candidates whose jets have some energy.

    `quantities` are those of the events as measured. Observables, `values`, are by the key of their
    quantities, and weights by their key and by systematic.
    """

    candidates: Candidates
    quantities: Mapping[str, NDArray[Any]]
    filled: Sequence[Filled]
    values: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Mapping[str, Weights]]

    def of(self, part: Filled) -> Mapping[str, Any]:
        """The observables of a part."""
        return self.values.get(part.key, self.values[SIGNAL])


def _any(masks: Sequence[Mask], size: int) -> Mask:
    """The events that are in one of the masks."""
    either: Mask = np.logical_or.reduce([np.zeros(size, bool), *masks])
    return either


def _products(
    corrected: Mapping[str, Weights], variations: Mapping[str, Weights]
) -> dict[str, Weights]:
    """Products of weights by variation; a variation that one of them lacks is nominal there."""
    return {
        label: corrected.get(label, corrected[NOMINAL]) * variations.get(label, variations[NOMINAL])
        for label in {**variations, **corrected}
    }


class TopCoffeaProcessor(BranchesProcessor):
    """Observables by channel, region and systematic; each bin is a quadratic in the coefficients.

    `analysis` is a topcoffea analysis of the configuration, `working_points` the declared ones,
    `coefficients` the list to which all samples are remapped, `squares` how `EFTHist` keeps squared
    weights; `maps` are the measured rates by collection (with `nonprompt`), `flips` the map of
    charge flips, and `corrections` weights of simulated events. The metadata of a dataset has
    `data`, `process`, `year` and `wc_names`, the coefficients of an EFT sample in the order of its
    file (empty for other samples).

    For each observable, the accumulator has an `EFTHist` over channel, region (`signal`,
    `nonprompt` and `flips`, the last two weighted with rates), systematic and observable. It also
    has the events by channel in `cutflow`; in `coverage` and `entries`, where observables and
    failing leptons are on their axes and how the channels' weights are spread; and, with maps, the
    numbers of leptons whose rates weigh events in `failing`: all, those with a capped rate, and
    those in empty bins, which predict nothing. Data in signal regions is filled and counted only if
    the analysis is unblinded.
    """

    def __init__(
        self,
        analysis: TopCoffeaAnalysis,
        working_points: WorkingPoints,
        coefficients: Sequence[str],
        squares: bool | Sequence[Mapping[str, float]] = True,
        maps: Mapping[str, RateMap] | None = None,
        flips: FlipMap | None = None,
        corrections: Corrections = NO_CORRECTIONS,
    ) -> None:
        self._analysis, self._working_points = analysis, working_points
        self._coefficients, self._squares = tuple(coefficients), squares
        self._at_points = not isinstance(squares, bool)
        self._maps, self._flips = dict(maps or {}), flips
        self._corrections = corrections
        self._channels = {
            name: (
                [Expression(cut) for cut in channel.cuts],
                [(region, Expression(region.cut or "n_lep >= 0")) for region in channel.regions],
            )
            for name, channel in analysis.multiplied_channels().items()
        }
        self._observables = {
            name: Expression(observable["expression"])
            for name, observable in analysis.observables.items()
        }
        used = [*self._observables.values()]
        used += [Expression(text) for _, text in analysis.expressions()]
        for cuts, regions in self._channels.values():
            used += [*cuts, *(requirement for _, requirement in regions)]
        self._uses_z = any("m_z" in expression.names for expression in used)
        # by channel, those which jets of another energy don't change
        self._lepton_cuts = [
            [part for cut in cuts for part in cut.conjuncts if not part.names & JET_QUANTITIES]
            for cuts, _ in self._channels.values()
        ]
        self._flips_by = {
            name: self._flip_keys(*channel_cuts) for name, channel_cuts in self._channels.items()
        }

    def _flip_keys(
        self, cuts: Sequence[Expression], regions: Sequence[tuple[Region, Expression]]
    ) -> list[str]:
        """The keys with which events that predict flips count in a channel.

        If cuts or observables use charges, an event counts once for each charge; otherwise once for
        both, since its two parts aren't independent events.
        """
        if self._flips is None or all(region.role != FLIPS for region, _ in regions):
            return []
        charged = any(e.names & CHARGES for e in (*cuts, *self._observables.values()))
        return BY_CHARGE if charged else [FLIPS]

    def fill(self, branches: Branches) -> dict[str, Any]:
        """Fill one chunk of events; returns the accumulator."""
        is_data = branches.metadata["data"]
        analysis = self._analysis.of_year(branches.metadata["year"])
        undecided = Undecided(analysis.allow.not_finite)
        # select
        triggered = recorded(branches, analysis.triggers) & certified(branches)
        chosen, masks = self._leptons(branches, is_data, undecided)
        leptons = self._merged(chosen, is_data)
        selected = triggered & self._prompt(leptons, is_data)
        # weigh
        event_weight, eft = self._weights(branches)
        corrected = {NOMINAL: event_weight}
        if not is_data:
            factors = self._corrected(analysis.corrections, branches, masks)
            corrected = {name: event_weight * factor for name, factor in factors.items()}
        by_role = {
            role: _products(corrected, variations)
            for role, variations in self._by_role(leptons, chosen, is_data).items()
        }
        candidates = Candidates(
            np.arange(len(branches)),
            lepton_quantities(branches, chosen, leptons, selected & self._uses_z),
            SelectedJets(branches, chosen, analysis.jets, selected),
            ak.to_numpy(ak.all(leptons.tight, axis=1)),
            self._flipped(branches, chosen, is_data),
            by_role,
        ).some(selected)
        nominal = self._selected(candidates, is_data, undecided)
        # vary
        varied = [nominal]
        if not is_data:
            varied = [self._reweighted(nominal, branches)]
            varied += self._with_other_jets(candidates, branches.metadata, undecided)
        # fill
        histograms = {name: self._empty(name) for name in self._observables}
        self._fill(histograms, varied, branches, eft)
        covered = coverage([*self._observables, *map_edges(self._maps)])
        spread = entries(self._channel_axis())
        # events of an EFT sample have the weight of their Standard Model term
        standard = np.ones(len(candidates)) if eft is None else eft[candidates.rows, 0]
        self._cover(covered, spread, nominal, standard)
        counted = {"all": len(branches), "trigger": int(triggered.sum())}
        counted |= {f.channel: int(f.mask.sum()) for f in nominal.filled if f.role == SIGNAL}
        out = {**histograms, COVERAGE: covered, ENTRIES: spread, **undecided.counted()}
        out["cutflow"] = self._cutflow(counted)
        if not self._maps:
            return out
        weighted = np.zeros(len(branches), bool)
        weighted[candidates.rows] = _any(
            [f.mask for f in nominal.filled if f.role == NONPROMPT], len(candidates)
        )
        cover_maps(covered, self._maps, chosen, weighted)
        return {**out, FAILING: self._failing(leptons[weighted])}

    def _selected(
        self, candidates: Candidates, is_data: bool, counter: Undecided, scale: float = 1.0
    ) -> Varied:
        """The events of all channels, with all weights, if jets have `scale` times their energy."""
        seen = self._seen(candidates, scale)
        filled = list(self._masks(seen, candidates, is_data, counter))
        values = self._values(seen, filled, counter, len(candidates))
        return Varied(candidates, seen[SIGNAL], filled, values, candidates.weights)

    def _with_other_jets(
        self, candidates: Candidates, metadata: Mapping[str, Any], undecided: Undecided
    ) -> Iterator[Varied]:
        """The variations by other jet energies, with nominal weights."""
        scales = dict(self._jet_scales(metadata))
        if not scales:
            return
        movable = candidates.some(self._within_reach(candidates))
        for label, scale in scales.items():
            # lost events are counted once, not in every variation
            varied = self._selected(movable, False, undecided.anew(), scale)
            weights = {key: {label: of_key[NOMINAL]} for key, of_key in movable.weights.items()}
            yield varied._replace(weights=weights)

    @staticmethod
    def _seen(candidates: Candidates, scale: float = 1.0) -> dict[str, dict[str, NDArray[Any]]]:
        """The quantities of events if jets have `scale` times their energy: those of `signal`, and
        those after each flip that weighs events."""
        quantities = {**candidates.of_leptons, **candidates.jets.quantities(scale)}
        flips = [key for key in candidates.weights if key in FLIPPED]
        return {SIGNAL: quantities, **{key: _after_a_flip(quantities, key) for key in flips}}

    def _within_reach(self, candidates: Candidates) -> Mask:
        """The events that jets of another energy may bring into a channel.

        In the others, a cut on the leptons takes them out of each channel.
        """
        events = len(candidates)
        reached = [possible(cuts, candidates.of_leptons, events) for cuts in self._lepton_cuts]
        return _any(reached, events)

    def _merged(self, chosen: Mapping[str, Any], is_data: bool) -> Any:
        """The loose leptons of all collections by event, with the fields that maps and origins
        need."""
        fields = ("tight", *(("prompt",) if self._maps and not is_data else ()))
        return merged(chosen, (*LEPTON_FIELDS, *fields, *(("bin",) if self._maps else ())))

    def _prompt(self, leptons: Any, is_data: bool) -> Mask:
        """Events without a lepton that data predicts.

        Simulated events with non-prompt leptons are left out, since data in the application region
        predicts them.
        """
        if is_data or not self._maps:
            return np.ones(len(leptons), bool)
        prompt: Mask = ak.to_numpy(ak.all(leptons.prompt, axis=1))
        return prompt

    def _fill(
        self,
        histograms: Mapping[str, EFTHist],
        every: Sequence[Varied],
        branches: Branches,
        eft: NDArray[Any] | None,
    ) -> None:
        """Fill all variations; squares at points are computed once for each event."""
        names = branches.metadata["wc_names"] or None
        if eft is None or not self._at_points:
            for varied in every:
                for part in varied.filled:
                    self._fill_part(histograms, varied, part, coefficients=names, eft=eft)
            return
        among = np.zeros(len(branches), bool)
        for varied in every:
            chosen = _any([part.mask for part in varied.filled], len(varied.candidates))
            among[varied.candidates.rows[chosen]] = True
        rows = np.flatnonzero(among)
        for start in range(0, len(rows), TILE_EVENTS):
            tile = rows[start : start + TILE_EVENTS]
            terms = eft[tile]
            squared = next(iter(histograms.values())).squared(terms, names)
            for varied in every:
                for part in varied.filled:
                    self._fill_part(
                        histograms,
                        varied,
                        part,
                        tile,
                        coefficients=names,
                        eft=terms,
                        squared=squared,
                    )

    @staticmethod
    def _fill_part(
        histograms: Mapping[str, EFTHist],
        varied: Varied,
        part: Filled,
        tile: NDArray[np.int64] | None = None,
        **eft: Any,
    ) -> None:
        """Fill the events of a part, or those of them in a `tile` of rows in rising order, with
        their terms."""
        places = np.flatnonzero(part.mask)
        rows = varied.candidates.rows[places]
        if tile is not None:
            inside = slice(*np.searchsorted(rows, (tile[0], tile[-1] + 1)))
            places, rows = places[inside], np.searchsorted(tile, rows[inside])
        if not len(places):
            return
        of_part = varied.of(part)
        for systematic, weight in varied.weights[part.key].items():
            for observable, histogram in histograms.items():
                histogram.fill(
                    part.channel,
                    part.role,
                    systematic,
                    of_part[observable][places],
                    weight=weight[places],
                    rows=rows,
                    **eft,
                )

    def _values(
        self,
        seen: Mapping[str, Any],
        filled: Sequence[Filled],
        counter: Undecided,
        size: int,
    ) -> dict[str, dict[str, Any]]:
        """The observables by key of the leptons' quantities, in the events where they are
        filled."""
        values = {}
        for key, quantities in seen.items():
            masks = [f.mask for f in filled if (f.key if f.key in seen else SIGNAL) == key]
            among = _any(masks, size)
            values[key] = {
                name: counter.numbers(name, expression, quantities, among)
                for name, expression in self._observables.items()
            }
        return values

    def _channel_axis(self) -> hist.axis.StrCategory:
        return hist.axis.StrCategory(list(self._channels), name=CHANNEL, overflow=False)

    def _empty(self, name: str) -> EFTHist:
        observable = self._analysis.observables[name]
        return EFTHist(
            self._channel_axis(),
            hist.axis.StrCategory([SIGNAL, NONPROMPT, FLIPS], name=REGION, overflow=False),
            hist.axis.StrCategory([NOMINAL], name=SYSTEMATIC, growth=True),
            hist.axis.Variable(observable["edges"], name=name, label=observable["label"]),
            coefficients=self._coefficients,
            squares=self._squares,
        )

    def _cover(
        self,
        covered: Plain,
        spread: Weighted,
        nominal: Varied,
        standard: Weights,
    ) -> None:
        """Count where observables are on their axes, and how the channels' weights are spread."""
        for part in nominal.filled:
            rows = np.flatnonzero(part.mask)
            weight = (standard * nominal.weights[part.key][NOMINAL])[rows]
            enter(spread, part.channel, weight=weight)
            of_part = nominal.of(part)
            for name, edges in observable_edges(self._analysis).items():
                cover(covered, name, edges, of_part[name][rows], weight)

    @property
    def _nonprompt(self) -> Mapping[str, Any]:
        """The section `nonprompt` of an analysis that has maps."""
        assert self._analysis.nonprompt is not None
        return self._analysis.nonprompt

    def _cutflow(self, counted: Mapping[str, int]) -> hist.Hist[hist.storage.Int64]:
        steps = ["all", "trigger", *self._channels]
        cutflow = hist.Hist(
            hist.axis.StrCategory(steps, name="step", overflow=False),
            storage=hist.storage.Int64(),
        )
        cutflow[...] = [counted.get(step, 0) for step in steps]
        return cutflow

    def _failing(self, leptons: Any) -> hist.Hist[hist.storage.Int64]:
        failing = leptons.bin[~leptons.tight]
        bins = ak.to_numpy(ak.flatten(failing))
        rates, cap = stacked(self._maps)[1], self._nonprompt["cap"]
        empty = np.concatenate([one.empty.ravel() for one in self._maps.values()])
        numbers = {
            "all": len(bins),
            CAPPED: int((rates[bins] > cap).sum()),
            UNMEASURED: int(empty[bins].sum()),
        }
        kinds = hist.axis.StrCategory(list(numbers), name="kind", overflow=False)
        out = hist.Hist(kinds, storage=hist.storage.Int64())
        out[...] = list(numbers.values())
        return out

    def _leptons(
        self, branches: Branches, is_data: bool, undecided: Undecided
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Loose leptons by collection, and masks of the events' loose and tight leptons.

        Each loose lepton has whether it is `tight`, the bin of its rate, and whether it is
        `prompt`.
        """
        offsets = stacked(self._maps)[0] if self._maps else {}
        by_collection, masks = {}, {}
        for collection, roles in self._analysis.working_points.items():
            leptons, loose, tight = loose_leptons(
                self._working_points, collection, roles, branches.events[collection], undecided
            )
            masks[collection] = {"loose": loose, "tight": tight}
            if self._maps:
                pt, eta = (ak.to_numpy(ak.flatten(leptons[field])) for field in ("pt", "eta"))
                bins = self._maps[collection].bins(pt, np.abs(eta)) + offsets[collection]
                leptons["bin"] = ak.unflatten(bins, ak.num(leptons, axis=1))
                if not is_data:
                    leptons["prompt"] = is_prompt(leptons)
            by_collection[collection] = leptons
        return by_collection, masks

    def _corrected(
        self, declared: Mapping[str, Any], branches: Branches, masks: Mapping[str, Any]
    ) -> dict[str, Weights]:
        """The product of the corrections of simulated events, `nominal` and with one of them
        varied."""
        weight = partial(self._corrections.of_event, branches=branches, chosen=masks)
        each = {name: weight(name) for name in declared}
        out = {NOMINAL: np.prod([np.ones(len(branches)), *each.values()], axis=0)}
        for name, correction in declared.items():
            for side in correction.get("variations", {}):
                varied = {**each, name: weight(name, variation=f"{name}_{side}")}
                out[name + side.capitalize()] = np.prod(list(varied.values()), axis=0)
        return out

    def _flipped(self, branches: Branches, chosen: Mapping[str, Any], is_data: bool) -> Mask:
        """Simulated events with an electron whose charge is wrong, which data predicts."""
        if self._flips is None or is_data or "Electron" not in chosen:
            return np.zeros(len(branches), bool)
        electrons = chosen["Electron"]
        index = electrons.genPartIdx
        origin = branches.events.GenPart.pdgId[ak.mask(index, index >= 0)]
        # an electron has the id +11 and the charge -1
        wrong = ak.fill_none(origin * electrons.charge == ELECTRON, False)
        flipped: Mask = ak.to_numpy(ak.any(wrong, axis=1))
        return flipped

    def _by_role(
        self, leptons: Any, chosen: Mapping[str, Any], is_data: bool
    ) -> dict[str, dict[str, Weights]]:
        """The weights of events in each region, by variation; for flips also by charge after the
        flip."""
        number = len(leptons)
        roles: dict[str, dict[str, Weights]] = {SIGNAL: {NOMINAL: np.ones(number)}}
        if self._maps:
            cap = self._nonprompt["cap"]
            roles[NONPROMPT] = {
                name: predict(leptons.bin, leptons.tight, np.maximum(rate, 0.0), cap).weight
                for name, rate in self._rates().items()
            }
        if self._flips is not None and is_data:
            assert self._analysis.flips is not None
            nuisance = flips_nuisance(self._analysis.flips)
            names = {
                NOMINAL: NOMINAL,
                "stat_up": f"{nuisance}Up",
                "stat_down": f"{nuisance}Down",
            }
            for key in dict.fromkeys(key for keys in self._flips_by.values() for key in keys):
                roles[key] = {
                    names[systematic]: self._flips.weights(chosen, systematic, FLIPPED[key])
                    for systematic in self._flips.systematics
                }
        return roles

    def _rates(self) -> dict[str, NDArray[np.float64]]:
        """The rates of all maps' bins, `nominal` and with one map varied.

        The variations are the statistics of a map's bins together, and each of its systematics.
        """
        offsets, rates = stacked(self._maps)
        out = {NOMINAL: rates}
        for collection, rate_map in self._maps.items():
            place = slice(offsets[collection], offsets[collection] + rate_map.size)
            measured = self._nonprompt["maps"][collection]
            statistics = (rate_map.rate + rate_map.sigma, rate_map.rate - rate_map.sigma)
            variations = {NONPROMPT_RATE.format(map=measured): statistics}
            variations |= {
                OF_A_MAP.format(collection=collection, name=name): pair
                for name, pair in rate_map.systematics.items()
            }
            for full, pair in variations.items():
                for direction, rate in zip(("Up", "Down"), pair, strict=True):
                    out[full + direction] = rates.copy()
                    out[full + direction][place] = rate.ravel()
        return out

    def _jet_scales(self, metadata: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """The variations of a simulated process by other jet energies, with their factors."""
        for name, shape in self._analysis.systematics.shape.items():
            if varies(shape, metadata["process"]):
                for direction, factor in shape.get("jet_scale", {}).items():
                    yield name + direction.capitalize(), factor

    def _reweighted(
        self,
        nominal: Varied,
        branches: Branches,
    ) -> Varied:
        """The nominal events, whose weights have all their variations.

        These are the declared expressions, and theory weights, which NanoAOD stores relative to the
        nominal weight.
        """
        systematics = self._analysis.systematics
        among = _any([f.mask for f in nominal.filled], len(nominal.candidates))
        factors: dict[str, Any] = {}
        for name, shape in systematics.shape.items():
            if varies(shape, branches.metadata["process"]):
                for direction, text in shape.get("weight", {}).items():
                    label = f"systematics.shape.{name}.weight.{direction}"
                    number = REFUSING.numbers(label, Expression(text), nominal.quantities, among)
                    factors[name + direction.capitalize()] = number
        for name, theory in systematics.theory.items():
            if varies(theory, branches.metadata["process"]):
                for direction in ("up", "down"):
                    factor = self._theory(branches, theory, direction)
                    factors[name + direction.capitalize()] = factor[nominal.candidates.rows]
        weights = {
            role: {**varied, **{name: varied[NOMINAL] * f for name, f in factors.items()}}
            for role, varied in nominal.weights.items()
        }
        return nominal._replace(weights=weights)

    @staticmethod
    def _theory(branches: Branches, theory: Mapping[str, Any], direction: str) -> Weights:
        branch, index = theory["branch"], theory[direction]
        values = branches[branch]
        if len(values) and int(ak.min(ak.num(values, axis=1))) <= index:
            raise DataFileError(
                f"dataset {branches.metadata['dataset']}: {branch} has fewer than {index + 1} "
                "values"
            )
        varied: NDArray[Any] = ak.to_numpy(values[:, index])
        return varied.astype(np.float64)

    def _masks(
        self,
        seen: Mapping[str, Mapping[str, Any]],
        candidates: Candidates,
        is_data: bool,
        undecided: Undecided,
    ) -> Iterator[Filled]:
        """The events of each channel and region, and the key of their weights."""
        everywhere = np.ones(len(candidates), bool)
        for name, (cuts, regions) in self._channels.items():
            passing = undecided.keeps(name, cuts, seen[SIGNAL], everywhere)
            for region, requirement in regions:
                without_map = (region.role == NONPROMPT and not self._maps) or (
                    region.role == FLIPS and self._flips is None
                )
                # data in a signal region stays blind unless the analysis is unblinded
                blind = is_data and region.role == SIGNAL and not self._analysis.unblind
                if without_map or blind or (region.data_only and not is_data):
                    continue
                mask = undecided.keeps(name, [requirement], seen[SIGNAL], everywhere)
                mask = mask & (candidates.tight if region.tight else ~candidates.tight)
                if region.predicted:
                    mask &= ~candidates.flipped
                if region.role != FLIPS:
                    yield Filled(name, region.role, region.role, passing & mask)
                    continue
                for key in self._flips_by[name]:
                    # already counted with the measured charges
                    flips = undecided.anew().keeps(name, cuts, seen[key], mask)
                    yield Filled(name, FLIPS, key, flips & mask)

    def _weights(self, branches: Branches) -> tuple[Weights, NDArray[Any] | None]:
        """Each event's weight, and the terms of an EFT sample, whose weights are in them."""
        names, dataset = branches.metadata["wc_names"], branches.metadata["dataset"]
        if bool(names) != (EFT_COEFFICIENTS in branches):
            problem = "has no" if names else "declares no wc_names for its"
            raise DataFileError(f"dataset {dataset}: {problem} {EFT_COEFFICIENTS}")
        if not names:
            return weights(branches), None
        expected = len(quadratic_terms(names))
        counts = ak.to_numpy(ak.num(branches[EFT_COEFFICIENTS], axis=1))
        if len(counts) and (counts != expected).any():
            raise DataFileError(
                f"dataset {dataset}: an event has {counts[counts != expected][0]} "
                f"{EFT_COEFFICIENTS}; its wc_names ({', '.join(names)}) make {expected}"
            )
        terms = ak.to_numpy(ak.flatten(branches[EFT_COEFFICIENTS])).reshape(-1, expected)
        return np.ones(len(branches)), terms
