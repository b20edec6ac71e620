"""Every path pattern of the workflow. `{dataset}` and `{analysis}` are Snakemake's wildcards."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paths:
    """Where each target stands below the results root."""

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
        return f"{self.root}/topcoffea/samples/{{dataset}}.json"

    @property
    def das(self) -> str:
        return f"{self.root}/das/{{dataset}}.json"

    @property
    def manifest(self) -> str:
        return f"{self.root}/servicex/{{dataset}}.json"

    def processed(self, kind: str, analysis: str, dataset: str = "{dataset}") -> str:
        ending = "h5" if kind == "topcoffea" else "json"
        return f"{self.root}/{kind}/{analysis}/{dataset}.{ending}"

    def ledger(self, kind: str, analysis: str) -> str:
        return f"{self.root}/{kind}/{analysis}/{{dataset}}.ledger.json"

    def tasks(self, kind: str, analysis: str) -> str:
        """The table of what each chunk of an analysis cost, and where."""
        return f"{self.root}/{kind}/{analysis}/tasks.csv"

    def performance(self, kind: str, analysis: str) -> str:
        """Dask's own report of an analysis' processing."""
        return f"{self.root}/{kind}/{analysis}/performance.html"

    def fakerate(self, name: str, analysis: str = "{analysis}") -> str:
        return f"{self.root}/fakerate/{analysis}/{name}"

    def topcoffea(self, name: str, analysis: str = "{analysis}") -> str:
        return f"{self.root}/topcoffea/{analysis}/{name}"

    def datacard(self, analysis: str, channel: str, ending: str) -> str:
        return f"{self.root}/topcoffea/{analysis}/datacards/{channel}.{ending}"

    def picture(self, name: str, analysis: str = "{analysis}") -> str:
        return f"{self.root}/histograms/{analysis}/{name}"

    def report(self, name: str) -> str:
        return f"{self.root}/benchmark/{name}"

    def log(self, name: str) -> str:
        return f"{self.root}/logs/{name}.log"

    def benchmark(self, name: str) -> str:
        """Where Snakemake writes a job's own cost."""
        return f"{self.root}/benchmark/jobs/{name}.jsonl"
