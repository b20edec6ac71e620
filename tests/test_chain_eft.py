"""The EFT analyses from demo samples to datacards, with leptons that aren't prompt from data."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from combine_rules import NO_BACKGROUND, NO_SIGNAL, read_card
from conftest import REPO, run_snakemake
from scipy.stats import poisson

from looseleaf.topcoffea.fit import EFTModel
from looseleaf.topcoffea.store import read_histograms
from looseleaf.topcoffea.templates import coefficients_of

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def eft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of config/eft.yaml with a part of the simulation."""
    folder = tmp_path_factory.mktemp("eft")
    override = yaml.safe_load((REPO / "config/eft.yaml").read_text())
    run = run_snakemake(folder, "topcoffea", override={**override, "samples": {"scale": 0.2}})
    assert run.status == 0, run.text
    return folder / "results/eft/topcoffea"


def test_every_target_stands(eft: Path) -> None:
    for analysis, channels in (("thq", 7), ("ftanalysis", 13)):
        for name in ("yields.json", "yields.txt", "histograms.h5", "workspace.json"):
            assert (eft / analysis / name).stat().st_size > 0
        for ending in ("txt", "root"):
            assert len(list((eft / analysis / "datacards").glob(f"*.{ending}"))) == channels
    assert list(eft.rglob(".part-*")) == []


def test_prediction_from_data_is_what_is_observed(eft: Path) -> None:
    # the demo's data are top pairs alone, whose third lepton isn't prompt
    table = json.loads((eft / "thq/yields.json").read_text())["channels"]["3l_ge2j"]
    predicted, observed = table["nonprompt"]["SM"], table["data"]["SM"]
    assert observed["value"] > 100
    # the maps' own uncertainty is about a tenth
    error = np.hypot(observed["error"], predicted["error"]) + 0.1 * observed["value"]
    assert abs(predicted["value"] - observed["value"]) < 2 * error
    assert table["ttbar"]["SM"]["value"] == 0


def test_flips_predicted_from_data_are_what_is_observed(eft: Path) -> None:
    # electrons of the demo's data have the wrong charge as often as those that are measured
    table = json.loads((eft / "thq/yields.json").read_text())["channels"]
    data, flips, nonprompt = (
        sum(found[process]["SM"]["value"] for name, found in table.items() if "2lss" in name)
        for process in ("data", "flips", "nonprompt")
    )
    assert poisson.sf(data - 1, max(nonprompt, 0.0) + 1.0) < 1e-4
    # few pairs measure them here
    filled = read_histograms(eft / "thq/histograms.h5")[0]["ht"].select(process="flips")
    one = filled.project("systematic")
    varied = dict(zip(one.categories("systematic"), one.values()[0], strict=True))
    assert varied["nominal"] == pytest.approx(flips)
    sigma = (varied["flips_rate_flipsUp"] - varied["flips_rate_flipsDown"]) / 2
    predicted = flips + nonprompt
    assert 0 < sigma < 0.5 * predicted
    assert abs(data - predicted) < 2.6 * np.sqrt(predicted + sigma**2)  # p = 0.01
    assert "flips_rate_flips " in (eft / "thq/datacards/2lss_1b_2j.txt").read_text()
    # muons don't flip
    table = json.loads((eft / "ftanalysis/yields.json").read_text())["channels"]
    for name, found in table.items():
        assert (found["flips"]["SM"]["value"] > 0) == ("2lss" in name and "_em_" in name)


def test_the_rates_are_varied_within_their_errors(eft: Path) -> None:
    found, metadata = read_histograms(eft / "thq/histograms.h5")
    assert metadata == {"analysis": "thq", "lumi_ifb": 1.0}
    one = found["ht"].select(process="nonprompt", channel="3l_ge2j").project("systematic")
    values = dict(zip(one.categories("systematic"), one.values()[0], strict=True))
    for measured in ("muon", "electron"):
        up, down = (values[f"nonprompt_rate_{measured}{side}"] for side in ("Up", "Down"))
        assert 0.7 * values["nominal"] < down < values["nominal"] < up < 1.4 * values["nominal"]
    # what the maps say of themselves beside their statistics stands in the cards
    card = (eft / "thq/datacards/3l_ge2j.txt").read_text()
    both = [f"nonprompt_{flavour}" for flavour in ("Muon", "Electron")]
    for name in (f"{one}_{what}" for one in both for what in ("closure", "away_jet_pt")):
        row = next(line.split() for line in card.splitlines() if line.startswith(name))
        assert (row[1], row.count("1")) == ("shape", 1)
        assert {f"{name}Up", f"{name}Down"} <= set(values)
    # 20 % of the rate f of each flavour, a little more of f / (1 - f)
    moved = sum(values[f"{one}_closureUp"] - values["nominal"] for one in both)
    assert 0.2 < moved / values["nominal"] < 0.35


def test_prompt_leptons_are_taken_away_as_the_standard_model_has_them(eft: Path) -> None:
    """Of the signal's too, whose Wilson coefficients don't move what data predict."""
    found = read_histograms(eft / "ftanalysis/histograms.h5")[0]["ht"].select(systematic="nominal")
    points = [{}, {"ctG": 5.0}]
    signal, predicted = (
        found.select(process=name).project("channel").values(points)
        for name in ("tttt", "nonprompt")
    )
    assert (signal[1] > 2 * signal[0]).any()
    np.testing.assert_array_equal(predicted[0], predicted[1])
    assert predicted[0].any()


def test_combine_takes_every_card(eft: Path) -> None:
    for analysis in ("thq", "ftanalysis"):
        workspace = json.loads((eft / analysis / "workspace.json").read_text())
        channels = {channel["name"] for channel in workspace["channels"]}
        for path in sorted((eft / analysis / "datacards").glob("*.txt")):
            text = path.read_text()
            name = f"ch_{path.stem}"
            assert text.startswith("# ")
            if name not in channels:
                assert "nothing is expected" in text
                assert all(line.startswith("#") for line in text.splitlines())
                continue
            options = [option for option in (NO_BACKGROUND, NO_SIGNAL) if option in text]
            card = read_card(path, options, coefficients_of(workspace))
            assert card.channels == [name]
            channels.remove(name)
        assert not channels


def test_the_model_is_the_histogram(eft: Path) -> None:
    workspace = json.loads((eft / "thq/workspace.json").read_text())
    model = EFTModel(workspace, ["ctp", "cptb"])
    filled = read_histograms(eft / "thq/histograms.h5")[0]["ht"].select(systematic="nominal")
    signals = filled.select(process=["tHq", "ttH"]).project()
    sm = model.expected({})
    for point in ({"ctp": 3.0}, {"ctp": -2.0, "cptb": 4.0}):
        moved = (model.expected(point) - sm).sum()
        expected = np.diff(signals.values([{}, point]))[0]
        assert moved == pytest.approx(expected, rel=1e-6)
