"""A loss by the skim that an analysis accepts: from the configuration to the ledger."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import hist
import pytest
import yaml
from analyses import analysis_of, columns_of
from conftest import REPO
from samples import sample, skimmed

from looseleaf.application import process as application
from looseleaf.cluster import client_for
from looseleaf.config.settings import load
from looseleaf.errors import ConfigError
from looseleaf.files import read_json
from looseleaf.flips import process as flips
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.runner import Limits
from looseleaf.processing.stage import DatasetFiles, Running
from looseleaf.topcoffea import process as topcoffea

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
DATASET = sample("ttbar", 600, files=1, xsec_pb=88.0, declared_in="sets.yaml")
CUT = "any(Muon_pt > 20)"


def shipped(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPO / f"config/analyses/{name}.yaml").read_text())


def accepting(kind: str) -> dict[str, Any]:
    """An analysis of a kind that accepts the loss, as the configuration gives it to its jobs."""
    points = {"loose": "tight_simple", "tight": "tight_simple", "momentum": "raw"}
    analysis: dict[str, Any] = {
        "flips": {**shipped("flips"), "triggers": []},
        "application": {
            **shipped("validation"),
            "datasets": {"predict": ["t"]},
            "triggers": [],
            "working_points": {"Muon": points},
        },
        "topcoffea": {
            **shipped("tth_eft"),
            "working_points": {"Muon": points, "Electron": points},
        },
    }[kind]
    return {**analysis, "allow": {"skim": True}, "skim": CUT}


@pytest.mark.parametrize("kind", ["flips", "application", "topcoffea"])
def test_an_accepted_loss_stands_in_the_ledger(kind: str, tmp_path: Path) -> None:
    analysis, points = accepting(kind), POINTS.to_json()
    columns = sorted(columns_of(analysis, DATASET, POINTS))
    manifest = skimmed(tmp_path, "t", {"t": DATASET}, columns, CUT)
    totals = read_json(manifest)["totals"]
    removed = totals["events_in"] - totals["events_out"]
    assert 0 < removed < totals["events_in"] == 600
    files = DatasetFiles(str(manifest), str(tmp_path / "h"), str(tmp_path / "l.json"))
    site = yaml.safe_load((REPO / "config/sites/local.yaml").read_text())
    running = Running(
        partial(client_for, site, 1),
        Limits(8000, 8000),
        str(tmp_path / "t.csv"),
        str(tmp_path / "p.html"),
    )
    given = {"t": DATASET}, {"t": files}, running
    if kind == "flips":
        flips.process(analysis_of(analysis), points, *given)
    elif kind == "topcoffea":
        topcoffea.process(analysis_of(analysis), points, *given)
    else:
        axes = [hist.axis.Variable([10, 90], name="pt"), hist.axis.Variable([0, 3], name="abs_eta")]
        ratio = hist.Hist(*axes, storage=hist.storage.Weight())
        write_uhi(tmp_path / "m.json", {"ratio": ratio}, {"empty_bins": []})
        maps = {"Muon": str(tmp_path / "m.json")}
        application.process(analysis_of(analysis), points, *given, maps)
    (loss,) = [loss for loss in read_json(files.ledger)["losses"] if loss["kind"] == "skimmed"]
    assert (loss["name"], loss["count"], loss["of"]) == (CUT, removed, 600)
    assert loss["allowed"] == "allow.skim"


def test_every_kind_of_analysis_may_accept_it(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    main_config = copy.deepcopy(main_config)
    main_config["servicex"]["cut"] = CUT
    with pytest.raises(ConfigError, match=r"accept the loss with allow: \{skim: true\}"):
        load(main_config, repo)
    main_config["analyses"].append("config/analyses/flips.yaml")
    for number, path in enumerate(main_config["analyses"]):
        analysis = yaml.safe_load((repo / path).read_text())
        analysis["allow"] = {**analysis.get("allow", {}), "skim": True}
        main_config["analyses"][number] = str(tmp_path / Path(path).name)
        (tmp_path / Path(path).name).write_text(yaml.safe_dump(analysis, sort_keys=False))
    found = load(main_config, repo).analyses
    assert {a.kind for a in found.values()} == {"fakerate", "application", "topcoffea", "flips"}
    assert {a.skim for a in found.values()} == {CUT}


@pytest.mark.parametrize("name", ["flips", "validation", "tth_eft"])
def test_empty_bins_are_allowed_where_a_map_is_measured(
    main_config: dict[str, Any], repo: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**shipped(name), "allow": {"empty_bins": True}}))
    main_config = copy.deepcopy(main_config)
    others = [other for other in main_config["analyses"] if not other.endswith(f"/{name}.yaml")]
    main_config["analyses"] = [*others, str(path)]
    with pytest.raises(ConfigError, match="empty_bins"):
        load(main_config, repo)
