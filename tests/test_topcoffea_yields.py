"""Normalisation and sums of processes, of histograms that are a few events each: all by hand."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from analyses import analysis_of
from ledgers import write_ledger

from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.files import read_json
from looseleaf.histograms.coverage import coverage
from looseleaf.objects.names import COVERAGE
from looseleaf.topcoffea.normalisation import check_coefficients, factors_of
from looseleaf.topcoffea.store import read_histograms, write_histograms
from looseleaf.topcoffea.yields import sum_datasets, up_and_down

# of an event: channel, region, systematic, x, weight
Event = tuple[str, str, str, float, float]
ANALYSIS: dict[str, Any] = {
    "name": "small",
    "lumi_ifb": {"2017": 2.0, "2018": 3.0},
    "unblind": True,
    "nonprompt": {"cap": 0.8},
    "flips": {},
    "points": {"SM": {}, "c = 2": {"c": 2.0}},
}


def filled(events: list[Event], terms: list[float] | None = None) -> EFTHist:
    """A histogram of a processor's; an event's weight times `terms`, if there are any."""
    out = EFTHist(
        hist.axis.StrCategory(["one", "two"], name="channel", overflow=False),
        hist.axis.StrCategory(["signal", "nonprompt", "flips"], name="region", overflow=False),
        hist.axis.StrCategory(["nominal"], name="systematic", growth=True),
        hist.axis.Variable([0, 1, 2], name="x"),
        coefficients=["c"],
    )
    for *where, x, weight in events:
        eft = None if terms is None else np.array([terms])
        out.fill(*where, np.array([x]), weight=np.array([weight]), eft=eft)
    return out


def failing(capped: int, unmeasured: int) -> hist.Hist:
    kinds = hist.axis.StrCategory(["all", "capped", "unmeasured"], name="kind", overflow=False)
    out = hist.Hist(kinds, storage=hist.storage.Int64())
    out[...] = [50, capped, unmeasured]
    return out


def dataset(process: str, year: str, xsec: float = 0.5, **more: Any) -> dict[str, Any]:
    return {
        "process": process, "year": year, "xsec_pb": xsec, "data": process == "data",
        "declared_in": "sets.yaml", **more,
    }  # fmt: skip


def of(weights: float, **more: Any) -> dict[str, Any]:
    """What a ledger says of the original events."""
    return {
        "events": 1000, "sum_of_weights": weights, "eft_sums": None, "theory_sums": {}, **more,
    }  # fmt: skip


class Combined:
    """Datasets by name, with their histograms and ledgers, added up in a folder."""

    def __init__(
        self,
        folder: Path,
        analysis: Mapping[str, Any],
        parts: Mapping[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]],
    ) -> None:
        for name, (_, original, found) in parts.items():
            write_histograms(folder / f"{name}.h5", {COVERAGE: coverage(["x"]), **found}, {})
            write_ledger(folder / f"{name}.json", original)
        sum_datasets(
            analysis_of(analysis),
            {name: declared for name, (declared, _, _) in parts.items()},
            {name: str(folder / f"{name}.h5") for name in parts},
            {name: str(folder / f"{name}.json") for name in parts},
            folder / "h.h5", folder / "y.json", folder / "y.txt",
        )  # fmt: skip
        self.yields = read_json(folder / "y.json")
        self.table = (folder / "y.txt").read_text()
        self.x = read_histograms(folder / "h.h5")[0]["x"]

    def at(self, channel: str, process: str, point: str = "SM") -> tuple[float, float]:
        found = self.yields["channels"][channel][process][point]
        return found["value"], found["error"]

    def varied(self, process: str, channel: str = "one") -> dict[str, float]:
        one = self.x.select(process=process, channel=channel).project("systematic")
        return dict(zip(one.categories("systematic"), one.values()[0].tolist(), strict=True))


def about(value: float, *errors: float) -> Any:
    return pytest.approx((value, math.hypot(*errors)), rel=1e-9)


def test_yields_are_those_of_a_few_events(tmp_path: Path) -> None:
    """A signal that moves, two years of a background, two datasets of data."""
    signal = filled(
        [
            ("one", "signal", "nominal", 0.5, 3.0),
            # beyond the axis, which counts in the yields
            ("one", "signal", "nominal", 7.0, -1.0),
            ("one", "nonprompt", "nominal", 0.5, 0.5),
            ("one", "flips", "nominal", 0.5, 100.0),
        ],
        [2.0, 1.0, 0.25],
    )
    first = filled([
        ("one", "signal", "nominal", 0.5, 4.0), ("two", "signal", "nominal", 1.5, 1.0),
        ("one", "nonprompt", "nominal", 1.5, -0.25),
    ])  # fmt: skip
    second = filled([("one", "signal", "nominal", 1.5, 5.0)])
    seen = filled([
        *[("one", "signal", "nominal", 0.5, 1.0)] * 7, ("one", "nonprompt", "nominal", 0.5, 0.75),
        ("one", "nonprompt", "nominal", 0.5, -0.5), ("two", "flips", "nominal", 0.5, 0.125),
    ])  # fmt: skip
    more = filled([("two", "signal", "nominal", 9.0, 1.0), ("two", "flips", "nominal", 1.5, 0.5)])
    made = Combined(tmp_path, ANALYSIS, {
        "s": (dataset("ttH", "2017", wc_names=["c"]), of(70.0, eft_sums=[500.0, 9.0, 8.0]),
              {"x": signal, "failing": failing(90, 80)}),
        "b": (dataset("tt", "2017", 0.3), of(600.0), {"x": first}),
        "u": (dataset("tt", "2018", 0.3), of(300.0), {"x": second}),
        "d": (dataset("data", "2017"), of(0.0), {"x": seen, "failing": failing(3, 5)}),
        "e": (dataset("data", "2018"), of(0.0), {"x": more, "failing": failing(1, 0)}),
    })  # fmt: skip
    # cross section x 1000 x luminosity over the sum of weights, of the EFT sample the SM's
    s, b, u = 0.5 * 1000 * 2 / 500, 0.3 * 1000 * 2 / 600, 0.3 * 1000 * 3 / 300
    assert (s, b, u) == (2, 1, 3)
    assert made.at("one", "ttH") == about(s * 2 * (3 - 1), s * 2 * 3, s * 2 * 1)
    moved = 2 + 1 * 2 + 0.25 * 4
    assert made.at("one", "ttH", "c = 2") == about(s * moved * 2, s * moved * 3, s * moved)
    assert made.at("one", "tt") == about(b * 4 + u * 5, b * 4, u * 5)
    assert made.at("two", "tt", "c = 2") == about(b, b)
    # prompt simulation is taken out as the Standard Model has it, at every point
    nonprompt = about(0.25 - s * 2 * 0.5 + b * 0.25, 0.75, 0.5, s * 2 * 0.5, b * 0.25)
    assert made.at("one", "nonprompt") == made.at("one", "nonprompt", "c = 2") == nonprompt
    assert made.at("two", "flips") == about(0.625, 0.125, 0.5)
    assert made.at("one", "flips") == (0, 0)
    assert (made.at("one", "data"), made.at("two", "data")) == (about(7, math.sqrt(7)), about(1, 1))
    assert (made.yields["capped_leptons"], made.yields["leptons_in_empty_bins"]) == (4, 5)
    rows = {row.split("  ")[0]: row for row in made.table.split("\n\n")[0].split("\n")}
    total = 8 + 19 + (0.25 - 2 + 0.25)
    error = math.hypot(12, 4, 4, 15, 0.75, 0.5, 2, 0.25)
    assert f"{total:.2f} +- {error:.2f}" in rows["all expected"]


def test_data_is_shown_to_nobody_who_does_not_ask(tmp_path: Path) -> None:
    blind = {key: value for key, value in ANALYSIS.items() if key != "unblind"}
    parts = {
        "b": (dataset("tt", "2017"), of(9.0),
              {"x": filled([("one", "signal", "nominal", 0.5, 1)])}),
        "d": (dataset("data", "2017"), of(0.0),
              {"x": filled([("one", "signal", "nominal", 0.5, 1)])}),
    }  # fmt: skip
    made = Combined(tmp_path, blind, parts)
    assert list(made.yields["channels"]["one"]) == ["tt", "nonprompt", "flips"]
    assert "data" not in made.table


def test_variations_of_processes_and_years(tmp_path: Path) -> None:
    """Each year lacks a variation that the other has; rates go up by another factor than down."""
    analysis = {
        **ANALYSIS,
        "systematics": {
            "shape": {"sf": {}, "jes": {"correlated": False}},
            "theory": {
                "isr": {"branch": "PSWeight", "up": 0, "down": 2, "processes": ["tt"]},
                "fsr": {"branch": "PSWeight", "up": 1, "down": 3, "correlated": False},
            },
            "rate": {
                "lumi": {"value": 1.25, "correlated": False},
                "norm": {"value": [0.9, 1.2], "correlated": False, "processes": ["tt"]},
                "others": {"value": 3.0, "correlated": False, "processes": ["dy"]},
                "all": {"value": 1.5},
            },
        },
    }

    def signal(**weights: float) -> list[Event]:
        return [("one", "signal", label, 0.5, weight) for label, weight in weights.items()]

    sums = {"PSWeight": [400.0, 500.0, 800.0, 1000.0]}
    seen = [
        ("one", "signal", "nominal", 0.5, 1.0),
        *[("one", "nonprompt", label, 0.5, weight) for label, weight in
          (("nominal", 10.0), ("nonprompt_rate_muonUp", 12.0))],
        *[("one", "flips", label, 0.5, weight) for label, weight in
          (("nominal", 20.0), ("flips_rateUp", 23.0))],
    ]  # fmt: skip
    prompt = [("one", "nonprompt", "nominal", 0.5, 2.0),
              ("one", "nonprompt", "nonprompt_rate_muonUp", 0.5, 3.0)]  # fmt: skip
    first = signal(nominal=4.0, sfUp=4.5, jesUp=5.0, isrUp=3.0, isrDown=6.0, fsrUp=2.0, fsrDown=1.0)
    made = Combined(tmp_path, analysis, {
        "b": (dataset("tt", "2017", 0.3), of(600.0, theory_sums=sums),
              {"x": filled([*first, *prompt])}),
        "u": (dataset("tt", "2018", 0.3), of(300.0, theory_sums=sums),
              {"x": filled(signal(nominal=1.0, jesUp=1.5, latercomerUp=7.0))}),
        "d": (dataset("data", "2017"), of(0.0), {"x": filled(seen)}),
    })  # fmt: skip
    tt = made.varied("tt")
    b, u = 4.0, 3.0
    assert tt["nominal"] == pytest.approx(b + u)
    assert tt["sfUp"] == pytest.approx(4.5 + u)
    # one that only a later dataset has
    assert tt["latercomerUp"] == pytest.approx(b + 3 * 7)
    assert tt["jes_2017Up"] == pytest.approx(5.0 + u)
    assert tt["jes_2018Up"] == pytest.approx(b + 3 * 1.5)
    # theory weights are normalised to sums of their own
    assert tt["isrUp"] == pytest.approx(3.0 * 600 / 400 + u)
    assert tt["isrDown"] == pytest.approx(6.0 * 600 / 800 + u)
    assert tt["fsr_2017Up"] == pytest.approx(2.0 * 600 / 500 + u)
    assert tt["fsr_2017Down"] == pytest.approx(1.0 * 600 / 1000 + u)
    assert tt["lumi_2017Up"] == pytest.approx(1.25 * b + u)
    assert tt["lumi_2018Down"] == pytest.approx(b + u / 1.25)
    assert tt["norm_2017Down"] == pytest.approx(0.9 * b + u)
    assert tt["norm_2018Up"] == pytest.approx(b + 1.2 * u)
    names = {name for name, value in tt.items() if value}
    assert not {name for name in names if name.startswith(("others", "all", "nonprompt", "flips"))}
    assert not names & {"jesUp", "fsrUp"}
    # data is as it was counted
    counted = {name: value for name, value in made.varied("data").items() if value}
    assert counted == {"nominal": 1.0}
    nonprompt = {name: value for name, value in made.varied("nonprompt").items() if value}
    assert nonprompt["nominal"] == pytest.approx(10 - 2)
    assert nonprompt["nonprompt_rate_muonUp"] == pytest.approx(12 - 3)
    assert "flips_rateUp" not in nonprompt
    flips = {name: value for name, value in made.varied("flips").items() if value}
    assert flips == {"nominal": 20.0, "flips_rateUp": 23.0}


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("x", [0.5, 7.0])
def test_weights_that_are_no_number_are_told_wherever_they_lie(
    tmp_path: Path, weight: float, x: float
) -> None:
    found = {"x": filled([("one", "signal", "nominal", x, weight)])}
    with pytest.raises(
        DataFileError, match="dataset b: the weights in x don't add up to a finite number"
    ):
        Combined(tmp_path, ANALYSIS, {"b": (dataset("tt", "2017"), of(9.0), found)})


def test_factors_of_rates() -> None:
    assert up_and_down([0.9, 1.2]) == (1.2, 0.9)
    assert up_and_down(1.25) == (1.25, 0.8)


# --- what a dataset is normalised with

THEORY = {"isr": {"branch": "PSWeight", "up": 0, "down": 2, "sums": "ISR"}}


def refusal(declared: dict[str, Any], original: dict[str, Any], **analysis: Any) -> str:
    with pytest.raises(DataFileError) as problem:
        factors_of("b", declared, analysis_of({**ANALYSIS, **analysis}), original)
    return str(problem.value)


def test_factors_of_a_dataset() -> None:
    declared, original = dataset("tt", "2018", 0.2), of(400.0)
    assert factors_of("b", declared, analysis_of(ANALYSIS), original) == {
        "nominal": pytest.approx(1.5)
    }
    one = {**ANALYSIS, "lumi_ifb": 10.0}
    assert factors_of("b", declared, analysis_of(one), original) == {"nominal": pytest.approx(5.0)}
    theory = {**ANALYSIS, "systematics": {"theory": THEORY}}
    original["theory_sums"] = {"PSWeight": [500.0, 1.0, 300.0]}
    expected = {"nominal": 1.5, "isrUp": 1.2, "isrDown": 2.0}
    assert factors_of("b", declared, analysis_of(theory), original) == pytest.approx(expected)
    assert factors_of("d", dataset("data", "2018"), analysis_of(theory), original) == {
        "nominal": 1.0
    }
    other = {**ANALYSIS, "systematics": {"theory": {"isr": {**THEORY["isr"], "processes": ["x"]}}}}
    assert list(factors_of("b", declared, analysis_of(other), original)) == ["nominal"]
    # places are counted from 0: there is no third of two
    original["theory_sums"] = {"PSWeight": [500.0, 1.0]}
    assert "have sums of 2 weights of PSWeight, but number 2" in refusal(
        declared, original, systematics={"theory": THEORY}
    )
    original["theory_sums"] = {"PSWeight": [500.0, 1.0, None]}
    assert "PSWeight[2] is NaN or infinite in some events" in refusal(
        declared, original, systematics={"theory": THEORY}
    )


@pytest.mark.parametrize("stated", [400.0 * 1.0002, 400.0 * 0.9998])
def test_a_sum_that_is_off_either_way_is_refused(stated: float) -> None:
    original = of(400.0, theory_sums={"PSWeight": [400.0, 0.0, 400.0]})
    listed = dataset("tt", "2017", listed={"events": 1000, "sum_of_weights": stated})
    assert f"sets.yaml: nSumOfWeights: states {stated:g} for 1000" in refusal(listed, original)
    summed = dataset("tt", "2017", sums_of_weights={"ISRUp": stated, "ISRDown": 400.0})
    message = refusal(summed, original, systematics={"theory": THEORY})
    assert f"sets.yaml: b.sums_of_weights.ISRUp: states {stated:g}, but" in message
    summed["sums_of_weights"] = {"ISRUp": 400.0, "ISRDown": stated}
    message = refusal(summed, original, systematics={"theory": THEORY})
    assert "b.sums_of_weights.ISRDown" in message
    # files state sums in single precision
    near = 400.0 + (stated - 400.0) / 4
    listed["listed"]["sum_of_weights"] = near
    found = factors_of("b", listed, analysis_of(ANALYSIS), original)
    # what was summed up counts, not what was stated
    assert found == {"nominal": pytest.approx(0.5 * 2000 / 400, rel=1e-12)}


@pytest.mark.parametrize("events", [999, 1001])
def test_events_that_are_missing_or_too_many_are_refused(events: int) -> None:
    for process in ("tt", "data"):
        about = {"events": events, "sum_of_weights": 400.0}
        message = refusal(dataset(process, "2017", listed=about), of(400.0))
        assert f"sets.yaml: nEvents: states {events}, but the files of b have 1000" in message


def test_a_skim_is_normalised_to_what_is_declared() -> None:
    """Of simulation the stated sums, whatever the skim adds up to; data counts as it is."""
    about = {"events": 5000, "sum_of_weights": 800.0}
    more = {"listed": about, "sums_of_weights": {"ISRUp": 1000.0, "ISRDown": 500.0}}
    skim = {**ANALYSIS, "normalise": "declared", "systematics": {"theory": THEORY}}
    found = factors_of("b", dataset("tt", "2017", **more), analysis_of(skim), of(1.0))
    assert found == pytest.approx({"nominal": 1.25, "isrUp": 1.0, "isrDown": 2.0})
    # a file of data states no sum
    data = dataset("data", "2017", listed={"events": 5000})
    assert factors_of("d", data, analysis_of(skim), of(0.0)) == {"nominal": 1.0}


def test_an_eft_sample_is_normalised_to_its_standard_model() -> None:
    declared = dataset("ttH", "2017", wc_names=["c"])
    original = of(77.0, eft_sums=[500.0, 30.0, 20.0])
    assert factors_of("s", declared, analysis_of(ANALYSIS), original) == {
        "nominal": pytest.approx(2.0)
    }
    listed = dataset("ttH", "2017", wc_names=["c"], listed={"events": 1000, "sum_of_weights": 500})
    assert factors_of("s", listed, analysis_of(ANALYSIS), original) == {
        "nominal": pytest.approx(2.0)
    }


def test_coefficients_are_as_many_as_their_terms() -> None:
    """A skim may have left the terms out, which says nothing of how many there were."""
    declared = dataset("ttH", "2017", wc_names=["a", "b"])
    for left_out in (None, [], [1.0] * 6):
        check_coefficients("s", declared, of(1.0, eft_sums=left_out))
    for terms in (3, 5, 7, 10):
        with pytest.raises(
            DataFileError, match=rf"make 6 terms, but an event of the files has {terms}"
        ):
            check_coefficients("s", declared, of(1.0, eft_sums=[1.0] * terms))
    # that there are some is known even of a skim that left them out
    for there in ([], [1.0]):
        with pytest.raises(DataFileError, match=r"sets\.yaml: s\.wc_names: is missing, but"):
            check_coefficients("s", dataset("tt", "2017"), of(1.0, eft_sums=there))
    check_coefficients("s", dataset("tt", "2017"), of(1.0))


def test_variations_are_not_in_the_yields(tmp_path: Path) -> None:
    events: list[Event] = [
        ("one", "signal", label, 0.5, weight) for label, weight in (("nominal", 2), ("sfUp", 3))
    ]
    events += [("one", "nonprompt", "flips_rateUp", 0.5, 4.0)]
    made = Combined(tmp_path, ANALYSIS, {
        "b": (dataset("tt", "2017"), of(1000.0), {"x": filled(events)}),
        "d": (dataset("data", "2017"), of(0.0), {"x": filled([
            ("one", "flips", "nominal", 0.5, 1.0),
            ("one", "flips", "nonprompt_rate_muonUp", 0.5, 9.0),
        ])}),
    })  # fmt: skip
    assert made.at("one", "tt") == about(2.0, 2.0)
    # a rate of leptons that fail is none of flips
    assert {name: value for name, value in made.varied("flips").items() if value} == {"nominal": 1}


def test_events_of_files_that_are_left_out_are_not_missing() -> None:
    """Whole files can be counted; one that can't be opened may have had any number."""
    about = dataset("tt", "2017", listed={"events": 1200, "sum_of_weights": 480.0})

    def left_out(*events: int | None) -> dict[str, Any]:
        files = [{"name": f"{n}.root", "events": number} for n, number in enumerate(events)]
        return of(400.0, left_out=files)

    for events in ((150, 50), (200,), (100, None)):
        found = factors_of("b", about, analysis_of(ANALYSIS), left_out(*events))
        # the sum of what is read
        assert found == {"nominal": pytest.approx(2.5)}
    for events, there in (((150,), 1150), ((150, 51), 1201), ((201, None), 1201)):
        message = refusal(about, left_out(*events))
        assert f"nEvents: states 1200, but the files of b have {there}" in message
