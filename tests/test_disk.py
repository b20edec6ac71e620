"""A disk that is full, read-only or another user's: every stage says so in one sentence, leaves
nothing half-written, and comes to the same results when the disk is good again."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
import yaml
from conftest import REPO, Snakemake
from disks import Disk, disk, jobs_of, open_folder
from samples import SETTINGS, TRUTH, qcd
from schedulers import attached, dask_scheduler

from looseleaf.config.kinds import KINDS
from looseleaf.cost import JobCost
from looseleaf.errors import ConfigError
from looseleaf.files import write_json
from looseleaf.lease import Lease
from looseleaf.parents import name_of_this
from looseleaf.processing import seal
from looseleaf.processing.checkpoints import Checkpoints, packed, unpacked
from looseleaf.servicex.service.state import State
from looseleaf.servicex.service.transformer import code, give
from looseleaf.servicex.service.transformer import main as transformer
from looseleaf.servicex.service.workers import Job
from looseleaf.stage_files import FileRecord, read_catalogue, write_catalogue
from looseleaf.topcoffea.store import read_histograms, write_histograms

pytestmark = pytest.mark.slow

# one of each kind, on as few samples as can be
ANALYSES: dict[str, dict[str, Any]] = {
    "muon": {
        "datasets": {"measure": ["QCD_Pt-20to30"]},
        "binning": {"pt": [10, 20, 90], "abs_eta": [0, 2.4]},
        "allow": {"empty_bins": True},
    },
    "closure": {"maps": {"Muon": "muon"}, "datasets": {"predict": ["WJetsToLNu"]}},
    "flips": {},
    "muon_id": {
        "datasets": {"measure": ["ZToLL"], "simulation": ["DYJetsToLL"]},
        "binning": {"pt": [10, 200], "abs_eta": [0, 2.4]},
    },
    "tth_eft": {"datasets": {"simulation": ["ttH_EFT"]}, "systematics": {}},
}
# pictures of every kind are drawn and saved by the same functions
DRAWN = "histograms_flips_flips"
SENTENCES = {
    "full": "no space left on the disk while writing ",
    # a service that has no room for its manifest can't say more
    "nearly full": "no space left on the disk while writing |its volume is full, over quota or ",
    "read only": "its disk is read-only ",
    # a folder of checkpoints is asked for its owner first
    "forbidden": "not allowed to use .*Permission denied .*belongs to root|to the user root, whose",
}
# jobs that see all of these; of the others one of each rule sees a full disk
ALL = (
    "samples_generate/QCD_Pt-20to30",
    "das_lookup/QCD_Pt-20to30",
    "servicex_transform/QCD_Pt-20to30",
    "fakerate_process_muon",
    "fakerate_measure_muon",
    DRAWN,
    "benchmark_report",
)
PAGE = 4096
# times and costs stand in these, or checksums of such files
VARIES = re.compile(
    r".*\.root|.*\.ledger\.json|.*/(tasks\.csv|performance\.html|report\.html|summary\.json)"
    r"|(samples|das|servicex|volume|benchmark/jobs)/.*\.json|.*/checkpoints/.*"
)


class Chain:
    """The jobs of a small chain, which run in this process."""

    def __init__(self, folder: Path, results: Disk) -> None:
        self.disk = results
        jobs = jobs_of(REPO / "Snakefile", folder, folder / "my.yaml")
        self.jobs = {
            name: job
            for name, job in jobs.items()
            if not name.startswith("histograms") or name == DRAWN
        }

    def run(self, name: str) -> int:
        """Run a job's script, as Snakemake does; its exit status."""
        job = self.jobs[name]
        path = REPO / "rules" / job.rule.script
        try:
            exec(compile(path.read_text(), path, "exec"), {"snakemake": job})
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def spoilt(self, how: str, needed: int) -> AbstractContextManager[None]:
        """A bad disk for a job that needs so many pages."""
        return {
            "full": self.disk.full,
            "nearly full": lambda: self.disk.full(needed // 2 * PAGE),
            "read only": self.disk.read_only,
            "forbidden": self.disk.forbidden,
        }[how]()


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    before = Path.cwd()
    main = sys.modules["__main__"]
    # a process of pytest-xdist has none
    name = vars(main).get("__file__")
    with open_folder() as folder, disk(folder / "results") as results:
        analyses = []
        for analysis, changes in ANALYSES.items():
            value = yaml.safe_load((REPO / f"config/analyses/{analysis}.yaml").read_text())
            value |= changes
            for key in ("truth", "datacards"):
                value.pop(key, None)
            analyses.append(str(folder / f"{analysis}.yaml"))
            Path(analyses[-1]).write_text(yaml.safe_dump(value, sort_keys=False))
        settings = {"samples": {"scale": 0.02}, "analyses": analyses, "site": "attached"}
        (folder / "my.yaml").write_text(yaml.safe_dump(settings))
        (folder / "config/sites").mkdir(parents=True)
        with dask_scheduler(folder, Path(sys.executable)) as (_, address):
            site = folder / "config/sites/attached.yaml"
            site.write_text(yaml.safe_dump(attached(address)))
            made = Chain(folder, results)
            os.chdir(folder)
            # as the jobs leave them
            for path in made.jobs["benchmark_report"].input.jobs:
                write_json(path, JobCost(wall_s=1.0, cpu_s=1.0, peak_rss_bytes=1).to_json())
            try:
                yield made
            finally:
                os.chdir(before)
                if name is not None:
                    main.__file__ = name


@pytest.mark.filterwarnings("ignore")
def test_every_stage_on_a_bad_disk(chain: Chain, capfd: pytest.CaptureFixture[str]) -> None:
    assert {chain.jobs[name].rule.script for name in ALL} | {"../scripts/result.py"} == {
        job.rule.script for job in chain.jobs.values()
    }
    assert {name.partition("_")[0] for name in chain.jobs} >= {*KINDS}
    seen = set()
    problems = []
    for name, job in chain.jobs.items():
        before = chain.disk.content()
        reference = None
        if name in ALL:
            assert chain.run(name) == 0, capfd.readouterr().err
            reference = chain.disk.content()
            assert reference.keys() > before.keys()
        hows = [*SENTENCES] if reference else ["full"] * (job.rule.name not in seen)
        seen.add(job.rule.name)
        needed = pages(reference or before) - pages(before)
        left = []
        for how in hows:
            restore(chain.disk, before)
            capfd.readouterr()
            with chain.spoilt(how, needed):
                status = chain.run(name)
            told = capfd.readouterr().err
            left.append((how, chain.disk.content()))
            errors = [line for line in told.splitlines() if line.startswith("error: ")]
            if status != 1 or len(errors) != 1 or not re.search(SENTENCES[how], errors[0]):
                problems.append(f"{name}, {how}: ended with {status}: {told}")
            if "Traceback" in told:
                problems.append(f"{name}, {how}: {told}")
        # the run after the last bad disk
        assert chain.run(name) == 0, capfd.readouterr().err
        found = chain.disk.content()
        for how, content in [*left, ("undisturbed", reference or found)]:
            odd = differences(content, found)
            if odd or not before.keys() <= content.keys() <= found.keys():
                problems.append(f"{name}, {how}: {odd}")
    assert problems == []


def pages(content: dict[str, bytes]) -> int:
    """The room [pages] that files take."""
    return sum(-(-len(value) // PAGE) for value in content.values())


def restore(disk: Disk, content: dict[str, bytes]) -> None:
    """Remove what isn't in a content from a disk."""
    for name in disk.content().keys() - content.keys():
        (disk.place / name).unlink()


def differences(content: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    """The files that aren't in another content, or not in the same way."""
    return {
        name
        for name, value in content.items()
        if name not in other or not (value == other[name] or varies(name, value, other[name]))
    }


def varies(name: str, value: bytes, other: bytes) -> bool:
    """Whether two files are both whole, and may differ in times."""
    if not VARIES.fullmatch(name):
        return False
    if name.endswith(".json"):
        return json.loads(value).keys() == json.loads(other).keys()
    if name.endswith(".root"):
        return len(value) == len(other)
    if name.endswith(".csv"):
        return value.count(b"\n") == other.count(b"\n")
    return value[-4:] == other[-4:] or "checkpoints" in name


def test_a_run_that_can_not_begin(snakemake: Snakemake, tmp_path: Path) -> None:
    target = "results/samples/ttH_EFT/catalogue.json"
    with disk(tmp_path / "results") as results:
        with results.read_only():
            run = snakemake(target)
            assert run.status != 0
            assert "results/.lease can't be written: its disk is read-only (mounted at" in run.text
            assert "Traceback" not in run.text
        with results.full(PAGE):
            run = snakemake(target)
            assert run.status != 0
            assert "no space left on the disk while writing results/config.json" in run.text
            assert "Traceback" not in run.text
        assert results.content() == {}


def command(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "looseleaf", *arguments],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **more,
    )


def test_commands_on_a_full_disk(tmp_path: Path) -> None:
    with disk(tmp_path / "small") as small, small.full(10 * PAGE):
        ended = command("init", str(tmp_path / "small/mine"))
        assert ended.returncode == 1
        assert re.fullmatch(r"error: no space left on the disk while writing .*\n", ended.stderr)
        # or the next try would say that it is there already
        assert list((tmp_path / "small/mine").iterdir()) == []
    with disk(tmp_path / "state") as state, state.full():
        serving = (
            "servicex",
            "serve",
            "--volume",
            str(tmp_path),
            "--state",
            str(tmp_path / "state"),
        )
        ended = command(*serving, "--port", "0", timeout=60)
        assert ended.returncode == 1
        assert re.fullmatch(
            r"error: no space left on the disk while writing .*/state/keys\.json .*\n", ended.stderr
        )
    records = [FileRecord("/store/a.root", 1, 1, None)]
    write_catalogue(tmp_path / "catalogue.json", {"/A/B/NANOAODSIM": records})
    asked = ("das", "file dataset=/A/B/NANOAODSIM", "--backend", "catalogue")
    with open("/dev/full", "w") as full:
        ended = command(*asked, "--catalogue", str(tmp_path / "catalogue.json"), stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "error: the answer can't be written: No space left on device\n"


def test_a_state_without_room(tmp_path: Path) -> None:
    with (
        disk(tmp_path / "state") as state,
        state.full(),
        pytest.raises(ConfigError, match=r"state\.sqlite: the service's state can't be kept: "),
    ):
        State(tmp_path / "state/state.sqlite")


def test_eft_histograms_on_a_full_disk(tmp_path: Path) -> None:
    """HDF5 itself would end this process."""
    histogram = hist.Hist.new.Reg(5000, 0, 1).Weight()
    histogram.fill(np.random.default_rng(1).random(5000))
    path = tmp_path / "small/x.h5"
    with disk(path.parent) as small:
        with small.full(4 * PAGE), pytest.raises(OSError, match=r"small/x\.h5") as caught:
            write_histograms(path, {"a": histogram}, {})
        assert caught.value.errno == errno.ENOSPC
        assert small.content() == {}
        write_histograms(path, {"a": histogram}, {})
        assert read_histograms(path)[0]["a"] == histogram


def test_a_pod_whose_volume_is_full(tmp_path: Path) -> None:
    with disk(tmp_path / "work") as small:
        # what can't be done either, so that there is something to say
        digest = give(tmp_path / "work", [Job(7, read_catalogue, str(tmp_path / "absent"))])
        arguments = (str(tmp_path / "work"), "60", code(), digest)
        with small.full(), pytest.raises(SystemExit) as ended:
            transformer(*arguments)
        assert ended.value.code == (
            "no space left on the disk while writing 7.json: free some and run again"
        )
        assert list(small.content()) == ["jobs.pickle"]


def test_a_key_and_a_lease_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with disk(tmp_path / "state") as state:
        with state.full():
            assert seal.opened("a", seal.sealed("a", b"x")) == b"x"
            told = capsys.readouterr().err
            assert re.fullmatch(r"warning: .*/seal\.key: No space left on device: .*\n", told)
            with pytest.raises(OSError, match=r"\.lease") as caught:
                Lease(tmp_path / "state").take()
            assert caught.value.errno == errno.ENOSPC
        # an empty key would be refused from now on
        assert state.content() == {}


def test_a_lease_on_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    with disk(tmp_path / "small") as small:
        lease = Lease(tmp_path / "small")
        lease.take()
        with small.read_only():
            lease.release()
        # the next run of this process isn't the one before
        assert list(small.content()) == [".lease"]


def test_a_checkpoint_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with disk(tmp_path / "kept") as small:
        checkpoints = Checkpoints(tmp_path / "kept")
        checkpoints.keep("a", packed(1))
        with small.full(2 * PAGE), pytest.raises(OSError, match=r"b\.result"):
            checkpoints.keep("b", os.urandom(4 * PAGE))
        assert list(small.content()) == ["a.result"]
        assert unpacked(checkpoints.read("a")) == 1


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("what other file systems do is imitated by a library, which needs gcc")
    path = tmp_path_factory.mktemp("shim") / "bad_disk.so"
    source = REPO / "tests/support/bad_disk.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source, "-ldl"], check=True)
    return path


def beside(shim: Path, folder: Path, code: str, **conditions: str) -> tuple[int, str]:
    """Run code on a disk that fails in a way; its status, and what it said."""
    environment = {"LD_PRELOAD": str(shim), "BAD_DISK": str(folder), **conditions}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


SAMPLE = f"""
import sys
from looseleaf.doorway import doorway
with doorway(sys.argv[1] + "/a.log"):
    from looseleaf.samples.generate import generate
    datasets = {{"q": {qcd(2000)!r}}}
    generate("q", datasets, {SETTINGS!r}, sys.argv[1] + "/q/catalogue.json", {TRUTH!r})
"""


@pytest.mark.parametrize("quota", [0, 100_000])
def test_a_quota_that_is_used_up(shim: Path, tmp_path: Path, quota: int) -> None:
    status, told = beside(shim, tmp_path, SAMPLE, BAD_DISK_QUOTA=str(quota))
    assert status == 1
    assert f"error: your quota of the disk is used up while writing {tmp_path}/q/q_" in told
    assert ": delete some of your files there and run again\n" in told
    assert "a.log could not be written: Disk quota exceeded" in told
    assert "Traceback" not in told
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


FAT = """
import sys
from pathlib import Path
from looseleaf.lease import leased
from looseleaf.processing.checkpoints import Checkpoints, packed, unpacked
from looseleaf.servicex.volume import link
folder = Path(sys.argv[1])
with leased(folder / "a"):
    checkpoints = Checkpoints(folder / "a/kept")
    checkpoints.keep("x", packed([1, 2]))
    print(unpacked(Checkpoints(folder / "a/kept").read("x")))
    (folder / "one").write_text("content")
    link(folder / "one", folder / "two")
"""


def test_a_file_system_without_hard_links_and_modes(shim: Path, tmp_path: Path) -> None:
    assert beside(shim, tmp_path, FAT, BAD_DISK_FAT="1") == (0, "[1, 2]\n")
    one, two = (tmp_path / name for name in ("one", "two"))
    assert one.read_text() == two.read_text() == "content"
    assert one.stat().st_ino != two.stat().st_ino
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["kept"]


def test_a_clock_that_is_set(tmp_path: Path) -> None:
    """The time of day at which the machine started, in /proc/stat, moves with the clock."""
    about = Path("/proc/stat").read_text()
    moved = re.sub(r"(?m)^btime (\d+)$", lambda m: f"btime {int(m[1]) - 3600}", about)
    assert moved != about
    (tmp_path / "stat").write_text(moved)
    code = "import sys; from looseleaf.parents import lives; print(lives(sys.argv[1]))"
    script = 'mount --bind "$1" /proc/stat && exec "$2" -c "$3" "$4"'
    arguments = (str(tmp_path / "stat"), sys.executable, code, name_of_this())
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount" in ended.stderr or "unshare" in ended.stderr:
        pytest.skip("mounting takes root, and is not allowed here")
    assert ended.stdout == "True\n", ended.stderr
