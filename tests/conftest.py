"""What several test files share: the checkout, real files, running snakemake."""

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml
from hypothesis import HealthCheck, settings

REPO = Path(__file__).parent.parent
# folders nanoaod/ and das/ with real files, which don't travel with the project
TEST_DATA = Path(os.environ.get("LOOSELEAF_TEST_DATA", REPO.parent / "shared" / "data"))

# how many examples the property tests draw: LOOSELEAF_EXAMPLES=20000 in a nightly run, which draws
# new ones every time
settings.register_profile(
    "suite",
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile(
    "nightly",
    settings.get_profile("suite"),
    max_examples=int(os.environ.get("LOOSELEAF_EXAMPLES", "20000")),
    derandomize=False,
)
settings.load_profile("nightly" if "LOOSELEAF_EXAMPLES" in os.environ else "suite")
# of expressions, which decide what is counted
MANY = settings(max_examples=max(500, settings.default.max_examples))


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """ServiceX's client loads the certificates of the whole web twice for each question, which
    takes longer than the answer. Nothing here asks the web: one certificate will do."""
    end = "-----END CERTIFICATE-----"
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(Path(certifi.where()).read_text().partition(end)[0] + end + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Loops are compiled and fonts found once, not in the folder of each run of the workflow."""
    caches = _shared(tmp_path_factory) / "caches"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(caches))
        patch.setenv("MPLCONFIGDIR", str(caches / "matplotlib"))
        yield


def _shared(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of all of pytest's processes."""
    place = factory.getbasetemp()
    return place.parent if "PYTEST_XDIST_WORKER" in os.environ else place


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def nanoaod() -> Path:
    folder = TEST_DATA / "nanoaod"
    if not folder.is_dir():
        pytest.skip(f"no real NanoAOD files in {folder}: name their parent in LOOSELEAF_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def main_config() -> dict[str, Any]:
    return yaml.safe_load((REPO / "config/config.yaml").read_text())


@dataclass(frozen=True)
class Run:
    """A finished call of snakemake: its exit status, all that it printed, where it ran."""

    status: int
    text: str
    folder: Path

    @property
    def jobs(self) -> dict[str, int]:
        """The jobs of a dry run by rule, from the table of job stats."""
        table = self.text.partition("Job stats:")[2].partition("\n\n")[0]
        rows = re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)
        return {rule: int(count) for rule, count in rows if rule != "total"}


Snakemake = Callable[..., Run]


def run_snakemake(folder: Path, *arguments: str, override: Mapping[str, Any] | None = None) -> Run:
    """Run the workflow in a folder of its own, with an override of the configuration."""
    command = ["--snakefile", str(REPO / "Snakefile"), "--directory", str(folder), *arguments]
    if override is not None:
        path = folder / "override.yaml"
        path.write_text(yaml.safe_dump(dict(override)))
        command += ["--configfile", str(path)]
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", *command],
        cwd=REPO,
        env={**os.environ, **cache},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return Run(result.returncode, result.stdout + result.stderr, folder)


def shared_run(
    factory: pytest.TempPathFactory, name: str, *arguments: str, configuration: str | None = None
) -> Path:
    """The folder of a finished run of the workflow, one for all of pytest's processes."""
    place = _shared(factory)
    folder, done = place / name, place / f"{name}.done"
    with open(place / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            override = yaml.safe_load((REPO / configuration).read_text()) if configuration else None
            run = run_snakemake(folder, *arguments, override=override)
            assert run.status == 0, run.text
            done.touch()
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo, as `make demo` makes it."""
    return shared_run(tmp_path_factory, "demo")


@pytest.fixture(scope="session")
def efficiencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what config/efficiency.yaml makes."""
    targets = ("efficiency", "histograms")
    configuration = "config/efficiency.yaml"
    return shared_run(tmp_path_factory, "efficiencies", *targets, configuration=configuration)


@pytest.fixture
def snakemake(tmp_path: Path) -> Snakemake:
    """`run_snakemake` in the test's own folder."""
    return partial(run_snakemake, tmp_path)


def pytest_xdist_auto_num_workers() -> int:
    """Two processes for each core: tests wait for services and workers; three take longer."""
    return min(4, 2 * (os.cpu_count() or 1))


# files whose tests take longest, which begin first where several processes share the suite
LONGEST = (
    "test_chain.py",
    "test_kubernetes.py",
    "test_chain_eft.py",
    "test_pool.py",
    "test_servicex_service.py",
)


# fixtures that start workers or Snakemake: tests that use them are slow
PROCESSES = {"site", "snakemake", "submitted"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    for item in items:
        if isinstance(item, pytest.Function) and PROCESSES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
