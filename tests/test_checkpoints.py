"""What is finished is kept, and only what has changed is done again."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uproot
from processors import MuonPt, Traced
from samples import qcd, sample, skimmed

from looseleaf.cluster import client_for
from looseleaf.errors import Shortfall
from looseleaf.files import adler32
from looseleaf.processing.checkpoints import processor_identity
from looseleaf.processing.fileset import Fileset, chunks_of, cut, from_manifest, tasks_of
from looseleaf.processing.job import Processed, run
from looseleaf.processing.runner import Limits, ProcessingFailed
from looseleaf.processing.site import Site
from looseleaf.shipping import MATTERS

MUON = [f"Muon_{field}" for field in ("pt", "eta", "phi", "mass", "charge")]
COLUMNS = ["run", "luminosityBlock", "event", "genWeight", *MUON]
LIMITS = Limits(chunksize=400, task_events=800)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"kind": "local", "redirectors": []}
    with client_for(settings, 2, tmp_path_factory.mktemp("logs")) as site:
        yield site


@pytest.fixture(scope="module")
def filesets(tmp_path_factory: pytest.TempPathFactory) -> list[Fileset]:
    folder = tmp_path_factory.mktemp("checkpoints")
    datasets = {"q": qcd(5000, files=3), "w": sample("wjets", 3001, files=2)}
    return [from_manifest(name, skimmed(folder, name, datasets, COLUMNS), {}) for name in datasets]


class Job:
    """Runs a traced processor again and again in one folder."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        self.journal = folder / "journal"

    def run(self, filesets: list[Fileset], limits: Limits = LIMITS, **more: Any) -> Processed:
        """The result of the first dataset."""
        self.journal.write_text("")
        processor = Traced(self.journal, **more)
        results = run(processor, filesets, self.site, limits, "test", self.folder / "kept")
        return results[filesets[0].dataset]

    @property
    def done(self) -> list[str]:
        """The chunks that workers were given since the last run began: dataset, first event."""
        return sorted(self.journal.read_text().splitlines())

    @property
    def kept(self) -> set[str]:
        return {path.name for path in (self.folder / "kept").iterdir()}


@pytest.fixture
def job(tmp_path: Path, site: Site) -> Job:
    return Job(tmp_path, site)


def chunks_in(fileset: Fileset) -> int:
    parts = chunks_of(fileset, LIMITS.task_events)
    return sum(len(cut(part, LIMITS.chunksize)) for part in parts)


def bits(result: Processed) -> bytes:
    return result.accumulator["pt"].view(flow=True).tobytes()


def without_costs(ledger: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in ledger.items() if key not in ("workers", "chunks")}


def test_a_failed_run_goes_on_with_what_is_missing(
    job: Job, filesets: list[Fileset], tmp_path: Path, site: Site
) -> None:
    broken = job.journal.with_suffix(".broken")
    broken.touch()
    with pytest.raises(ProcessingFailed, match=r"dataset w, .*the user's mistake"):
        job.run(filesets, fails_in="w")
    kept = job.kept
    assert kept
    broken.unlink()
    resumed = job.run(filesets, fails_in="w")
    assert job.kept > kept
    given = len(job.done)
    (tmp_path / "afresh").mkdir()
    afresh = Job(tmp_path / "afresh", site)
    straight = afresh.run(filesets, fails_in="w")
    assert bits(resumed) == bits(straight)
    assert without_costs(resumed.ledger) == without_costs(straight.ledger)
    # what was kept holds at least a chunk each
    assert given <= len(afresh.done) - len(kept)
    job.run(filesets, fails_in="w")
    assert job.done == []


def test_a_new_dataset_costs_its_own_events(job: Job, filesets: list[Fileset]) -> None:
    job.run(filesets[:1])
    job.run(filesets)
    assert {line.split()[0] for line in job.done} == {"w"}
    assert len(job.done) == chunks_in(filesets[1])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_new_file_costs_its_own_events(job: Job, filesets: list[Fileset], place: int) -> None:
    files = filesets[0].files
    before = replace(filesets[0], files=files[:place] + files[place + 1 :])
    job.run([before])
    job.run(filesets[:1])
    only = replace(filesets[0], files=(files[place],))
    first = {int(uproot.open(files[place].url)["Events/event"].array()[0])}
    assert len(job.done) == chunks_in(only)
    assert first < {int(line.split()[1]) for line in job.done}


def test_a_corrected_file_is_counted_again_and_the_old_result_removed(
    job: Job, tmp_path: Path
) -> None:
    manifest = skimmed(tmp_path, "q", {"q": qcd(2000)}, COLUMNS)
    first = job.run([from_manifest("q", manifest, {})])
    kept = job.kept
    value = json.loads(manifest.read_text())
    path = Path(value["folder"]) / value["files"][1]["output"]
    with uproot.open(path) as file:
        arrays = file["Events"].arrays()
    arrays["Muon_pt"] = arrays["Muon_pt"] * 2
    fields = {name: arrays[name] for name in arrays.fields if name != "nMuon"}
    with uproot.recreate(path) as file:
        file.mktree("Events", {name: array.type for name, array in fields.items()})
        file["Events"].extend(fields)
    with uproot.open(path) as file:
        value["files"][1]["uuid"] = str(file.file.uuid)
    value["files"][1] |= {"bytes": path.stat().st_size, "adler32": adler32(path)}
    manifest.write_text(json.dumps(value))
    fileset = from_manifest("q", manifest, {})
    second = job.run([fileset])
    assert len(job.done) == chunks_in(replace(fileset, files=fileset.files[1:]))
    assert bits(first) != bits(second)
    assert len(job.kept) == len(kept)
    # of four results, those of the file that is as it was
    assert len(job.kept & kept) == 2


def test_another_parameter_counts_everything_again(job: Job, filesets: list[Fileset]) -> None:
    job.run(filesets[:1])
    job.run(filesets[:1], fails_in="another")
    assert len(job.done) == chunks_in(filesets[0])


def test_a_file_that_moved_is_not_counted_again(
    job: Job, filesets: list[Fileset], tmp_path: Path
) -> None:
    job.run(filesets[:1])
    moved = tuple(replace(file, url=str(tmp_path / "gone")) for file in filesets[0].files)
    job.run([replace(filesets[0], files=moved)])
    assert job.done == []


def test_a_damaged_result_is_made_again(job: Job, filesets: list[Fileset]) -> None:
    first = job.run(filesets[:1])
    path = sorted((job.folder / "kept").iterdir())[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    second = job.run(filesets[:1])
    assert 0 < len(job.done) < chunks_in(filesets[0])
    assert bits(first) == bits(second)
    assert path.stat().st_size > len(content) // 2


def test_what_falls_short_is_read_again(job: Job, filesets: list[Fileset]) -> None:
    file = filesets[0].files[0]
    wrong = replace(file, sum_of_weights=file.sum_of_weights + 1)
    with pytest.raises(Shortfall, match="the manifest says"):
        job.run([filesets[1], replace(filesets[0], files=(wrong,))])
    job.run([filesets[0], filesets[1]])
    assert len(job.done) == chunks_in(filesets[0])


def test_files_are_grouped_by_what_they_are_and_not_by_their_number(
    filesets: list[Fileset],
) -> None:
    file = filesets[0].files[0]
    files = [replace(file, name=f"f{n}", uuid=f"uuid-{n}", events=10) for n in range(400)]

    def groups(chosen: list[Any]) -> set[tuple[str, ...]]:
        tasks = tasks_of(chunks_of(replace(filesets[0], files=tuple(chosen)), 200), 200)
        return {tuple(chunk.file.name for chunk in task) for task in tasks}

    everything = groups(files)
    assert sum(map(len, everything)) == 400
    assert len(everything) < 100
    for place in (0, 7, 200, 399):
        changed = everything - groups(files[:place] + files[place + 1 :])
        assert sum(map(len, changed)) <= 40


PRINTED = """
import json, sys, yaml
from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.checkpoints import processor_identity
points = WorkingPoints(yaml.safe_load(open("config/working_points.yaml")))
declared = yaml.safe_load(open("config/analyses/muon.yaml"))
analysis = FakeRateAnalysis.from_json(declared)
print(processor_identity(FakeRateProcessor(analysis, points, Corrections({}, {}))))
"""


@pytest.mark.slow
def test_the_identity_of_a_processor_is_the_same_in_another_process(repo: Path) -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINTED],
            cwd=repo,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_the_identity_of_a_processor_changes_with_its_code(tmp_path: Path) -> None:
    path = tmp_path / "edited_processor.py"

    def identity(text: str) -> str:
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("edited_processor", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["edited_processor"] = module
        spec.loader.exec_module(module)
        return processor_identity(module.Mine())

    text = "from processors import MuonPt\nclass Mine(MuonPt):\n    cut = 1\n"
    assert identity(text) == identity(text)
    assert identity(text) != identity(text.replace("1", "2"))
    assert processor_identity(MuonPt()) != processor_identity(MuonPt(fails_at=1))


EDITED = """
from pathlib import Path
import looseleaf
from looseleaf.processing.checkpoints import processor_identity
from processors import MuonPt
print(processor_identity(MuonPt()))
for edited in ("das/dbs.py", "processing/runner.py", "processing/ledger.py"):
    path = Path(looseleaf.__file__).parent / edited
    path.write_text(path.read_text() + "EDITED = True\\n")
    print(processor_identity(MuonPt()))
"""


@pytest.mark.slow
def test_the_identity_of_a_processor_changes_with_what_runs_it(repo: Path, tmp_path: Path) -> None:
    """Of a processor that is no part of the package: the runner and what this imports count, the
    lookup doesn't."""
    shutil.copytree(repo / "looseleaf", tmp_path / "looseleaf")
    shutil.copy(repo / "tests/support/processors.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", EDITED],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, lookup, runner, ledger = done.stdout.split()
    assert first == lookup
    assert len({lookup, runner, ledger}) == 3


def test_the_identity_of_a_processor_changes_with_each_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another version of one were installed after the other, in front of those there are."""
    found = {processor_identity(MuonPt())}
    for name in MATTERS:
        about = tmp_path / name / f"{name.replace('-', '_')}-99.9.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.9\n")
        monkeypatch.syspath_prepend(tmp_path / name)
        found.add(processor_identity(MuonPt()))
    assert len(found) == 1 + len(MATTERS)
    for name in MATTERS:
        sys.path.remove(str(tmp_path / name))
    assert processor_identity(MuonPt()) in found
