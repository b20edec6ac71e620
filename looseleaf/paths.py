"""Every path pattern of the workflow. `{dataset}` is Snakemake's wildcard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paths:
    """The paths of targets below the results root. A `stage` is a folder of analyses."""

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
        """The catalogue of a demo dataset's files."""
        return f"{self.samples}/catalogue.json"

    @property
    def listed(self) -> str:
        """The catalogue of a sample in TopEFT's form."""
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

    def cost(self, job: str) -> str:
        """The file in which a job records its cost."""
        return f"{self.root}/benchmark/jobs/{job}.json"
