"""The jobs of an analysis as the rules need them: which files the functions of its kind read and
write.

Scripts get files by name, as JSON, so that nothing is paired by its position in a list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from looseleaf.config.kind import Files, Map, Step
from looseleaf.config.kinds import kind_of
from looseleaf.config.settings import Settings
from looseleaf.paths import Paths


def flat(files: Any) -> list[str]:
    """All paths of nested mappings, each once."""
    if isinstance(files, str):
        return [files]
    return list(dict.fromkeys(path for part in files.values() for path in flat(part)))


class Graph:
    """The files of all analyses. `locate` finds a file that the configuration names."""

    def __init__(self, settings: Settings, paths: Paths, locate: Callable[[str], str]) -> None:
        self._settings, self._paths, self._locate = settings, paths, locate

    def result(self, analysis: str, name: str) -> str:
        """A file in the folder of an analysis."""
        return self._paths.result(self.stage_of(analysis), analysis, name)

    def stage_of(self, analysis: str) -> str:
        """The target that makes an analysis' results, which is also their folder."""
        return kind_of(self._settings.analyses[analysis]).stage

    def by_dataset(self, analysis: str, pattern: str) -> dict[str, str]:
        """Paths for the datasets of an analysis, in the order in which it names them."""
        return {
            name: pattern.replace("{dataset}", name)
            for name in self._settings.datasets_of(analysis)
        }

    def datasets(self, analysis: str) -> dict[str, dict[str, str]]:
        """The files that processing reads and writes for each dataset, as `DatasetFiles` takes
        them."""
        ending = kind_of(self._settings.analyses[analysis]).ending
        return {
            name: {
                "manifest": self._paths.manifest.replace("{dataset}", name),
                "histograms": self.result(analysis, f"{name}.{ending}"),
                "ledger": self.result(analysis, f"{name}.ledger.json"),
            }
            for name in self._settings.datasets_of(analysis)
        }

    def _of_each(self, analysis: str, role: str) -> dict[str, str]:
        return {name: files[role] for name, files in self.datasets(analysis).items()}

    def manifests(self, analysis: str) -> dict[str, str]:
        """The manifests of an analysis' datasets, by dataset."""
        return self._of_each(analysis, "manifest")

    def processed(self, analysis: str) -> dict[str, str]:
        """The histograms of an analysis' processed datasets, by dataset."""
        return self._of_each(analysis, "histograms")

    def ledgers(self, analysis: str) -> dict[str, str]:
        """The ledgers of an analysis' processed datasets, by dataset."""
        return self._of_each(analysis, "ledger")

    def applied(self, analysis: str) -> dict[str, Any]:
        """Paths of the maps and files that are applied to events, by name."""
        declared = self._settings.analyses[analysis]
        applied = kind_of(declared).applied(declared)
        return {name: self._applied(files) for name, files in applied.items()}

    def _applied(self, file: Map | str | Mapping[str, Map]) -> Any:
        if isinstance(file, str):
            return self._locate(file)
        if isinstance(file, Map):
            measured_map = kind_of(self._settings.analyses[file.analysis]).measured_map
            return self.result(file.analysis, measured_map)
        return {name: self._applied(part) for name, part in file.items()}

    def corrections(self, analysis: str) -> list[str]:
        """The correctionlib files of an analysis' weights, each once."""
        declared = self._settings.analyses[analysis].corrections
        return list(dict.fromkeys(correction["file"] for correction in declared.values()))

    def lumi_masks(self, analysis: str) -> list[str]:
        """The golden JSONs of an analysis' datasets, each once."""
        declared = [self._settings.datasets[n] for n in self._settings.datasets_of(analysis)]
        return list(dict.fromkeys(d["lumi_mask"] for d in declared if "lumi_mask" in d))

    def declared(self, analysis: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The given keys of the declarations of an analysis' datasets."""
        datasets = self._settings.datasets
        return {
            name: {key: datasets[name][key] for key in keys if key in datasets[name]}
            for name in self._settings.datasets_of(analysis)
        }

    def steps(self) -> Iterator[tuple[str, Step]]:
        """The steps after processing, each with the name of its analysis."""
        for name, analysis in self._settings.analyses.items():
            for step in kind_of(analysis).steps(analysis):
                yield name, step

    def taken(self, analysis: str, step: Step) -> dict[str, Any]:
        """The paths that a step reads, by name."""
        by_dataset = {"processed": self.processed, "ledgers": self.ledgers}
        applied = self.applied(analysis)
        return {
            **{name: by_dataset[name](analysis) for name in step.reads},
            **{name: applied[name] for name in step.applies},
            **self.files(analysis, step.uses),
        }

    def files(self, analysis: str, names: Files) -> dict[str, Any]:
        """The paths of files in the folder of an analysis, by the same names."""
        return {
            name: self.result(analysis, file)
            if isinstance(file, str)
            else self.files(analysis, file)
            for name, file in names.items()
        }
