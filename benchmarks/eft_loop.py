"""The EFT event loop beside coffea with a fill for each term, in one interleaved run.

    python benchmarks/eft_loop.py CACHE [--events N] [--rounds N] [--beside CHECKOUT]

The channels and observables of `config/analyses/tth_eft.yaml` are filled from a file of the EFT
signal with 9 coefficients (55 terms) and from one with 26 (378 terms), with the nominal jets and
with five sources of jet energy, up and down. The files are made once in the folder CACHE. Ways,
each on one core:

- `looseleaf`: `process_task`, as a worker runs it, with the check of the file's content,
- `with squares`: the same with squared weights, as the configuration keeps them,
- `nominal jets`: looseleaf without variations of jets,
- `nothing chosen`: looseleaf with the channels empty, so that nothing is filled,
- `Runner`: the same processor under coffea's Runner, on NanoEvents,
- `coffea`: a plain processor under coffea's Runner, with a boost-histogram fill for each term, and
- `coffea, nominal jets`: this without variations of jets,
- `before: ...`: the first three with the looseleaf of another CHECKOUT.

The bins of all ways that fill the same are compared with those of `looseleaf`. What counts are the
ratios of the medians of CPU times; the times are this machine's.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import awkward as ak
import hist
import numpy as np
import uproot
import yaml
from coffea.processor import IterativeExecutor, ProcessorABC, Runner

# the benchmark's processes inherit the number of threads that is set there
from event_loop import CONFIG, in_turn, options_of, serve, side_by_side
from writing import source_of, write

from looseleaf.efthist import EFTHist, quadratic_terms
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing import runner
from looseleaf.processing.fileset import Chunk
from looseleaf.processing.stage import columns_read
from looseleaf.samples import generate, physics
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.notebook import SkimmedNanoAOD
from looseleaf.topcoffea.process import squares_of
from looseleaf.topcoffea.processor import TopCoffeaProcessor

STEP = 20_000
SOURCES = {f"jes{number}": 0.01 * number for number in range(1, 6)}
SHIPPED = yaml.safe_load((CONFIG / "analyses/tth_eft.yaml").read_text())
POINTS = yaml.safe_load((CONFIG / "working_points.yaml").read_text())
NOTHING = dict.fromkeys(SHIPPED["channels"], "n_lep < 0")


def analysis(jets: bool, chosen: bool = True) -> TopCoffeaAnalysis:
    shape = {
        name: {"jet_scale": {"up": 1 + size, "down": 1 - size}} for name, size in SOURCES.items()
    }
    left_out = ("datasets", "leptons", "systematics")
    declared = {key: value for key, value in SHIPPED.items() if key not in left_out}
    declared["working_points"] = {
        collection: {"loose": point, "tight": point, "momentum": "raw"}
        for collection, point in SHIPPED["leptons"].items()
    }
    declared["systematics"] = {"shape": shape if jets else {}}
    declared["corrections"] = {}
    declared["channels"] = SHIPPED["channels"] if chosen else NOTHING
    return TopCoffeaAnalysis.from_json(declared)


def coefficients_of(path: str) -> list[str]:
    return [f"c{number}" for number in range(int(Path(path).name.split("_")[0]))]


def processor(path: str, declared: TopCoffeaAnalysis, squares: bool = False) -> TopCoffeaProcessor:
    names = coefficients_of(path)
    at_points = replace(declared, squares=None if len(names) <= 9 else "points", points={})
    kept = squares_of(at_points, names) if squares else False
    return TopCoffeaProcessor(declared, WorkingPoints(POINTS), names, kept)


def metadata(path: str) -> dict[str, Any]:
    return {
        "dataset": "d", "data": False, "process": "ttH", "year": "2018",
        "wc_names": coefficients_of(path),
    }  # fmt: skip


def steps(number: int, events: int) -> Iterator[dict[str, Any]]:
    """Events of the signal with a number of coefficients, in steps."""
    rng = np.random.default_rng(2021)
    truth = partial(generate.truth_probability, str(CONFIG / "demo/truth.json"))
    for first in range(0, events, STEP):
        size = min(STEP, events - first)
        signal = physics.eft(rng, size, number)
        columns, _ = generate.branches(rng, signal, truth)
        columns["event"] = np.arange(first, first + size, dtype=np.uint64)
        columns["run"] = columns["luminosityBlock"] = np.ones(size, np.uint32)
        columns["genWeight"] = signal.gen_weight
        terms = signal.eft.shape[1]
        columns["EFTfitCoefficients"] = ak.unflatten(signal.eft.ravel(), np.full(size, terms))
        yield columns


def made(folder: Path, number: int, events: int) -> Path:
    """A file of the signal with a number of coefficients, written if it isn't there."""
    path = folder / f"{number}_{events}.root"
    if not path.exists():
        write(path, steps(number, events), uproot.LZ4(1))
    return path


def by_looseleaf(
    path: str, jets: bool = True, squares: bool = False, chosen: bool = True
) -> dict[str, Any]:
    runner._opened.cache_clear()
    with uproot.open(path) as file:
        events = file["Events"].num_entries
    source = source_of(Path(path), events, 0.0)
    declared, told = analysis(jets, chosen), metadata(path)
    counts = processor(path, declared, squares)
    columns = columns_read(declared, {"d": told}, WorkingPoints(POINTS))["d"]
    started = time.process_time()
    task = [Chunk("d", source, 0, events)], {**told, "columns": sorted(columns)}
    found, _ = runner.process_task(counts, *task)
    return timed(started, found)


def by_runner(path: str, counts: ProcessorABC) -> dict[str, Any]:
    run = Runner(IterativeExecutor(status=False), schema=SkimmedNanoAOD, chunksize=1 << 30)
    told = metadata(path)
    del told["dataset"]
    fileset = {"d": {"files": {path: "Events"}, "metadata": told}}
    started = time.process_time()
    return timed(started, run(fileset, counts))


def timed(started: float, found: dict[str, Any]) -> dict[str, Any]:
    cpu_s = time.process_time() - started
    return {"cpu_s": cpu_s, "bins": {name: found[name] for name in SHIPPED["observables"]}}


class Plain(ProcessorABC):  # type: ignore[misc]
    """The same selection and histograms on NanoEvents: a boost-histogram, and a fill, for each
    term."""

    def __init__(self, path: str, jets: bool) -> None:
        self._names, self._jets = coefficients_of(path), jets

    def process(self, events: Any) -> dict[str, Any]:
        muons, electrons = events.Muon, events.Electron
        muons = muons[
            (muons.pt > 10) & (abs(muons.eta) < 2.4) & (abs(muons.dxy) < 0.05)
            & (abs(muons.dz) < 0.1) & (muons.sip3d < 4) & muons.mediumId
            & (muons.ptErr / muons.pt < 0.2) & (muons.tightCharge == 2)
            & (muons.miniPFRelIso_all < 0.4) & muons.tightId & (muons.miniPFRelIso_all < 0.16)
        ]  # fmt: skip
        electrons = electrons[
            (electrons.pt > 10) & (abs(electrons.eta) < 2.5) & (abs(electrons.dxy) < 0.05)
            & (abs(electrons.dz) < 0.1) & (electrons.sip3d < 4) & electrons.convVeto
            & (electrons.lostHits == 0) & (electrons.tightCharge == 2)
            & (electrons.miniPFRelIso_all < 0.4) & electrons.mvaFall17V2noIso_WPL
            & (electrons.miniPFRelIso_all < 0.12)
        ]  # fmt: skip
        leptons = ak.concatenate([
            ak.zip({field: one[field] for field in ("pt", "eta", "phi", "charge")})
            for one in (muons, electrons)
        ], axis=1)  # fmt: skip
        number, charge = ak.num(leptons), ak.sum(leptons.charge, axis=1)
        lep0_pt = ak.fill_none(ak.max(leptons.pt, axis=1), 0)
        fired = events.HLT.IsoMu24 | events.HLT.Ele32_WPTight_Gsf
        jets = events.Jet[abs(events.Jet.eta) < 2.4]
        pairs = ak.cartesian({"jet": jets, "lepton": leptons}, nested=True)
        dphi = (pairs.jet.phi - pairs.lepton.phi + np.pi) % (2 * np.pi) - np.pi
        away = ak.all(np.hypot(dphi, pairs.jet.eta - pairs.lepton.eta) > 0.4, axis=2)
        jets = jets[away]
        scales = {"nominal": 1.0}
        for name, size in SOURCES.items() if self._jets else ():
            scales |= {f"{name}Up": 1 + size, f"{name}Down": 1 - size}
        terms = ak.to_numpy(events.EFTfitCoefficients)
        axes = [
            hist.axis.StrCategory(list(SHIPPED["channels"]), name="channel"),
            hist.axis.StrCategory(list(scales), name="systematic"),
        ]
        out = {
            name: [
                hist.Hist(
                    *axes, hist.axis.Variable(one["edges"], name=name),
                    storage=hist.storage.Double(),
                )
                for _ in range(terms.shape[1])
            ]
            for name, one in SHIPPED["observables"].items()
        }  # fmt: skip
        for label, scale in scales.items():
            pt = jets.pt * scale
            hard = pt > 30
            n_jet = ak.sum(hard, axis=1)
            b_tagged = ak.sum(hard & (jets.btagDeepFlavB > 0.2783), axis=1) >= 1
            values = {"lep0_pt": lep0_pt, "ht": ak.sum(pt[hard], axis=1)}
            channels = {
                "2lss_4j": (number == 2) & (abs(charge) == 2) & (n_jet >= 4),
                "2los_4j": (number == 2) & (charge == 0) & (n_jet >= 4),
                "3l_2j": (number == 3) & (abs(charge) == 1) & (n_jet >= 2),
            }
            for channel, passing in channels.items():
                kept = ak.to_numpy(passing & b_tagged & fired)
                of_channel = terms[kept]
                for name, value in values.items():
                    filled = ak.to_numpy(value[kept])
                    for term, histogram in enumerate(out[name]):
                        histogram.fill(channel, label, filled, weight=of_channel[:, term])
        return out

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return accumulator


WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "looseleaf": by_looseleaf,
    "with squares": partial(by_looseleaf, squares=True),
    "nominal jets": partial(by_looseleaf, jets=False),
    "nothing chosen": partial(by_looseleaf, chosen=False),
    "Runner": lambda path: by_runner(path, processor(path, analysis(True))),
    "coffea": lambda path: by_runner(path, Plain(path, True)),
    "coffea, nominal jets": lambda path: by_runner(path, Plain(path, False)),
}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The largest difference of a bin's term, as a part of the term's sum over bins."""
    largest = 0.0
    for name, filled in expected.items():
        for channel in SHIPPED["channels"]:
            for label in filled.axes["systematic"]:
                where = {"channel": channel, "systematic": label}
                terms = filled.select(region="signal", **where).terms(flow=True)
                other = terms_of(found[name], where)
                if other is None:
                    continue
                scale = np.abs(terms).sum(axis=0) + 1e-300
                largest = max(largest, float((np.abs(terms - other) / scale).max()))
    return f"up to {largest:.1e}"


def terms_of(found: Any, where: dict[str, str]) -> Any:
    """The terms of a channel and systematic, shape (bins, terms); None if it isn't filled."""
    if isinstance(found, EFTHist):
        if where["systematic"] not in found.axes["systematic"]:
            return None
        return found.select(region="signal", **where).terms(flow=True)
    if where["systematic"] not in found[0].axes["systematic"]:
        return None
    return np.stack(
        [one[where["channel"], where["systematic"], :].values(flow=True) for one in found], axis=1
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coefficients", type=int, nargs="*", default=[9, 26])
    options = options_of(parser, 60_000)
    if options.serve:
        serve(WAYS)
        return
    again = {f"before: {way}": way for way in ("looseleaf", "with squares", "nominal jets")}
    with side_by_side(__file__, options, WAYS, again) as ways:
        for number in options.coefficients:
            path = made(options.cache, number, options.events)
            times, results = in_turn(ways, path, options.rounds)
            print(f"\n{number} coefficients, {len(quadratic_terms(['c'] * number))} terms")
            mine = median(times["looseleaf"])
            for way, measured in times.items():
                spread = f"{min(measured) * 1e3:.0f}-{max(measured) * 1e3:.0f}"
                empty = way == "nothing chosen"
                bins, expected = results[way]["bins"], results["looseleaf"]["bins"]
                told = "" if empty else difference(bins, expected)
                middle = median(measured)
                print(
                    f"{way:21} {middle * 1e3:7.0f} ms ({spread:>11}) {middle / mine:6.2f} looseleaf"
                    f"  {told}"
                )


if __name__ == "__main__":
    main()
