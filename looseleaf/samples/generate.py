"""Writing demo datasets as NanoAOD files, and registering them in a catalogue."""

import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import awkward as ak
import correctionlib
import numpy as np
import uproot

from looseleaf.files import whole
from looseleaf.progress import Progress
from looseleaf.samples import physics
from looseleaf.samples.physics import Array, Events, Objects
from looseleaf.stage_files import FileRecord, block_name, describe, write_catalogue

COMPRESSION = {
    "lz4": uproot.LZ4(1),
    "zstd": uproot.ZSTD(1),
    "zlib": uproot.ZLIB(1),
}
# single-lepton paths: their collection, threshold in GeV and efficiency above it
TRIGGERS = {
    "HLT_Mu8": ("Muon", 8, 0.96),
    "HLT_Mu17": ("Muon", 17, 0.96),
    "HLT_Mu8_TrkIsoVVL": ("Muon", 8, 0.90),
    "HLT_Mu17_TrkIsoVVL": ("Muon", 17, 0.90),
    "HLT_IsoMu24": ("Muon", 24, 0.90),
    "HLT_Ele8_CaloIdM_TrackIdM_PFJet30": ("Electron", 8, 0.93),
    "HLT_Ele17_CaloIdM_TrackIdM_PFJet30": ("Electron", 17, 0.93),
    "HLT_Ele12_CaloIdL_TrackIdL_IsoVL_PFJet30": ("Electron", 12, 0.90),
    "HLT_Ele23_CaloIdL_TrackIdL_IsoVL_PFJet30": ("Electron", 23, 0.90),
    "HLT_Ele32_WPTight_Gsf": ("Electron", 32, 0.90),
}
# the path whose muons can have trigger objects, and the bit of its filter
MATCHED_PATH, FILTER_BIT = "HLT_IsoMu24", 8
DATA_RUN = 315257
EVENTS_PER_LUMI = 500
# of data; events are in all of them, so that a share of the sections is a share of the luminosity
DATA_LUMIS = 100


@dataclass(frozen=True)
class Part:
    """A number of events of one process: a whole simulated file, or a share of a data file."""

    kind: str
    events: int
    pthat: tuple[float, float] | None = None
    flavour: str | None = None
    coefficients: int = 0
    # probabilities that an electron's charge is wrong, in barrel and endcap
    charge_flips: tuple[float, float] | None = None
    # the probability that a loose prompt lepton is tight
    prompt_tight: float | None = None
    # the probability that a muon fires MATCHED_PATH
    muon_trigger: float | None = None


@dataclass(frozen=True)
class SampleFile:
    """A file to write; all random numbers follow from `entropy`.

    In data, only events are kept that a trigger path of `data_flavour` recorded.
    """

    path: Path
    name: str
    block: str
    parts: tuple[Part, ...]
    is_data: bool
    data_flavour: str
    first_event: int
    entropy: tuple[int, ...]
    step: int
    compression: str
    truth: str


def seed_of(*words: int | str) -> tuple[int, ...]:
    """Numbers for `numpy.random.SeedSequence`, one for each word of a name."""
    return tuple(crc32(word.encode()) if isinstance(word, str) else word for word in words)


@cache
def _truth(path: str) -> correctionlib.CorrectionSet:
    return correctionlib.CorrectionSet.from_file(path)


def truth_probability(path: str, flavour: str, pt: Array, abs_eta: Array) -> Array:
    """f(pT, |eta|) of a correctionlib file; pt in GeV."""
    correction = _truth(path)[flavour.lower()]
    pt, abs_eta = np.asarray(pt, np.float64), np.asarray(abs_eta, np.float64)
    return np.asarray(correction.evaluate(pt, abs_eta))


def _make(rng: np.random.Generator, part: Part, size: int) -> Events:
    match part.kind:
        case "qcd":
            assert part.pthat is not None
            assert part.flavour is not None
            return physics.qcd(rng, size, part.pthat, part.flavour)
        case "wjets":
            return physics.wjets(rng, size)
        case "dy":
            return physics.dy(rng, size)
        case "z" | "continuum":
            return physics.pairs(rng, size, resonant=part.kind == "z")
        case "ttbar":
            return physics.ttbar(rng, size)
        case "eft":
            return physics.eft(rng, size, part.coefficients)
    raise ValueError(f"no demo process {part.kind!r}")


def _by_event(parts: list[Objects]) -> tuple[Objects, Array]:
    """Objects of several origins as one list, sorted by event and by falling pT."""
    joined = Objects(*[np.concatenate([getattr(p, f) for p in parts]) for f in FIELDS])
    order = np.lexsort((-joined.pt, joined.event))
    return Objects(*[getattr(joined, f)[order] for f in FIELDS]), order


FIELDS = ("event", "pt", "eta", "phi", "charge", "prompt")


def branches(
    rng: np.random.Generator,
    events: Events,
    truth: physics.Truth,
    charge_flips: tuple[float, float] | None = None,
    prompt_tight: float | None = None,
    muon_trigger: float | None = None,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The branches of a batch of events, and which of them a path of each flavour recorded."""
    if prompt_tight is None:
        prompt_tight = physics.PROMPT_TIGHT
    out: dict[str, Any] = {}
    leading: dict[str, Array] = {}
    # generated particles, and their numbers by event so far
    made: list[ak.Array] = []
    before = np.zeros(events.size, np.int64)
    for flavour, origins in events.leptons.items():
        kept = [Objects(*[getattr(o, f)[o.pt > 5] for f in FIELDS]) for o in origins]
        leptons = _by_event(kept)[0] if kept else Objects.of(*[np.zeros(0)] * 4)
        index = leptons.event.astype(np.int64)
        leading[flavour] = np.zeros(events.size, np.float32)
        np.maximum.at(leading[flavour], index, leptons.pt)
        size = len(index)
        identity = (-physics.PDG_ID[flavour] * leptons.charge).astype(np.int32)
        if charge_flips is not None and flavour == "Electron":
            leptons.charge = physics.flipped(rng, leptons, charge_flips)
        content = {
            "pt": leptons.pt,
            "eta": leptons.eta,
            "phi": leptons.phi,
            "mass": np.full(size, physics.MASS_GEV[flavour], np.float32),
            "charge": leptons.charge.astype(np.int32),
            "pdgId": (-physics.PDG_ID[flavour] * leptons.charge).astype(np.int32),
            **physics.quality(rng, leptons, flavour, truth, prompt_tight),
        }
        if events.gen_weight is not None:
            content["genPartFlav"] = np.where(leptons.prompt, 1, 5).astype(np.uint8)
            particles = _jagged({"pdgId": identity}, index, events.size)
            places = ak.flatten(ak.local_index(particles, axis=1) + before)
            content["genPartIdx"] = ak.to_numpy(places).astype(np.int32)
            before += ak.to_numpy(ak.num(particles, axis=1))
            made.append(particles)
        out[flavour] = _jagged(content, index, events.size)
    if made:
        out["GenPart"] = ak.concatenate(made, axis=1)
    jets, _ = _by_event([Objects(*[getattr(o, f)[o.pt > 15] for f in FIELDS]) for o in events.jets])
    size = len(jets.pt)
    u = rng.random(size)
    content = {
        "pt": jets.pt,
        "eta": jets.eta,
        "phi": jets.phi,
        "mass": (0.12 * jets.pt).astype(np.float32),
        "jetId": np.full(size, 6, np.int32),
        "btagDeepFlavB": np.where(jets.prompt, u**0.25, u**6).astype(np.float32),
    }
    out["Jet"] = _jagged(content, jets.event.astype(np.int64), events.size)
    out["MET_pt"] = np.hypot(events.met_x, events.met_y).astype(np.float32)
    out["MET_phi"] = np.arctan2(events.met_y, events.met_x).astype(np.float32)
    out["PV_npvs"] = rng.poisson(32, events.size).astype(np.int32)
    for path, (flavour, threshold, efficiency) in TRIGGERS.items():
        out[path] = (leading[flavour] > threshold) & (rng.random(events.size) < efficiency)
    if muon_trigger is not None:
        out |= _fired(rng.spawn(1)[0], out["Muon"], muon_trigger)
    recorded = {
        flavour: np.any([out[path] for path, (of, *_) in TRIGGERS.items() if of == flavour], axis=0)
        for flavour in events.leptons
    }
    return out, recorded


def _fired(rng: np.random.Generator, muons: ak.Array, probability: float) -> dict[str, Any]:
    """Trigger objects of the muons that fire MATCHED_PATH, each with this probability above its
    threshold, and the path's decision, which is theirs."""
    threshold = TRIGGERS[MATCHED_PATH][1]
    drawn = ak.unflatten(rng.random(int(ak.sum(ak.num(muons)))), ak.num(muons))
    fires = (muons.pt > threshold) & (drawn < probability)
    objects = {name: muons[name][fires] for name in ("pt", "eta", "phi")}
    whole_numbers = ak.values_astype(ak.ones_like(objects["pt"]), np.int32)
    objects |= {"id": 13 * whole_numbers, "filterBits": FILTER_BIT * whole_numbers}
    return {"TrigObj": ak.zip(objects), MATCHED_PATH: ak.to_numpy(ak.any(fires, axis=1))}


def _jagged(content: Mapping[str, Array], event: Array, size: int) -> ak.Array:
    counts = np.bincount(event, minlength=size)
    return ak.unflatten(ak.zip(dict(content)), counts)


def steps_of(file: SampleFile) -> Iterator[tuple[np.random.Generator, Part, int]]:
    """The batches of a file, each with its own generator of random numbers.

    The result depends on the seed and the step, not on the process that makes a batch.
    """
    for number, part in enumerate(file.parts):
        # a batch without events still defines the branches
        for batch, start in enumerate(range(0, max(part.events, 1), file.step)):
            sequence = np.random.SeedSequence((*file.entropy, number, batch))
            yield np.random.default_rng(sequence), part, min(file.step, part.events - start)


def write_file(file: SampleFile) -> FileRecord:
    """Write one NanoAOD file, completely or not at all, and describe it."""
    identity = np.random.SeedSequence((*file.entropy, 1 << 20)).generate_state(2, np.uint64)
    known = uuid.UUID(bytes=identity.tobytes(), version=4)
    first = file.first_event
    sumw, sumw2, generated = 0.0, 0.0, 0
    truth = partial(truth_probability, file.truth)
    with (
        whole(file.path) as part_path,
        uproot.recreate(
            part_path, compression=COMPRESSION[file.compression], uuid_function=lambda: known
        ) as root,
    ):
        tree = None
        for rng, part, size in steps_of(file):
            events = _make(rng, part, size)
            if file.is_data:
                events.gen_weight = None
            columns, recorded = branches(
                rng, events, truth, part.charge_flips, part.prompt_tight, part.muon_trigger
            )
            number = np.arange(first, first + size, dtype=np.uint64)
            columns["event"] = number
            columns["luminosityBlock"] = (
                rng.integers(1, DATA_LUMIS + 1, size)
                if file.is_data
                else number // EVENTS_PER_LUMI + 1
            ).astype(np.uint32)
            columns["run"] = np.full(size, DATA_RUN if file.is_data else 1, np.uint32)
            if events.gen_weight is not None:
                columns["genWeight"] = events.gen_weight
                sumw += float(events.gen_weight.sum(dtype=np.float64))
                sumw2 += float(np.square(events.gen_weight, dtype=np.float64).sum())
            for name, values in (
                ("EFTfitCoefficients", events.eft),
                ("PSWeight", events.ps_weight),
            ):
                if values is not None:
                    places = np.full(size, values.shape[1])
                    columns[name] = ak.unflatten(values.ravel(), places)
            if file.is_data:
                kept = recorded[file.data_flavour]
                columns = {name: value[kept] for name, value in columns.items()}
            if tree is None:
                tree = root.mktree("Events", {n: ak.type(v).content for n, v in columns.items()})
            tree.extend(columns)
            first += size
            generated += size
        if file.is_data:
            lumis = np.arange(1, DATA_LUMIS + 1, dtype=np.uint32)
            blocks: dict[str, Array] = {
                "run": np.full(DATA_LUMIS, DATA_RUN, np.uint32),
                "luminosityBlock": lumis,
            }
            root.mktree("LuminosityBlocks", {n: v.dtype for n, v in blocks.items()}).extend(blocks)
        else:
            runs: dict[str, Array] = {
                "run": np.array([1], np.uint32),
                "genEventCount": np.array([generated], np.int64),
                "genEventSumw": np.array([sumw]),
                "genEventSumw2": np.array([sumw2]),
            }
            root.mktree("Runs", {n: v.dtype for n, v in runs.items()}).extend(runs)
    return describe(file.path, file.name, file.block)


def _terms(dataset: Mapping[str, Any]) -> Part:
    sample = dataset["sample"]
    pthat, flips = sample.get("pthat"), sample.get("charge_flips")
    return Part(
        kind=sample["kind"],
        events=sample.get("events", 0),
        pthat=tuple(pthat) if pthat else None,
        flavour=sample.get("flavour"),
        coefficients=len(dataset.get("wc_names", [])),
        charge_flips=(flips["barrel"], flips["endcap"]) if flips else None,
        prompt_tight=sample.get("prompt_tight"),
        muon_trigger=sample.get("muon_trigger"),
    )


def plan(
    name: str,
    datasets: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    folder: Path,
    truth: str,
) -> list[SampleFile]:
    """The files of one demo dataset.

    Simulated events are distributed evenly. A data file has a Poisson number of events of each
    process in its `sum_of`, from the cross section and the luminosity; `scale` doesn't apply to
    data, whose number of events follows from its luminosity. Charge flips, `prompt_tight` and
    `muon_trigger` of a data file apply to the events of each process.
    """
    dataset = datasets[name]
    sample = dataset["sample"]
    number = sample["files"]
    own = _terms(dataset)
    entropy = seed_of(settings["seed"], name)
    shares: list[tuple[Part, ...]] = []
    if sample["kind"] == "data":
        rng = np.random.default_rng(entropy)
        drawn = []
        for part in sample["sum_of"]:
            expected = datasets[part]["xsec_pb"] * 1000 * sample["lumi_ifb"]
            terms = _terms(datasets[part])
            terms = replace(
                terms,
                charge_flips=own.charge_flips or terms.charge_flips,
                prompt_tight=terms.prompt_tight if own.prompt_tight is None else own.prompt_tight,
                muon_trigger=terms.muon_trigger if own.muon_trigger is None else own.muon_trigger,
            )
            drawn.append((terms, int(rng.poisson(expected))))
        for index in range(number):
            shares.append(
                tuple(_resized(part, share(total, number, index)) for part, total in drawn)
            )
    else:
        total = round(own.events * settings["scale"])
        shares = [(_resized(own, share(total, number, index)),) for index in range(number)]
    das = dataset["das"]
    files, first = [], 1
    for index, parts in enumerate(shares):
        file_name = f"{name}_{index}.root"
        files.append(
            SampleFile(
                path=folder / file_name,
                name=f"/store/demo{das}/{file_name}",
                block=block_name(das),
                parts=parts,
                is_data=dataset["data"],
                data_flavour=sample.get("flavour", "Muon"),
                first_event=first,
                entropy=(*entropy, index),
                step=settings["step"],
                compression=settings["compression"],
                truth=truth,
            )
        )
        first += sum(part.events for part in parts)
    return files


def share(total: int, files: int, index: int) -> int:
    """The number of `total` events that go into file `index` of `files`."""
    return total * (index + 1) // files - total * index // files


def _resized(part: Part, events: int) -> Part:
    return replace(part, events=events)


def generate(
    name: str,
    datasets: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    catalogue: str | Path,
    truth: str,
    workers: int = 1,
) -> list[FileRecord]:
    """Make the files of one demo dataset next to its catalogue, and write the catalogue last.

    `datasets` has the dataset and, for data, the datasets in its `sum_of`, as in
    config/datasets/demo.yaml; `settings` is the section `samples` of the configuration; `truth` is
    the correctionlib file of the loose-to-tight probability. The files depend on the seed and the
    step, not on the number of workers.
    """
    folder = Path(catalogue).parent
    files = plan(name, datasets, settings, folder, truth)
    total = sum(part.events for file in files for part in file.parts)
    records = []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(f"samples {name}", total))
        run = stack.enter_context(ProcessPoolExecutor(workers)).map if workers > 1 else map
        for file, record in zip(files, run(write_file, files), strict=True):
            records.append(record)
            progress.add(sum(part.events for part in file.parts))
    write_catalogue(catalogue, {datasets[name]["das"]: records})
    return records
