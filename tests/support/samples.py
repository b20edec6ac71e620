"""Small demo datasets for tests of single stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.das.lookup import lookup
from looseleaf.samples.generate import generate
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.request import request_from_das
from looseleaf.servicex.submission import transform

REPO = Path(__file__).parents[2]
TRUTH = str(REPO / "config/demo/truth.json")
SETTINGS = {"seed": 7, "scale": 1.0, "step": 2000, "compression": "lz4"}


def sample(kind: str, events: int, files: int = 2, **more: Any) -> dict[str, Any]:
    """The declaration of a demo dataset; `more` goes into the dataset, except pthat and flavour."""
    generator = {key: more.pop(key) for key in ("pthat", "flavour") if key in more}
    return {
        "das": f"/{kind}_test/looseleaf-v1/NANOAODSIM",
        "process": kind,
        "data": False,
        "xsec_pb": 1.0,
        "sample": {"kind": kind, "events": events, "files": files, **generator},
        **more,
    }


def qcd(events: int, files: int = 2, **more: Any) -> dict[str, Any]:
    return sample("qcd", events, files, pthat=[20, 30], flavour="Muon", **more)


def skimmed(
    folder: Path,
    name: str,
    datasets: Mapping[str, Mapping[str, Any]],
    columns: list[str],
    cut: str | None = None,
    output_format: str = "root-file",
    samples: Path | None = None,
) -> Path:
    """Generate, look up and transform one dataset; the path of the manifest.

    What stands in `samples` already isn't generated again.
    """
    catalogue = (samples or folder / "samples") / name / "catalogue.json"
    if samples is None or not catalogue.is_file():
        generate(name, datasets, SETTINGS, catalogue, TRUTH)
    das = folder / f"{name}.das.json"
    lookup(datasets[name]["das"], das, [catalogue])
    manifest = folder / f"{name}.json"
    request = request_from_das(das, columns, cut, output_format, "test", [])
    transform(request, folder / "volume", "sub", manifest, Embedded(1), name)
    return manifest
