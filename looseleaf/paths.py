"""Every path pattern of the workflow. `{dataset}` is Snakemake's wildcard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paths:
    """Where each target stands below the results root. A `stage` is a folder of analyses."""

    root: str

    @property
    def config(self) -> str:
        return f"{self.root}/config.json"

    @property
    def samples(self) -> str:
        """The folder of one demo dataset."""
        return f"{self.root}/samples/{{dataset}}"

    @property
    def catalogue(self) -> str:
        """What a demo dataset registered about its files."""
        return f"{self.samples}/catalogue.json"

    @property
    def listed(self) -> str:
        """The files of a sample that is declared in TopEFT's form."""
        return f"{self.root}/listed/{{dataset}}.json"

    @property
    def das(self) -> str:
        return f"{self.root}/das/{{dataset}}.json"

    @property
    def manifest(self) -> str:
        return f"{self.root}/servicex/{{dataset}}.json"

    def result(self, stage: str, analysis: str, name: str) -> str:
        """A file of an analysis."""
        return f"{self.root}/{stage}/{analysis}/{name}"

    def picture(self, analysis: str, name: str) -> str:
        return f"{self.pictures(analysis)}/{name}"

    def pictures(self, analysis: str) -> str:
        """The folder of an analysis' pictures."""
        return f"{self.root}/histograms/{analysis}"

    def report(self, name: str) -> str:
        return f"{self.root}/benchmark/{name}"

    def log(self, name: str) -> str:
        return f"{self.root}/logs/{name}.log"

    def benchmark(self, name: str) -> str:
        """Where Snakemake writes a job's own cost."""
        return f"{self.root}/benchmark/jobs/{name}.jsonl"
