"""How the measured map agrees with the injected probability, as samples grow: a table.

    python benchmarks/truth.py [--events 1000000 10000000] [--cores 2]

Runs the workflow for muons and electrons, each in simulation (no prompt leptons in the samples)
and in pseudo-data of which most is W, Z and top pairs, taken away with the factor that the fit
finds. `--events` is how many events are made of simulated QCD in the one case, of data in the
other, and `loose` the effective number of loose leptons. chi2 compares all bins of the map with
the injected function; with prompt leptons the table also shows how much of the loose and tight
leptons they are, the fitted factor, which is 1 in truth, and the p-value that the map would have
without the subtraction.

Exits with 1 if a map disagrees (p < 0.001).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import chi2

from looseleaf.histograms import read_uhi

REPO = Path(__file__).parent.parent
PROMPT = ["WJetsToLNu", "DYJetsToLL", "TTTo2L2Nu"]
# QCD's cross sections are divided by this where prompt leptons are to matter
RARER = 200
TRUTH_RUN = ("--configfile", "override.yaml", "--quiet", "all")


def configured(folder: Path, flavour: str, prompt: bool, events: int) -> str:
    """Write an override configuration into a folder; the name of its analysis."""
    datasets = yaml.safe_load((REPO / "config/datasets/demo.yaml").read_text())
    analysis = yaml.safe_load((REPO / f"config/analyses/{flavour}.yaml").read_text())
    slices = analysis["datasets"]["measure"]
    simulated = sum(datasets[name]["sample"]["events"] for name in slices)
    if prompt:
        for name in slices:
            datasets[name]["xsec_pb"] /= RARER
        total_pb = sum(datasets[name]["xsec_pb"] for name in [*slices, *PROMPT])
        lumi_ifb = events / total_pb / 1000
        collection = analysis["lepton"]["collection"]
        datasets["data"] = {
            "das": f"/Single{collection}/truth-looseleaf-v1/NANOAOD",
            "process": "data",
            "data": True,
            "sample": {
                "kind": "data",
                "flavour": collection,
                "files": 4,
                "lumi_ifb": lumi_ifb,
                "sum_of": [*slices, *PROMPT],
            },
        }
        fit = yaml.safe_load((REPO / "config/analyses/muon_data.yaml").read_text())["prompt_fit"]
        analysis |= {
            "lumi_ifb": lumi_ifb,
            "datasets": {"measure": ["data"], "subtract": PROMPT, "non_prompt": slices},
            "prompt_fit": fit,
        }
    # with few events some bins are empty, and have no part in the comparison
    analysis["allow"] = {"empty_bins": True}
    (folder / "datasets.yaml").write_text(yaml.safe_dump(datasets))
    (folder / "analysis.yaml").write_text(yaml.safe_dump(analysis))
    override = {
        "datasets": [str(folder / "datasets.yaml")],
        "analyses": [str(folder / "analysis.yaml")],
        # simulation of prompt leptons as large as that of QCD
        "samples": {"scale": events / simulated},
    }
    (folder / "override.yaml").write_text(yaml.safe_dump(override))
    return analysis["name"]


def case(flavour: str, prompt: bool, events: int, cores: int) -> dict[str, Any]:
    """Run the workflow in a folder of its own, and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        name = configured(folder, flavour, prompt, events)
        target = f"results/fakerate/{name}/truth.json"
        subprocess.run(
            [str(Path(sys.executable).with_name("snakemake")), "--snakefile",
             str(REPO / "Snakefile"), "--cores", str(cores), target, *TRUTH_RUN],
            cwd=folder,
            check=True,
            capture_output=True,
        )  # fmt: skip
        found = json.loads((folder / target).read_text())
        maps, metadata = read_uhi(folder / f"results/fakerate/{name}/map.json")
    total = maps["loose"].sum()
    row = {**found, "loose": total.value**2 / total.variance, "fit": metadata["prompt_fit"]}
    if prompt:
        for point in ("loose", "tight"):
            parts = [maps[f"{g}.{point}.pt"].values().sum() for g in ("subtract", "measure")]
            row[f"prompt_{point}"] = parts[0] / parts[1]
        off = maps["ratio_prompt_off"].values()
        row["off"] = disagreement(off, found)
    return row


def disagreement(rate: Any, found: dict[str, Any]) -> float:
    """The p-value of another map with the uncertainties of the measured one."""
    total, ndf = 0.0, 0
    for row, measured in enumerate(found["measured"]):
        for column, value in enumerate(measured):
            if value is not None:
                low, high = (found[key][row][column] for key in ("lower", "upper"))
                difference = rate[column, row] - found["expected"][row][column]
                total, ndf = total + (2 * difference / (high - low)) ** 2, ndf + 1
    return float(chi2.sf(total, ndf))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    print(
        "flavour   prompt      events      loose  chi2/ndf        p   of loose  of tight"
        "   factor            p without"
    )
    worst = 1.0
    for events in arguments.events:
        for flavour in ("muon", "electron"):
            for prompt in (False, True):
                row = case(flavour, prompt, int(events), arguments.cores)
                worst = min(worst, row["p_value"])
                text = (
                    f"{flavour:<9} {'yes' if prompt else 'no':<6} {events:>11,.0f} "
                    f"{row['loose']:>10,.0f}  {row['chi2']:>5.1f}/{row['ndf']:<2} "
                    f"{row['p_value']:>8.3f}"
                )
                if prompt:
                    fit = row["fit"]
                    text += (
                        f"   {row['prompt_loose']:>7.1%}   {row['prompt_tight']:>7.1%}"
                        f"   {fit['factor']:.4f} ± {fit['error']:.4f}   {row['off']:.1e}"
                    )
                print(text, flush=True)
    return 0 if worst > 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
