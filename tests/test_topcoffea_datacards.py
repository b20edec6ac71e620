"""Cards as Combine takes them, by a reader of its rules; and one model in cards and workspace."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
import uproot
from analyses import analysis_of
from combine_rules import NO_BACKGROUND, NO_SIGNAL, Card, RuleBroken, read_card

from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.topcoffea.datacards import write_datacards
from looseleaf.topcoffea.fit import EFTModel, FitFailed
from looseleaf.topcoffea.naming import card_channel
from looseleaf.topcoffea.store import write_histograms

CHANNELS = ("2lss_4j", "3l")
EDGES = [0.0, 100.0, 250.0, 500.0]
# by bin, the terms 1, a, a^2, b, a b, b^2 of a signal's events
TERMS = np.array([
    [4.0, 1.0, 0.5, -0.6, 0.2, 0.3],
    [2.5, -0.5, 0.4, 0.7, -0.1, 0.6],
    [1.0, 0.3, 0.9, 0.1, 0.4, 0.2],
])  # fmt: skip
TT = np.array([10.0, 6.0, 3.0])
ANALYSIS: dict[str, Any] = {
    "name": "small",
    "title": "A small analysis",
    "signal": ["ttH"],
    "observables": {"ht": {}},
    "systematics": {
        "rate": {
            "lumi": {"value": 1.016},
            "xsec_tt": {"value": [0.9, 1.2], "processes": ["tt"]},
        }
    },
}
POINTS = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-0.7, 1.9), (3.0, -2.0)]


def at(point: tuple[float, float]) -> np.ndarray:
    """The signal's bins at a point, written out."""
    a, b = point
    return TERMS @ np.array([1, a, a * a, b, a * b, b * b])


def put(
    into: EFTHist, process: str, contents: Any, systematic: str = "nominal", **where: str
) -> None:
    """Fill bins with contents, or with terms."""
    contents = np.asarray(contents, float)
    x = np.array([50.0, 200.0, 300.0])
    for channel in [where["channel"]] if where else CHANNELS:
        if contents.ndim == 1:
            there = contents != 0
            into.fill(process, channel, systematic, x[there], weight=contents[there])
        else:
            into.fill(process, channel, systematic, x, eft=contents)


def empty() -> EFTHist:
    return EFTHist(
        hist.axis.StrCategory([], name="process", growth=True),
        hist.axis.StrCategory(list(CHANNELS), name="channel", overflow=False),
        hist.axis.StrCategory(["nominal"], name="systematic", growth=True),
        hist.axis.Variable(EDGES, name="ht"),
        coefficients=["a", "b"],
    )


def filled() -> EFTHist:
    out = empty()
    put(out, "ttH", TERMS)
    put(out, "tt", TT)
    for label, factor in (("jesUp", 1.1), ("jesDown", 0.7)):
        put(out, "ttH", factor * TERMS, label)
        put(out, "tt", factor * TT, label)
    return out


def written(folder: Path, histogram: EFTHist, **changes: Any) -> dict[str, Any]:
    """Write the cards of both channels into the folder; the workspace."""
    write_histograms(folder / "h.h5", {"ht": histogram}, {})
    paths = [{c: str(folder / f"{c}.{end}") for c in CHANNELS} for end in ("txt", "root")]
    write_datacards(
        analysis_of({**ANALYSIS, **changes}), folder / "h.h5", *paths, folder / "workspace.json"
    )
    return json.loads((folder / "workspace.json").read_text())


def card_of(folder: Path, channel: str = "2lss_4j", *options: str) -> Card:
    return read_card(folder / f"{channel}.txt", options, ["a", "b"])


def scales(point: tuple[float, float]) -> dict[str, float]:
    """What TopEFT's model for Combine multiplies the parts of a signal in a and b with."""
    a, b = point
    return {
        "ttH_sm": 1 - a - b + a * b,
        "ttH_lin_a": a * (1 - b),
        "ttH_lin_b": b * (1 - a),
        "ttH_quad_a": a * a - a,
        "ttH_quad_b": b * b - b,
        "ttH_quad_mixed_a_b": a * b,
    }


def hold_together(folder: Path, workspace: Mapping[str, Any]) -> None:
    """That Combine takes the cards, with the options that they name, and that they and the
    workspace are one model: at all points and with each nuisance moved."""
    model = EFTModel(workspace, ["a", "b"])
    config = model.model.config
    assert config.channels == sorted(config.channels)
    for channel in CHANNELS:
        text = (folder / f"{channel}.txt").read_text()
        if card_channel(channel) not in config.channels:
            assert "\nbin" not in text
            continue
        options = [option for option in (NO_BACKGROUND, NO_SIGNAL) if option in text]
        card = card_of(folder, channel, *options)
        (name,) = card.channels
        bins = config.channel_slices[name]
        np.testing.assert_allclose(model.observed[bins], card.observed[name], rtol=1e-9)
        assert set(card.nuisances) <= set(config.parameters)
        for point in POINTS:
            named = dict(zip("ab", point, strict=True))
            np.testing.assert_allclose(
                model.expected(named)[bins], card.expected(name, scales(point)), atol=1e-9
            )
            for nuisance in card.nuisances:
                for value in (1.0, -1.0):
                    parameters = model.parameters(named)
                    parameters[config.par_slice(nuisance)] = value
                    found = model.model.expected_data(parameters, include_auxdata=False)[bins]
                    expected = card.expected(name, scales(point), nuisance, value > 0)
                    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_one_model_in_cards_and_workspace(tmp_path: Path) -> None:
    whole = filled()
    workspace = written(tmp_path, whole)
    nominal = whole.select(channel="3l", systematic="nominal").project("process", "ht")
    for point in POINTS:
        expected = at(point) + TT
        for channel in CHANNELS:
            card = card_of(tmp_path, channel)
            np.testing.assert_allclose(
                card.expected(card.channels[0], scales(point)), expected, rtol=1e-9
            )
        own = nominal.values([dict(zip("ab", point, strict=True))])[0].sum(axis=0)
        np.testing.assert_allclose(own, expected, rtol=1e-9)
    hold_together(tmp_path, workspace)
    card = card_of(tmp_path)
    name = card.channels[0]
    np.testing.assert_allclose(card.observed[name], TERMS[:, 0] + TT, rtol=1e-12)
    one = {"ttH_sm": 1.0, **dict.fromkeys(set(scales((0, 0))) - {"ttH_sm"}, 0.0)}
    for nuisance, up, signal, background in (
        ("lumi", True, 1.016, 1.016),
        ("lumi", False, 1 / 1.016, 1 / 1.016),
        ("xsec_tt", True, 1.0, 1.2),
        ("xsec_tt", False, 1.0, 0.9),
        ("jes", True, 1.1, 1.1),
        ("jes", False, 0.7, 0.7),
    ):
        np.testing.assert_allclose(
            card.expected(name, one, nuisance, up), signal * TERMS[:, 0] + background * TT
        )
    assert card.statistics == {name: (10.0, True)}


def test_channels_have_names_that_combine_takes(tmp_path: Path) -> None:
    workspace = written(tmp_path, filled(), title="Two\nlines: 1")
    names = [card_of(tmp_path, channel).channels[0] for channel in CHANNELS]
    assert names == ["ch_2lss_4j", "ch_3l"]
    assert [channel["name"] for channel in workspace["channels"]] == names
    text = (tmp_path / "2lss_4j.txt").read_text()
    assert "# Two lines: 1: channel 2lss_4j, here and in the workspace ch_2lss_4j\n" in text
    # without labels, combineCards would call both ch1 and ch2
    assert "# all channels: combineCards.py ch_2lss_4j=2lss_4j.txt ch_3l=3l.txt\n" in text


def test_predictions_from_data_have_no_luminosity(tmp_path: Path) -> None:
    """Neither nonprompt leptons nor flips, which move with what names them alone."""
    whole = filled()
    put(whole, "nonprompt", [1.0, 2.0, 3.0])
    put(whole, "flips", [3.0, 2.0, 1.0])
    rate = {"lumi": {"value": 1.016}, "flips_rate": {"value": 1.3, "processes": ["flips"]}}
    workspace = written(tmp_path, whole, systematics={"rate": rate})
    hold_together(tmp_path, workspace)
    rows = [line.split() for line in (tmp_path / "3l.txt").read_text().splitlines()]
    (names,) = (row[1:] for row in rows if row[:1] == ["process"] and "tt" in row)
    moved = {row[0]: dict(zip(names, row[2:], strict=True)) for row in rows if row[1:2] == ["lnN"]}
    assert {name for name, cell in moved["lumi"].items() if cell == "-"} == {"nonprompt", "flips"}
    assert {name for name, cell in moved["flips_rate"].items() if cell != "-"} == {"flips"}


def test_whoever_fits_the_workspace_begins_at_the_standard_model(tmp_path: Path) -> None:
    """Which is there once, whatever the other parts are scaled with."""
    (measurement,) = written(tmp_path, filled())["measurements"]
    begun = {p["name"]: (p["inits"], p["fixed"]) for p in measurement["config"]["parameters"]}
    others = ["lin_a", "quad_a", "lin_b", "quad_b", "quad_mixed_a_b"]
    assert begun == {"sm": ([1.0], True)} | dict.fromkeys(others, ([0.0], False))
    assert measurement["config"]["poi"] == "lin_a"


def test_templates_have_the_errors_of_their_events(tmp_path: Path) -> None:
    """Those of variations are of the same events: no errors of their own."""
    whole = empty()
    for label in ("nominal", "jesUp", "jesDown"):
        whole.fill("tt", "3l", label, [50.0, 50.0, 200.0], weight=[3.0, -1.0, 2.0])
    whole.fill("rare", "3l", "nominal", [50.0, 300.0], weight=[2.0, 0.5])
    (channel,) = written(tmp_path, whole)["channels"]
    errors = {
        sample["name"]: modifier["data"]
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
        if modifier["type"] == "staterror"
    }
    # of the sum of both
    assert errors["tt"] == pytest.approx([14**0.5, 2, 0.5])
    assert errors["rare"] == [0, 0, 0]
    with uproot.open(tmp_path / "3l.root") as file:
        assert file["tt"].variances().tolist() == [10, 4, 0]
        assert file["data_obs"].variances().tolist() == [4, 2, 0.5]
        for direction in ("Up", "Down"):
            varied = file[f"tt_jes{direction}"]
            assert varied.values().tolist() == [2, 2, 0]
            assert varied.variances().tolist() == [0, 0, 0]


def test_rare_processes_keep_their_rate(tmp_path: Path) -> None:
    whole = filled()
    put(whole, "rare", [3e-9, 0, 0])
    put(whole, "common", [12_345_678_901.0, 0, 1])
    workspace = written(tmp_path, whole)
    card = card_of(tmp_path)
    assert {c.process for c in card.columns} >= {"rare", "common"}
    hold_together(tmp_path, workspace)


def test_what_is_below_zero_is_cut_off_alike_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = filled()
    # f(a = 1) falls from 1 + 0.3 + 0.9 to -0.6, of a signal in the last bin of one channel
    put(whole, "ttH", [[0] * 6, [0] * 6, [0, -2.8, 0, 0, 0, 0]], channel="3l")
    put(whole, "odd", [-2.0, -1.0, 5.0], channel="3l")
    put(whole, "gaps", [-1.0, 2.0, -3.0], channel="3l")
    put(whole, "odd", [4.0, -1.0, 6.0], "jesUp", channel="3l")
    put(whole, "odd", [1.0, 0.0, 4.0], "jesDown", channel="3l")
    workspace = written(tmp_path, whole)
    hold_together(tmp_path, workspace)
    card = card_of(tmp_path, "3l")
    by_name = {column.process: column for column in card.columns}
    assert by_name["odd"].values.tolist() == [0, 0, 5]
    assert by_name["odd"].variances.tolist() == [4, 1, 25]
    assert [side.tolist() for side in by_name["odd"].moved["jes"]] == [[1, 0, 4], [4, 0, 6]]
    np.testing.assert_allclose(by_name["ttH_lin_a"].values, [5.5, 2.4, 0])
    np.testing.assert_allclose(by_name["ttH_quad_mixed_a_b"].values[2], 2.9 - 2.8)
    says = capsys.readouterr().err
    about = "where it is set to zero: negative weights outweigh the others"
    assert f"small: channel 3l: ttH_lin_a is -0.6 in ht from 250 to 500, {about}" in says
    assert f"small: channel 3l: odd is -3 in ht from 0 to 250, {about}" in says
    assert f"channel 3l: gaps is -4 in ht from 0 to 100 and 250 to 500, {about}" in says
    assert "2lss_4j" not in says
    text = (tmp_path / "3l.txt").read_text()
    assert f"# ttH_lin_a is -0.6 in ht from 250 to 500, {about}" in text
    assert "odd is" not in (tmp_path / "2lss_4j.txt").read_text()


def test_what_rounding_leaves_below_zero_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coefficients of 32 bits: f(a = 1) is nothing but for its last digits."""
    whole = empty()
    put(whole, "tt", TT)
    rounded = np.float32([[0.1, -0.3, 0.2, 0.0, 0.0, 0.2]] * 3).astype(float)
    assert -1e-8 < rounded[0, :3].sum() < 0
    put(whole, "ttH", rounded)
    hold_together(tmp_path, written(tmp_path, whole))
    assert {c.process for c in card_of(tmp_path).columns} == {
        "ttH_sm", "ttH_quad_a", "ttH_lin_b", "ttH_quad_b", "ttH_quad_mixed_a_b", "tt",
    }  # fmt: skip
    assert capsys.readouterr().err == ""
    # nor where parts of the bin are below zero as well, and all of them add up to nothing
    rounded[:, 5] = -0.4 / 3
    # at a = b = 1 too
    for mixed in (0.0, 0.4 / 3):
        rounded[:, 4] = mixed
        whole = empty()
        put(whole, "tt", TT)
        put(whole, "ttH", rounded)
        written(tmp_path, whole)
        says = capsys.readouterr().err
        assert "ttH_quad_b is -0.4 in ht from 0 to 500" in says
        assert "ttH_lin_a" not in says


@pytest.mark.parametrize("left", [0.0, 0.002])
@pytest.mark.parametrize("direction", ["Up", "Down"])
def test_a_variation_that_leaves_nothing_leaves_a_thousandth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], direction: str, left: float
) -> None:
    """Nothing at all, or less than that."""
    whole = filled()
    other = {"Up": "Down", "Down": "Up"}[direction]
    put(whole, "rare", [2.0, 0.0, 1.0])
    put(whole, "rare", [3.0, 1.0, 1.0], f"jes{other}")
    put(whole, "rare", [0.0, left, 0.0], f"jes{direction}")
    workspace = written(tmp_path, whole)
    hold_together(tmp_path, workspace)
    (rare,) = (column for column in card_of(tmp_path).columns if column.process == "rare")
    found = dict(zip(("Down", "Up"), rare.moved["jes"], strict=True))
    np.testing.assert_allclose(found[direction], [0.002, 0, 0.001])
    np.testing.assert_allclose(found[other], [3, 1, 1])
    assert f"channel 3l: jes{direction} leaves nothing of rare: a thousandth is kept" in (
        capsys.readouterr().err
    )


def test_a_process_of_variations_alone_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = filled()
    put(whole, "rare", [0.5, 0, 0], channel="3l")
    put(whole, "rare", [2.0, 0, 1.0], "jesUp")
    workspace = written(tmp_path, whole)
    hold_together(tmp_path, workspace)
    assert "rare" not in {column.process for column in card_of(tmp_path).columns}
    says = capsys.readouterr().err
    assert "channel 2lss_4j: rare has events only in jesUp and is left out" in says
    assert "3l: rare has" not in says


def test_a_card_says_which_option_combine_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = empty()
    put(whole, "ttH", TERMS, channel="2lss_4j")
    put(whole, "tt", TT, channel="3l")
    workspace = written(tmp_path, whole)
    for channel, rule, option in (("2lss_4j", 8, NO_BACKGROUND), ("3l", 8, NO_SIGNAL)):
        with pytest.raises(RuleBroken) as broken:
            card_of(tmp_path, channel)
        assert broken.value.rule == rule
        card_of(tmp_path, channel, option)
        lines = (tmp_path / f"{channel}.txt").read_text().splitlines()
        assert [line for line in lines if option in line and line.startswith("# has no")]
        assert f"run Combine with {option}" in capsys.readouterr().err or channel == "3l"
    hold_together(tmp_path, workspace)


@pytest.mark.parametrize("unblind", [False, True])
def test_a_channel_that_nothing_is_expected_in_has_no_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unblind: bool
) -> None:
    whole = empty()
    put(whole, "ttH", TERMS, channel="2lss_4j")
    put(whole, "tt", TT, channel="2lss_4j")
    put(whole, "data", [1, 2, 0])
    workspace = written(tmp_path, whole, unblind=unblind)
    assert [channel["name"] for channel in workspace["channels"]] == ["ch_2lss_4j"]
    hold_together(tmp_path, workspace)
    text = (tmp_path / "3l.txt").read_text()
    number = 3 if unblind else 0
    note = f"nothing is expected, and {number} events are observed: the channel has no card, "
    assert note in text
    assert f"channel 3l: {note}" in capsys.readouterr().err
    assert all(line.startswith("# ") for line in text.splitlines())
    assert "combineCards.py ch_2lss_4j=2lss_4j.txt\n" in text
    with uproot.open(tmp_path / "3l.root") as root:
        assert root["data_obs"].values().sum() == number


def test_nothing_in_any_channel_is_refused(tmp_path: Path) -> None:
    whole = empty()
    put(whole, "data", [1, 2, 0])
    with pytest.raises(DataFileError, match="analysis small: no channel has expected events"):
        written(tmp_path, whole, unblind=True)
    assert not (tmp_path / "workspace.json").exists()


def test_data_where_nothing_is_expected_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = empty()
    put(whole, "ttH", [[0] * 6, *TERMS[1:]])
    put(whole, "tt", [0, 0, 3.0])
    put(whole, "data", [4, 3, 1], channel="3l")
    put(whole, "data", [0, 3, 1], channel="2lss_4j")
    workspace = written(tmp_path, whole, unblind=True)
    assert card_of(tmp_path, "2lss_4j", NO_BACKGROUND).unexpected == {}
    unexpected = card_of(tmp_path, "3l", NO_BACKGROUND).unexpected
    assert {name: bins.tolist() for name, bins in unexpected.items()} == {"ch_3l": [0]}
    note = "4 events of data are in ht from 0 to 100, where the Standard Model expects none"
    says = capsys.readouterr().err
    assert f"channel 3l: {note}" in says
    assert says.count("events of data") == 1
    assert f"# {note}" in (tmp_path / "3l.txt").read_text()
    with pytest.raises(FitFailed, match="ch_3l: 4 events of data are in bin 1, where no process"):
        EFTModel(workspace, ["a", "b"]).fit()
    # no blinded card says what data has
    written(tmp_path, whole)
    assert "events of data" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_filled_combine_takes_the_cards(tmp_path: Path, seed: int) -> None:
    """Bins with nothing or less, parts and variations of none, data anywhere."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(1.0, 2.0, shape).round(2) * rng.integers(0, 2, shape)

    whole = empty()
    for channel in CHANNELS:
        put(whole, "data", rng.integers(0, 3, 3), channel=channel)
        for process in ("ttH", "tt", "rare", "odd"):
            shape = (3, 6) if process == "ttH" else (3,)
            for label in ("nominal", "jesUp", "jesDown"):
                put(whole, process, some(*shape) * (rng.random() < 0.8), label, channel=channel)
    put(whole, "ttH", TERMS, channel=CHANNELS[seed % 2])
    for unblind in (False, True):
        hold_together(tmp_path, written(tmp_path, whole, unblind=unblind))


def test_two_templates_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("ttH_sm", "tt_jesUp"):
        whole = filled()
        put(whole, name, TT)
        with pytest.raises(DataFileError, match=f"two templates would be called '{name}'"):
            written(tmp_path, whole)


def test_the_log_says_which_coefficients_and_cards_are_not_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # cards of a channel that was renamed since, and one that somebody else has combined
    written(tmp_path, filled(), datacards={"coefficients": ["a"]})
    for ending in ("txt", "root"):
        content = (tmp_path / f"{CHANNELS[0]}.{ending}").read_bytes()
        (tmp_path / f"old.{ending}").write_bytes(content.replace(CHANNELS[0].encode(), b"old"))
    combined = (tmp_path / f"{CHANNELS[0]}.txt").read_text()
    (tmp_path / "combined.txt").write_text(combined)
    written(tmp_path, filled(), datacards={"coefficients": ["a"]})
    says = capsys.readouterr().err
    assert "small: removed cards of channels that the analysis no longer has: old\n" in says
    assert not list(tmp_path.glob("old.*"))
    assert (tmp_path / "combined.txt").read_text() == combined
    assert "coefficients" not in says
    assert {c.process for c in card_of(tmp_path).columns} == {
        "ttH_sm", "ttH_lin_a", "ttH_quad_a", "tt",
    }  # fmt: skip
    whole = empty()
    put(whole, "ttH", TERMS * [1, 1, 1, 1e-6, 0, 1e-6])
    put(whole, "tt", TT)
    written(tmp_path, whole)
    says = capsys.readouterr().err
    assert "small: the coefficients b change no signal by more than 0.0001 of the Standard" in says


Edit = Callable[[str], str]


def line(old: str, new: str) -> Edit:
    """Another line for the one that begins so, which is there once."""

    def edit(text: str) -> str:
        changed, number = re.subn(rf"^{old}.*$", new, text, flags=re.MULTILINE)
        assert number == 1, old
        return changed

    return edit


def every(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


RATE = r"rate(?= )"
TEXTS: list[tuple[int, Edit]] = [
    (1, every("ch_2lss_4j", "2lss_4j")),
    (1, every("ch_2lss_4j", "ch[2lss]")),
    (2, every(" tt", " data_obs")),
    (2, every(" tt", " a/tt")),
    (2, line("process +ttH_sm", "process ttH_sm ttH_sm ttH_quad_a ttH_lin_b ttH_quad_b x tt")),
    (3, every("lumi ", "2lumi ")),
    (3, every("lumi ", "r ")),
    (3, every("lumi ", "MH ")),
    (3, every("lumi ", "a ")),
    (3, every("lumi ", "lumi(13) ")),
    (4, every("lumi ", "jes ")),
    (4, every("xsec_tt ", "lumi ")),
    (5, every("lumi ", "prop_binch_2lss_4j_bin0 ")),
    (6, every("jmax *", "jmax 3")),
    (6, every("imax 1", "imax 2")),
    (6, every("kmax *\n", "")),
    (6, line(RATE, "")),
    (6, line("observation", "")),
    (6, line("lumi", "lumi lnN 1.1 1.1")),
    (6, line("lumi", "lumi lnN 1.1 1.1 1.1 1.1 1.1 1.1 1.1 1.1")),
    (6, line("lumi", "lumi gmN 1.1 1.1 1.1 1.1 1.1 1.1 1.1")),
    (7, line("process +-5", "process -5 -4 -3 -2 -1 0 0")),
    (7, line("process +-5", "process -5 -4 -3 -2 -1 0 x")),
    (8, line("process +-5", "process -5 -4 -3 -2 -1 0 -6")),
    (8, line("process +-5", "process 5 4 3 2 7 6 1")),
    (10, line(RATE, "rate 7.5 9.2 1.8 8.3 1.1 10.8 20")),
    (10, line(RATE, "rate 7.5 9.2 1.8 8.3 1.1 10.8 0")),
    (10, line(RATE, "rate 7.5 9.2 1.8 8.3 1.1 10.8 nan")),
    (10, line("observation", "observation 27")),
    (10, line("shapes", "shapes * ch_2lss_4j 2lss_4j.root $PROCESS nothing/$PROCESS")),
    (14, line("jes", "jes shape 1 1 1 1 1 1 0.5/1")),
    (14, line("jes", "jes shape 1 1 1 1 1 1 0.5")),
    (15, line("lumi", "lumi lnN 1.1 1.1 1.1 1.1 1.1 1.1 -1.1")),
    (15, line("lumi", "lumi lnN 1.1 1.1 1.1 1.1 1.1 1.1 0/1.1")),
    (15, line("lumi", "lumi lnN 1.1 1.1 1.1 1.1 1.1 1.1 inf")),
    (16, line("ch_2lss_4j auto", "")),
    (16, line("ch_2lss_4j auto", "ch_2lss_4j autoMCStats 10")),
    (16, line("ch_2lss_4j auto", "ch_2lss_4j autoMCStats 10 1 1 1")),
    (16, line("ch_2lss_4j auto", "ch_3l autoMCStats 10 1")),
]


@pytest.mark.parametrize(("rule", "edit"), TEXTS)
def test_the_reader_refuses_what_combine_does(tmp_path: Path, rule: int, edit: Edit) -> None:
    written(tmp_path, filled())
    path = tmp_path / "2lss_4j.txt"
    path.write_text(edit(path.read_text()))
    with pytest.raises(RuleBroken) as broken:
        card_of(tmp_path)
    assert broken.value.rule == rule, broken.value


def template(values: Any, edges: Any = EDGES) -> hist.Hist:
    out = hist.Hist(hist.axis.Variable(edges), storage=hist.storage.Weight())
    out.view().value = out.view().variance = values
    return out


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (10, "tt", None),
        (10, "tt_jesUp", None),
        (10, "data_obs", None),
        (10, "tt", template([0.0, 0, 0])),
        (10, "tt", template([np.nan, 16, 3])),
        (10, "tt", template([10.0, 6, 4])),
        (10, "data_obs", template([10.0, 6, 4])),
        (11, "tt_jesUp", template([0.0, 0, 0])),
        (11, "tt_jesDown", template([-1.0, 0, 0])),
        (12, "tt", template([20.0, -1, 0])),
        (12, "tt_jesDown", template([20.0, -1, 0])),
        (13, "tt_jesUp", template([10.0, 6, 3], [0, 100, 250, 499])),
        (13, "tt_jesUp", template([10.0, 6], [0, 100, 250])),
        (13, "tt", template([10.0, 6, 3], [0, 110, 250, 500])),
    ],
)
def test_the_reader_refuses_templates_that_combine_does(
    tmp_path: Path, rule: int, name: str, value: hist.Hist | None
) -> None:
    written(tmp_path, filled())
    with uproot.open(tmp_path / "2lss_4j.root") as root:
        there = {key.partition(";")[0]: root[key].to_hist() for key in root}
    there[name] = value
    with uproot.recreate(tmp_path / "2lss_4j.root") as root:
        for key, histogram in there.items():
            if histogram is not None:
                root[key] = histogram
    with pytest.raises(RuleBroken) as broken:
        card_of(tmp_path)
    assert broken.value.rule == rule, broken.value
