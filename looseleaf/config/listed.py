"""Samples in TopEFT's form: a JSON file for each sample, and cfg files that list the JSON files.

They are read while the graph is parsed, so nothing heavy is imported here.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looseleaf.errors import ConfigError, LooseleafError, shown
from looseleaf.files import ODD_CHARACTER, read_json, read_text
from looseleaf.objects.years import YEARS
from looseleaf.stage_files import FileRecord, block_name, describe, write_catalogue

REQUIRED = ("xsec", "year", "treeName", "histAxisName", "WCnames", "files", "nEvents", "isData")
SUMS = "nSumOfWeights"
# a sample has the name of its JSON file, which becomes part of paths and targets
SAMPLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
PROCESS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,199}")
COEFFICIENT = re.compile(r"[A-Za-z][A-Za-z0-9]{0,199}")
REDIRECTOR = re.compile(r"[a-z]+://\S+|/\S*|\S+/")


@dataclass
class Listed:
    """What was noticed about listed samples, beside their declarations.

    `problems` has a sentence for each sample that can't be used. `remarks` are sentences about
    samples that are read differently from how they are written. `files` is the sample of each
    file's address.
    """

    problems: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_samples(path: Path, listed: Listed | None = None) -> dict[str, dict[str, Any]]:
    """The samples of a `.cfg` or `.json` file as dataset declarations, by name.

    A sample has the name of its JSON file. The key `listed` of a declaration keeps the JSON file,
    the redirector of its files and what the file states: `events`, `sum_of_weights` and `process`,
    if results have to use another name. `sums_of_weights` are by variation (`ISRUp`).

    A sample that can't be used doesn't stop the others: the reason is added to the problems of
    `listed`, which collects over all files. Two samples that share a file are such a problem, since
    its events would count twice. Without `listed`, any problem is raised.

    Raises a `LooseleafError` naming the file and the line if a cfg file can't be read, or if two
    samples have the same name.
    """
    strict = listed is None
    listed = Listed() if listed is None else listed
    lines = [(path, "")] if path.suffix == ".json" else _lines(path, listed)
    samples: dict[str, dict[str, Any]] = {}
    number, problems_before = 0, len(listed.problems)
    for file, redirector in lines:
        number += 1
        try:
            declared, names = _declaration(file, redirector, listed)
            if file.stem in listed.declared:
                _refuse_another(path, file.stem, listed.declared[file.stem], declared)
                listed.remarks.append(f"{path}: {file.stem} is listed twice and counts once")
                continue
            _add_files(file.stem, declared, names, listed)
        except _Problem as problem:
            listed.problems[file.stem] = str(problem)
            continue
        samples[file.stem] = listed.declared[file.stem] = declared
    if strict and listed.problems:
        raise ConfigError(next(iter(listed.problems.values())))
    if not number and len(listed.problems) == problems_before:
        raise ConfigError(f"{path}: lists no sample; each line names a JSON file")
    _remark_on_processes(path, samples, listed)
    return samples


class _Problem(ConfigError):
    """What is wrong with one sample; the others can be used."""


def _refuse_another(
    path: Path, name: str, first: Mapping[str, Any], declared: Mapping[str, Any]
) -> None:
    one, other = first["listed"], declared["listed"]
    same = Path(one["file"]).resolve() == Path(other["file"]).resolve()
    if not same or one["redirector"] != other["redirector"]:
        places = [f"{two['file']} behind {two['redirector'] or 'nothing'}" for two in (one, other)]
        raise ConfigError(
            f"{path}: two samples are called {name!r}: {places[0]}, and {places[1]}; rename or "
            "remove one"
        )


def _add_files(name: str, declared: Mapping[str, Any], files: list[str], listed: Listed) -> None:
    urls = [url_of(declared, file) for file in files]
    for url in urls:
        if url in listed.files:
            raise _Problem(
                f"{declared['listed']['file']}: files: {url} already belongs to "
                f"{listed.files[url]!r}, so its events would count twice; list one of the two "
                "samples"
            )
    listed.files |= dict.fromkeys(urls, name)


def _remark_on_processes(
    path: Path, samples: Mapping[str, Mapping[str, Any]], listed: Listed
) -> None:
    """Note processes whose names differ between results and the samples' files."""
    renamed = {
        sample["listed"]["process"]: sample["process"]
        for sample in samples.values()
        if "process" in sample["listed"]
    }
    if renamed:
        pairs = ", ".join(f"{new} for {old}" for old, new in renamed.items())
        listed.remarks.append(
            f"{path}: names of processes take letters, digits and _ only: {pairs}"
        )


def _lines(path: Path, listed: Listed) -> Iterator[tuple[Path, str]]:
    """The JSON files of a cfg file, each with the last redirector before it."""
    redirector = ""
    moved: dict[str, str] = {}
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        line = text.partition("#")[0].strip()
        where = f"{path}, line {number}"
        if line.endswith(".json"):
            json_file = _find(path, line)
            if json_file is None:
                listed.problems[Path(line).stem] = f"{where}: the file {shown(line)} does not exist"
                continue
            if not (path.parent / line).is_file() and not Path(line).is_file():
                moved[line] = str(json_file)
            yield json_file, redirector
        elif REDIRECTOR.fullmatch(line):
            redirector = line.removeprefix("file://")
        elif Path(line).suffix and ":" not in line:
            listed.problems[Path(line).stem] = (
                f"{where}: {shown(line)} is not a sample; a sample is a JSON file"
            )
        elif line:
            raise ConfigError(
                f"{where}: {shown(line)} is neither a JSON file nor a redirector such as "
                "root://host/ or a folder"
            )
    if moved:
        line, file = next(iter(moved.items()))
        rest = f", and {len(moved) - 1} others like it" if len(moved) > 1 else ""
        listed.remarks.append(
            f"{path}: {line} does not exist relative to this file; {file} is read instead{rest}"
        )


def _find(cfg: Path, line: str) -> Path | None:
    """The JSON file of a line: from the folder of the cfg file, or from the working folder.

    A path with `..`, such as `../../sample_jsons/x.json`, may have been written for another folder.
    Then the rest of the path is looked for in the cfg file's folder and in as many folders above it
    as the path climbs.
    """
    tail = Path(line)
    climbs = 0
    while tail.parts[0] == "..":
        tail, climbs = tail.relative_to(".."), climbs + 1
    folder = cfg.parent.resolve()
    above = [folder, *folder.parents][: climbs + 1]
    for file in (cfg.parent / line, Path(line), *(one / tail for one in above)):
        try:
            if file.is_file():
                return file
        except OSError:
            # the name is too long for any file system
            return None
    return None


def _declaration(path: Path, redirector: str, listed: Listed) -> tuple[dict[str, Any], list[str]]:
    """The declaration of a sample, and the names of its files; `_Problem` if it can't be used."""
    sample = _read_sample(path)
    for key in REQUIRED:
        if key not in sample:
            raise _Problem(f"{path}: the key {key!r} is missing")
    year, data, names = str(sample["year"]), sample["isData"], sample["WCnames"]
    _refuse(path, "year", year not in YEARS, f"{shown(year)} is not one of {', '.join(YEARS)}")
    tree = sample["treeName"]
    _refuse(path, "treeName", tree != "Events", f"{shown(tree)}: NanoAOD's is Events")
    process = _process(path, sample["histAxisName"])
    files = sample["files"]
    for key, texts in (("files", files), ("WCnames", names)):
        _refuse(path, key, not _are_texts(texts), f"{shown(texts)} should be a list of texts")
    _refuse(path, "isData", data not in (True, False), f"{shown(data)} should be true or false")
    _refuse(path, "files", not files, "there are none")
    twice = [file for file, count in Counter(files).items() if count > 1]
    _refuse(path, "files", bool(twice), f"{shown(twice[:1])} is listed twice")
    _check_coefficients(path, names, bool(data))
    events = _events(path, sample["nEvents"])
    declared: dict[str, Any] = {
        "das": f"/{path.stem}/listed-{year}/USER",
        "process": process,
        "data": bool(data),
        "year": year,
        "listed": {"file": str(path), "redirector": redirector, "events": events},
    }
    if process != sample["histAxisName"]:
        declared["listed"]["process"] = sample["histAxisName"]
    if not data:
        for key in ("xsec", SUMS):
            _refuse_sum(path, key, sample.get(key))
        declared["xsec_pb"] = sample["xsec"]
        declared["listed"]["sum_of_weights"] = sample[SUMS]
        declared["sums_of_weights"] = _sums(path, sample, listed)
    if names:
        declared["wc_names"] = names
    if "leave_out" in sample:
        left_out = sample["leave_out"]
        known = isinstance(left_out, list) and left_out and all(file in files for file in left_out)
        _refuse(path, "leave_out", not known, f"{left_out!r} should be a list of some of its files")
        declared["leave_out"] = left_out
    return declared, files


def _read_sample(path: Path) -> dict[str, Any]:
    if not SAMPLE.fullmatch(path.stem):
        raise _Problem(
            f"{path}: a sample has the name of its file, which may have up to 200 letters, "
            "digits, _, - and ."
        )
    try:
        text = read_text(path)
        sample = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))
    except _Problem:
        raise
    except LooseleafError as problem:
        raise _Problem(str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise _Problem(f"{path}: not valid JSON ({problem})") from None
    if not isinstance(sample, dict):
        raise _Problem(f"{path}: a sample is a JSON object with {', '.join(REQUIRED)}")
    return sample


def _process(path: Path, name: Any) -> str:
    """The name of a process in results, where templates allow only letters, digits and _."""
    text = isinstance(name, str) and re.search("[A-Za-z0-9]", name)
    _refuse(path, "histAxisName", not text, f"{shown(name)} should be the name of a process")
    word = re.sub("[^A-Za-z0-9_]", "_", name.strip())
    word = word if word[0].isalpha() else f"p{word}"
    long = f"{shown(name)} has more than 200 characters"
    _refuse(path, "histAxisName", not PROCESS.fullmatch(word), long)
    return word


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(text, str) and text.strip() and not ODD_CHARACTER.search(text) for text in value
    )


def _check_coefficients(path: Path, names: list[str], data: bool) -> None:
    _refuse(path, "WCnames", len(set(names)) < len(names), "a coefficient is listed twice")
    _refuse(
        path,
        "WCnames",
        "sm" in names,
        "'sm' stands for the Standard Model and can't be a coefficient",
    )
    _refuse(path, "WCnames", bool(data and names), "data has no Wilson coefficients")
    for name in names:
        word = f"{shown(name)} should be a word of letters and digits"
        _refuse(path, "WCnames", not COEFFICIENT.fullmatch(name), word)


def _events(path: Path, value: Any) -> int:
    """A number of events; TopEFT's files also write it as 148654795.0."""
    whole = _is_number(value) and 0 <= value < 2**63 and int(value) == value
    _refuse(path, "nEvents", not whole, f"{shown(value)} should be a number of events")
    return int(value)


def _sums(path: Path, sample: Mapping[str, Any], listed: Listed) -> dict[str, float]:
    """The sums of theory weights by variation, without those that aren't positive."""
    sums, left_out = {}, []
    for key, value in sample.items():
        if not key.startswith(f"{SUMS}_"):
            continue
        if _is_number(value) and value <= 0:
            left_out.append(key)
            continue
        _refuse_sum(path, key, value)
        sums[key.removeprefix(f"{SUMS}_")] = value
    if left_out:
        listed.remarks.append(
            f"{path}: {', '.join(left_out)} should be positive; the variation can't be normalised"
        )
    return sums


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse_sum(path: Path, key: str, value: Any) -> None:
    positive = _is_number(value) and 0 < value <= sys.float_info.max
    _refuse(path, key, not positive, f"{shown(value)} should be a positive number")


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        _refuse(path, key, count > 1, "is given twice")
    return dict(pairs)


def _refuse(path: Path, key: str, wrong: bool, why: str) -> None:
    if wrong:
        raise _Problem(f"{path}: {key}: {why}")


def url_of(dataset: Mapping[str, Any], name: str) -> str:
    """The address of a file of a listed sample: its name behind the redirector."""
    redirector = dataset["listed"]["redirector"]
    return f"{redirector.rstrip('/')}/{name}" if redirector else name


def write_sample_catalogue(dataset: Mapping[str, Any], output: str | Path) -> None:
    """Write the files of a listed sample as a catalogue, for the lookup.

    Files on this machine are opened for their number of events and checksum. Behind a redirector
    neither is known before the file is read.
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
