"""Every command and code block of the README, of CONTRIBUTING and of the site runs.

A page is a folder in which the workflow is laid out, with the demo's results. Its blocks run there
in their order, as a reader types them. A YAML block with a title is laid over the file of that
name. `snakemake` is dry-run, `looseleaf` and Python run for real.
"""

import importlib.util
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from conftest import REPO
from samples import qcd, skimmed
from snakemake.cli import args_to_api, parse_args
from snakemake.utils import update_config

from looseleaf.command import main
from looseleaf.config.schemas import check, schema
from looseleaf.config.settings import load, read_analysis
from looseleaf.errors import ConfigError
from looseleaf.layout import lay_out
from looseleaf.stage_files import FileRecord, write_catalogue
from looseleaf.yaml_files import read_yaml

pytestmark = pytest.mark.chain

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
# programs that don't run here, and why
NOT_RUN = {
    "docker": "builds an image, and needs its daemon",
    "helm": "needs a cluster; tests/test_kubernetes_chart.py installs the chart by Helm's engine",
    "mkdocs": "serves until it is stopped; `make check` builds the site",
    "pip": "installs into the environment that runs this",
    "pytest": "is what runs this",
    "source": "is the shell's own",
    "voms-proxy-init": "needs a certificate of the grid",
}
# datasets that pages ask for by name
ASKED = (
    "/A/B/C",
    "/QCD_Pt-15to20_MuEnrichedPt5_TuneCP5_13TeV_pythia8/RunIIFall17NanoAODv7-v1/NANOAODSIM",
    "/QCD_Pt-20to30_MuEnrichedPt5_TuneCP5_13TeV_pythia8/RunIIFall17NanoAODv7-v1/NANOAODSIM",
)
# correctionlib files that pages take for granted; nothing is read of them before events are
CORRECTIONS = ("puWeights.json.gz", "muon_Z.json.gz")
FENCE = re.compile(r'^```(\w*)(?: title="(.*)")?$')


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is, its text and the line before it."""

    language: str
    title: str | None
    text: str
    line: int

    def commands(self) -> list[list[str]]:
        """The words of each line, as a shell reads them."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order."""
    lines = page.read_text().splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and line.startswith("```"):
            start = number
            opened = FENCE.match(line)
            assert opened is not None, f"{page}:{number + 1}: {line}"
        elif start is not None and line == "```":
            language, title = opened.groups()
            yield Block(language, title, "\n".join(lines[start + 1 : number]) + "\n", start + 1)
            start = None
    assert start is None, f"{page}: a block has no end"


def hooks() -> Any:
    """The module that generates parts of the site."""
    spec = importlib.util.spec_from_file_location("hooks", REPO / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Skims in Parquet."""
    folder = tmp_path_factory.mktemp("parquet")
    columns = ["Muon_pt", "MET_pt", "run", "luminosityBlock", "event"]
    skimmed(folder, "qcd", {"qcd": qcd(2000)}, columns, output_format="parquet")
    return sorted(folder.rglob("*.parquet"))


@pytest.fixture
def folder(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a page."""
    place = tmp_path / "page"
    lay_out(place)
    (place / "results").mkdir()
    for results in (demo / "results").iterdir():
        (place / "results" / results.name).symlink_to(results)
    for name in CORRECTIONS:
        (place / name).touch()
    files = {name: [_record(name)] for name in ASKED}
    write_catalogue(place / "catalogue.json", files)
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def _record(dataset: str) -> FileRecord:
    return FileRecord(name=f"/store{dataset}/1.root", bytes=1000, events=10, adler32="0" * 8)


class Page:
    """A page that is being run, and the names that its Python blocks have defined."""

    def __init__(self, path: Path, folder: Path, names: dict[str, Any]) -> None:
        self.path, self.folder, self.names = path, folder, names
        self.run_by: dict[str, Callable[[list[str]], None]] = {
            "cp": self.copy,
            "looseleaf": self.looseleaf,
            "make": self.make,
            "python": self.benchmark,
            "snakemake": self.snakemake,
        }

    def run(self, block: Block) -> None:
        match block.language:
            case "" | "bash":
                for words in block.commands():
                    assert words[0] in self.run_by or words[0] in NOT_RUN, f"unknown: {words}"
                    if words[0] in self.run_by:
                        self.run_by[words[0]](words)
            case "python":
                # lines are counted as on the page
                code = compile("\n" * block.line + block.text, self.path, "exec")
                exec(code, self.names)
            case "yaml":
                self.configure(block)
            case "json" | "text":
                assert block.title is not None
                (self.folder / block.title).write_text(block.text)
            case "mermaid":
                assert f"```mermaid\n{block.text}```" == hooks().rule_graph()
            case _:
                pytest.fail(f"a block of {block.language}, which nothing runs")

    def configure(self, block: Block) -> None:
        """Lay a block over the file that it is of, and check the file and the whole."""
        assert block.title is not None
        path = self.folder / block.title
        part = self.folder / "block.yaml"
        part.write_text(block.text)
        value = read_yaml(path) if path.exists() else {}
        update_config(value, read_yaml(part))
        # in quotes whatever is text: JSON is YAML too
        path.write_text(json.dumps(value, indent=1))
        match Path(block.title).parts:
            case ("config", "analyses", _):
                read_analysis(path, self.folder)
                self.load(main_file_of(block.title))
            case ("config", "sites", name):
                self.load("config/config.yaml", site=name.removesuffix(".yaml"))
            case ("config", "datasets", _):
                check(read_yaml(path), schema("datasets"), block.title)
            case ("config", "working_points.yaml"):
                self.load("config/config.yaml")
            case ("my.yaml",):
                self.load("my.yaml")
            case _:
                pytest.fail(f"{block.title} is no file that is known")
        if (self.folder / "my.yaml").exists():
            self.load("my.yaml")

    def load(self, name: str | None, **more: Any) -> None:
        """Read a whole configuration as the workflow does."""
        if name is None:
            return
        merged = read_yaml(self.folder / "config/config.yaml")
        update_config(merged, {**read_yaml(self.folder / name), **more})
        load(merged, self.folder)

    def snakemake(self, words: Sequence[str]) -> None:
        """A dry run; what ends soon by itself runs."""
        if {"--unlock", "--report"} & set(words):
            subprocess.run([sys.executable, "-m", *words], cwd=self.folder, check=True)
            return
        options = [*words[1:], "--dry-run"]
        if "conda" in options and shutil.which("conda") is None:
            # which would be asked for its version, also by a dry run
            options.remove("conda")
            options.remove("--software-deployment-method")
        _, arguments = parse_args(options)
        assert args_to_api(arguments, None)

    def looseleaf(self, words: list[str]) -> None:
        if words[1:3] == ["servicex", "serve"]:
            serve(words, self.folder)
            return
        if words[1] == "das" and "--help" not in words:
            words = [*words, "--backend", "catalogue", "--catalogue", "catalogue.json"]
        told = CliRunner().invoke(main, words[1:])
        assert told.exit_code == 0, told.output
        assert told.output.strip() != ""

    def benchmark(self, words: list[str]) -> None:
        """What a benchmark says of itself: they take minutes, some root or a pool."""
        path = REPO / words[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(path.parent), *sys.path])
            patch.setattr(sys, "argv", [words[1], "--help"])
            if "argparse" not in path.read_text():
                runpy.run_path(str(path))
                return
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(path), run_name="__main__")
        assert ended.value.code == 0

    def copy(self, words: list[str]) -> None:
        shutil.copy(*(self.folder / name for name in words[1:]))

    def make(self, words: list[str]) -> None:
        """A target that is there: each of them sets an environment up."""
        targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)


def main_file_of(analysis: str) -> str | None:
    """The main file that names an analysis of the project."""
    for name in ("config", "eft", "efficiency"):
        if analysis in yaml.safe_load((REPO / f"config/{name}.yaml").read_text())["analyses"]:
            return f"config/{name}.yaml"
    return None


def serve(words: list[str], folder: Path) -> None:
    """Start a service, and stop it once it has told its address."""
    command = [sys.executable, "-m", *words, "--port", "0", "--state", str(folder / "state")]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert first.startswith("ServiceX at http://127.0.0.1:")
    assert (folder / "state/servicex.yaml").is_file()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_every_block_of_a_page_runs(
    path: Path, folder: Path, parquet: list[Path], request: pytest.FixtureRequest
) -> None:
    if path.stem == "efficiency":
        results = request.getfixturevalue("efficiencies")
        (folder / "results/efficiency").symlink_to(results / "results/efficiency")
    page = Page(path, folder, {"paths": parquet})
    for block in blocks(path):
        try:
            page.run(block)
        except Exception as problem:
            problem.add_note(f"{path.relative_to(REPO)}:{block.line}: {block.text}")
            raise


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (REPO / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for page in (REPO / "README.md", REPO / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]*)", page.read_text()):
            assert (REPO / target).is_file(), f"{page.name}: {target}"


def test_a_program_that_nobody_knows_is_found(folder: Path) -> None:
    page = Page(REPO / "README.md", folder, {})
    with pytest.raises(AssertionError, match="unknown"):
        page.run(Block("bash", None, "rm -rf results\n", 1))


@pytest.mark.parametrize(
    ("title", "text", "message"),
    [
        ("my.yaml", "serviceX: {format: parquet}\n", "did you mean 'servicex'"),
        ("my.yaml", "analyses: [config/none.yaml]\n", "the file 'config/none.yaml' does not exist"),
        ("config/analyses/thq.yaml", "flips: {map: flip}\n", "flip"),
        ("config/sites/slurm.yaml", "cluster: {walltime: 8h}\n", "sbatch --time"),
    ],
)
def test_a_configuration_that_is_wrong_is_found(
    folder: Path, title: str, text: str, message: str
) -> None:
    page = Page(REPO / "README.md", folder, {})
    with pytest.raises(ConfigError, match=message):
        page.run(Block("yaml", title, text, 1))


def test_the_reference_has_every_key_that_an_analysis_of_the_project_declares() -> None:
    page = (REPO / "docs/reference/configuration.md").read_text()
    generated = hooks()
    for path in sorted((REPO / "config/analyses").glob("*.yaml")):
        analysis = yaml.safe_load(path.read_text())
        assert f"<!-- schema: {analysis['kind']} -->" in page
        keys = re.findall(r"^\| `(\w+)` \|", generated.keys_of(analysis["kind"]), re.MULTILINE)
        assert set(analysis) <= set(keys), path


def test_an_arrow_that_others_imply_is_left_out() -> None:
    edges = {("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("a", "d"), ("a", "e")}
    assert hooks().reduced(edges) == {("a", "b"), ("b", "c"), ("c", "d"), ("a", "e")}


def test_a_key_without_a_description_is_found_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = hooks()
    properties = {"a": {"type": "string", "description": "It."}, "b": {"type": "integer"}}
    (tmp_path / "config/schemas").mkdir(parents=True)
    place = tmp_path / "config/schemas/one.schema.yaml"
    place.write_text(yaml.safe_dump({"properties": properties}))
    (place.parent / "common.schema.yaml").write_text("$defs: {}\n")
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    assert "| `a` | text |  | It. |" in generated.keys_of("one")
    with pytest.raises(generated.Undescribed, match=r"no description: b$"):
        generated.keys_of("one", described=True)
