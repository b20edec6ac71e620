"""Samples as TopEFT lists them: a JSON file for each, and cfg files that list those.

They are read while the graph is parsed, so nothing heavy is imported here.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.files import read_json
from looseleaf.records import FileRecord, block_name, describe, write_catalogue

YEARS = ("2016APV", "2016", "2017", "2018", "2022", "2022EE", "2023", "2023BPix")
REQUIRED = ("xsec", "year", "treeName", "histAxisName", "WCnames", "files", "nEvents", "isData")
SUMS = "nSumOfWeights"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_samples(path: Path, seen: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The samples of a `.cfg` or `.json` file as dataset declarations, by name.

    A sample is called like its JSON file. `listed` keeps the JSON file, the redirector before its
    file names and what it states: `events`, `sum_of_weights` and, by variation (`ISRUp`), `sums`.
    `seen` says which sample each file belongs to, by its address; these are added to it.

    Raises `ConfigError` naming file and key for what can't be used, for a name given twice and for
    a file of two samples, whose events would count twice.
    """
    seen = {} if seen is None else seen
    listed = [(path, "")] if path.suffix == ".json" else _listed(path)
    samples: dict[str, dict[str, Any]] = {}
    for file, redirector in listed:
        if file.stem in samples:
            raise ConfigError(f"{path}: the sample {file.stem!r} is listed twice")
        declared, names = _declaration(file, redirector)
        for name in names:
            url = url_of(declared, name)
            if url in seen:
                raise ConfigError(f"{path}: {file.stem}: {url} is a file of {seen[url]!r} already")
            seen[url] = file.stem
        samples[file.stem] = declared
    if not samples:
        raise ConfigError(f"{path}: lists no sample; a line names a JSON file")
    return samples


def _listed(path: Path) -> Iterator[tuple[Path, str]]:
    """The JSON files of a cfg file, each with the redirector that was named last before it.

    JSON files are looked for from the folder of the cfg file, then from the working folder.
    """
    redirector = ""
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        line = text.partition("#")[0].strip()
        if not line:
            continue
        if not line.endswith(".json"):
            if "/" not in line:
                raise ConfigError(
                    f"{path}, line {number}: {line!r} is neither a JSON file nor a redirector as "
                    "root://host/ or a folder"
                )
            redirector = line.removeprefix("file://")
            continue
        found = [file for file in (path.parent / line, Path(line)) if file.is_file()]
        if not found:
            raise ConfigError(f"{path}, line {number}: there is no file {line!r}")
        yield found[0], redirector


def _declaration(path: Path, redirector: str) -> tuple[dict[str, Any], list[str]]:
    """The declaration of a sample, and the names of its files."""
    try:
        sample = json.loads(path.read_text(), object_pairs_hook=lambda pairs: _once(path, pairs))
    except ValueError as problem:
        raise ConfigError(f"{path}: not valid JSON ({problem})") from None
    if not isinstance(sample, dict):
        raise ConfigError(f"{path}: a sample is an object with {', '.join(REQUIRED)}")
    for key in REQUIRED:
        if key not in sample:
            raise ConfigError(f"{path}: the key {key!r} is missing")
    year, data, names = str(sample["year"]), sample["isData"], sample["WCnames"]
    _refuse(path, "year", year not in YEARS, f"{year!r} is not one of {', '.join(YEARS)}")
    tree, process = sample["treeName"], sample["histAxisName"]
    _refuse(path, "treeName", tree != "Events", f"{tree!r}: NanoAOD's is Events")
    word = f"{process!r} should be a word of letters, digits and _"
    _refuse(path, "histAxisName", not NAME.fullmatch(str(process)), word)
    files = sample["files"]
    for key, listed in (("files", files), ("WCnames", names)):
        texts = isinstance(listed, list) and all(isinstance(text, str) for text in listed)
        _refuse(path, key, not texts, f"{listed!r} should be a list of texts")
    _refuse(path, "isData", data not in (True, False), f"{data!r} should be true or false")
    events = sample["nEvents"]
    whole = isinstance(events, int) and not isinstance(events, bool) and events >= 0
    _refuse(path, "nEvents", not whole, f"{events!r} should be a number of events")
    _refuse(path, "files", not files, "there are none")
    twice = sorted({file for file in files if files.count(file) > 1})
    _refuse(path, "files", bool(twice), f"{twice[:1]} is there twice")
    _refuse(path, "WCnames", len(set(names)) < len(names), "a coefficient is there twice")
    _refuse(path, "WCnames", "sm" in names, "'sm' is the Standard Model, no coefficient")
    _refuse(path, "WCnames", bool(data and names), "data has no Wilson coefficients")
    listed = {"file": str(path), "redirector": redirector, "events": sample["nEvents"]}
    declared = {
        "das": f"/{path.stem}/listed-{year}/USER",
        "process": process,
        "data": bool(data),
        "year": year,
        "listed": listed,
    }
    if not data:
        for key in ["xsec", SUMS, *(key for key in sample if key.startswith(f"{SUMS}_"))]:
            value = sample.get(key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            positive = number and 0 < value < math.inf
            _refuse(path, key, not positive, f"{value!r} should be a positive number")
        declared["xsec_pb"] = sample["xsec"]
        listed["sum_of_weights"] = sample[SUMS]
        declared["sums_of_weights"] = {
            key.removeprefix(f"{SUMS}_"): value
            for key, value in sample.items()
            if key.startswith(f"{SUMS}_")
        }
    if names:
        declared["wc_names"] = names
    if "leave_out" in sample:
        left_out = sample["leave_out"]
        known = isinstance(left_out, list) and left_out and all(file in files for file in left_out)
        _refuse(path, "leave_out", not known, f"{left_out!r} should be a list of some of its files")
        declared["leave_out"] = left_out
    return declared, files


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        _refuse(path, key, keys.count(key) > 1, "is there twice")
    return dict(pairs)


def _refuse(path: Path, key: str, wrong: bool, why: str) -> None:
    if wrong:
        raise ConfigError(f"{path}: {key}: {why}")


def url_of(dataset: Mapping[str, Any], name: str) -> str:
    """Where a file of a listed sample stands: its name behind the redirector."""
    redirector = dataset["listed"]["redirector"]
    return f"{redirector.rstrip('/')}/{name}" if redirector else name


def write_sample_catalogue(dataset: Mapping[str, Any], output: str | Path) -> None:
    """The files of a listed sample as a catalogue, for the lookup.

    What stands on this machine is opened for its events and checksum; of what stands behind a
    redirector neither is known before it is read.
    """
    records = []
    for name in read_json(dataset["listed"]["file"])["files"]:
        url = url_of(dataset, name)
        local = Path(url)
        if name not in dataset.get("leave_out", []) and "://" not in url and local.is_file():
            records.append(describe(local, name, block_name(dataset["das"])))
        else:
            records.append(FileRecord(name, None, None, None, url=url))
    write_catalogue(output, {dataset["das"]: records})
