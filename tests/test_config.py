"""Configuration: what is right loads, what is wrong is refused with file, key and remedy."""

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from looseleaf.config.checks import check_primaries
from looseleaf.config.settings import Settings, load
from looseleaf.errors import ConfigError
from looseleaf.objects.years import YEARS
from looseleaf.stage_files import primaries_of

Refusal = Callable[..., str]


def test_default_configuration_is_complete(main_config: dict[str, Any], repo: Path) -> None:
    settings = load(main_config, repo)
    assert {name: analysis.kind for name, analysis in settings.analyses.items()} == {
        **dict.fromkeys(["muon", "muon_data", "electron", "seed2021"], "fakerate"),
        **dict.fromkeys(["closure", "validation"], "application"),
        "tth_eft": "topcoffea",
    }
    assert len(settings.datasets_in_use()) == 15
    # an application's leptons are those of the maps that it applies
    assert settings.analyses["closure"].working_points["Electron"] == {
        "loose": "loose",
        "tight": "tight_simple",
        "momentum": "raw",
    }
    columns = settings.columns_for("ttH_EFT")
    # the EFT sample carries its coefficients, and no fake-rate trigger is asked of it
    assert "EFTfitCoefficients" in columns
    assert "HLT_Mu8|HLT_Mu8_TrkIsoVVL" not in columns
    assert "genWeight" not in settings.columns_for("SingleMuon")
    assert "HLT_Mu8|HLT_Mu8_TrkIsoVVL" in settings.columns_for("SingleMuon")


def test_real_configuration_loads(main_config: dict[str, Any], repo: Path) -> None:
    override = yaml.safe_load((repo / "config/real.yaml").read_text())
    merged = {
        key: value | override.get(key, {}) if isinstance(value, dict) else override.get(key, value)
        for key, value in main_config.items()
    }
    settings = load(merged, repo)
    assert settings.datasets_in_use() == [
        "DYJets_2018",
        "TT_v12",
        "TT_2015_OpenData",
        "DYJets_empty",
    ]


def test_every_site_loads(main_config: dict[str, Any], repo: Path) -> None:
    kinds = {
        path.stem: load({**main_config, "site": path.stem}, repo).site["kind"]
        for path in (repo / "config/sites").iterdir()
    }
    assert kinds == {
        "local": "local",
        "htcondor": "htcondor",
        "slurm": "slurm",
        "lxplus": "htcondor",
        "coffea-casa": "coffea-casa",
        "scheduler": "scheduler",
    }


@pytest.fixture
def refused(main_config: dict[str, Any], repo: Path, tmp_path: Path) -> Refusal:
    """The message with which a changed configuration is refused.

    `change` works on the main configuration; `file` and `edit` on a copy of a file it names.
    """

    def message(
        change: Callable[[dict[str, Any]], Any] | None = None,
        file: str | None = None,
        edit: Callable[[dict[str, Any]], Any] | None = None,
    ) -> str:
        config = copy.deepcopy(main_config)
        if change is not None:
            change(config)
        if file is not None:
            value = yaml.safe_load((repo / file).read_text())
            assert edit is not None
            edit(value)
            changed = tmp_path / Path(file).name
            changed.write_text(yaml.safe_dump(value, sort_keys=False))
            for key in ("datasets", "analyses"):
                config[key] = [str(changed) if name == file else name for name in config[key]]
            if config["working_points"] == file:
                config["working_points"] = str(changed)
        with pytest.raises(ConfigError) as problem:
            load(config, repo)
        return str(problem.value)

    return message


DEMO = "config/datasets/demo.yaml"
MUON = "config/analyses/muon.yaml"
CLOSURE = "config/analyses/closure.yaml"
EFT = "config/analyses/tth_eft.yaml"
POINTS = "config/working_points.yaml"


def test_typo_in_a_key_names_the_nearest(refused: Refusal) -> None:
    message = refused(lambda c: c["processing"].update(chunksise=1))
    assert message == (
        "configuration: processing: unknown key 'chunksise'; did you mean 'chunksize'?"
    )


def test_unknown_top_level_key(refused: Refusal) -> None:
    assert "unknown key 'resluts'; did you mean 'results'?" in refused(
        lambda c: c.update(resluts="x")
    )


def test_missing_key(refused: Refusal) -> None:
    assert refused(lambda c: c["samples"].pop("seed")) == (
        "configuration: samples: the key 'seed' is missing"
    )


def test_wrong_type(refused: Refusal) -> None:
    assert refused(lambda c: c["processing"].update(chunksize="many")) == (
        "configuration: processing.chunksize: 'many' should be of type integer"
    )


def test_negative_number_of_events(refused: Refusal) -> None:
    message = refused(file=DEMO, edit=lambda d: d["TTTo2L2Nu"]["sample"].update(events=-5))
    assert message.endswith("demo.yaml: TTTo2L2Nu.sample.events: -5 should be at least 0")


def test_negative_scale(refused: Refusal) -> None:
    assert "samples.scale: -1 should be more than 0" in refused(
        lambda c: c["samples"].update(scale=-1)
    )


def test_choice_lists_what_is_allowed(refused: Refusal) -> None:
    assert "samples.compression: 'lzma' is not one of lz4, zstd, zlib" in refused(
        lambda c: c["samples"].update(compression="lzma")
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backend", "dass", "'dass' is not one of auto, dasgoclient, dbs, rucio, catalogue"),
        ("host", "http://cmsweb.cern.ch", "should be an https:// address without a path"),
        ("host", "https://me:secret@cmsweb.cern.ch", "should be an https:// address without"),
        ("instance", "global", "'global' should be an instance of DBS such as prod/global"),
        ("instance", "prod/../x", "should be an instance of DBS such as prod/global"),
        ("timeout", 0, "0 should be more than 0"),
        ("parallel", 0, "0 should be at least 1"),
    ],
)
def test_how_das_is_asked(refused: Refusal, key: str, value: object, message: str) -> None:
    told = refused(lambda c: c["das"].update({key: value}))
    assert told.startswith(f"configuration: das.{key}: ")
    assert message in told


@pytest.mark.parametrize("place", ["xcache", "root://", "mirror/", "/with space"])
def test_a_place_that_files_cannot_be_read_from(
    main_config: dict[str, Any], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:  # fmt: skip
    site = tmp_path / "config/sites/mine.yaml"
    site.parent.mkdir(parents=True)
    site.write_text(yaml.safe_dump({"kind": "local", "redirectors": [place]}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"mine\.yaml: redirectors\.0: .* should be an address"):
        load({**main_config, "site": "mine"}, repo)


def test_malformed_das_name(refused: Refusal) -> None:
    message = refused(file=DEMO, edit=lambda d: d["TTTo2L2Nu"].update(das="TTTo2L2Nu"))
    assert "TTTo2L2Nu.das: 'TTTo2L2Nu' should be a dataset name as DAS knows it" in message


@pytest.mark.parametrize("subdir", ["../elsewhere", "/absolute", "a/../../b"])
def test_subdir_that_leaves_the_volume(refused: Refusal, subdir: str) -> None:
    message = refused(lambda c: c["servicex"].update(subdir=subdir))
    assert "servicex.subdir" in message
    assert "should be a relative path without '..'" in message


def test_analysis_of_an_undeclared_dataset(refused: Refusal) -> None:
    message = refused(file=MUON, edit=lambda a: a["datasets"].update(measure=["QCD_Pt-15to2O"]))
    assert message.endswith(
        "muon.yaml: datasets: 'QCD_Pt-15to2O' is not declared; did you mean 'QCD_Pt-15to20'?"
    )


def test_normalisation_needs_a_cross_section(refused: Refusal) -> None:
    message = refused(file=DEMO, edit=lambda d: d["QCD_Pt-15to20"].pop("xsec_pb"))
    assert "'QCD_Pt-15to20' needs xsec_pb, since this analysis normalises simulation" in message


def test_data_among_simulation(refused: Refusal) -> None:
    message = refused(file=EFT, edit=lambda a: a["datasets"]["simulation"].append("SingleMuon"))
    assert message.endswith("datasets: 'SingleMuon' is data, but this group takes simulation")


def test_binomial_interval_of_weighted_events(refused: Refusal) -> None:
    message = refused(file=MUON, edit=lambda a: a.update(interval="wilson"))
    assert "interval: 'wilson' is for unweighted counts" in message


def test_prescale_of_counts(refused: Refusal) -> None:
    message = refused(
        file="config/analyses/seed2021.yaml",
        edit=lambda a: a.update(triggers=[{"paths": ["HLT_Mu8"], "prescale": 10}]),
    )
    assert message.endswith("triggers: set weights: xsec to use a prescale")


def test_triggers_that_cover_a_lepton_twice(refused: Refusal) -> None:
    message = refused(file=MUON, edit=lambda a: a["triggers"][0].update(pt_max=30))
    assert message.endswith("triggers: the pt ranges overlap at 25 GeV")


def test_tight_that_is_not_loose(refused: Refusal) -> None:
    message = refused(file=MUON, edit=lambda a: a.update(tight="seed2021_tight"))
    assert "tight: 'seed2021_tight' lacks the cut" in message
    assert "tight leptons have to be loose too" in message


DATA = "config/analyses/muon_data.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: (
                (
                    (a["datasets"].pop("non_prompt"), a.pop("prompt_fit"))
                    and a["systematics"].update(prompt={"up": 1.1, "down": 0.9})
                )
                or a["datasets"]["measure"].append("QCD_Pt-15to20")
            ),
            "datasets.measure: has data and simulation; keep one kind",
        ),
        (
            lambda a: a["datasets"].update(measure=["QCD_Pt-15to20_x"]),
            "datasets: 'QCD_Pt-15to20_x' is not declared; did you mean 'QCD_Pt-15to20'?",
        ),
        (
            lambda a: a["datasets"].update(subtract=["SingleMuon"]),
            "datasets: 'SingleMuon' is in more than one group",
        ),
        (
            lambda a: a["datasets"].update(subtract=["SingleMuon"], measure=["WJetsToLNu"]),
            "datasets: 'SingleMuon' is data, but this group takes simulation",
        ),
        (
            lambda a: a["datasets"].pop("non_prompt"),
            "prompt_fit: needs datasets.non_prompt for its templates",
        ),
        (
            lambda a: a["prompt_fit"].update(edges=[0, 20, 10, 30]),
            "prompt_fit.edges: [0, 20, 10, 30] should increase strictly",
        ),
        (lambda a: a.pop("prompt_fit"), "systematics.prompt: 'fit' needs a prompt_fit"),
        (
            lambda a: (a.pop("prompt_fit"), a["datasets"].pop("subtract")),
            "systematics.prompt: needs a datasets.subtract to vary",
        ),
        (
            lambda a: a.update(momentum="cone"),
            "Muon.tight_simple needs a cone_pt, because an analysis says momentum: cone",
        ),
        (
            lambda a: a["observables"]["npvs"].update(edges=[3, 2]),
            "observables.npvs: [3, 2] should increase strictly",
        ),
        (
            lambda a: a.update(corrections={"pu": {"file": "x", "correction": "y", "inputs": {}}}),
            "corrections.pu.file: the file 'x' does not exist",
        ),
        (
            lambda a: a.update(cuts={"met": "MET_pt < 9"}),
            "cuts: 'met' is a reserved name",
        ),
        (
            lambda a: a["observables"].update(prompt_fit=a["observables"]["npvs"]),
            "observables: 'prompt_fit' is a reserved name",
        ),
        (
            lambda a: a["observables"].update(coverage=a["observables"]["npvs"]),
            "observables: 'coverage' is a reserved name",
        ),
        (
            lambda a: a.update(
                corrections={"stat": {"file": MUON, "correction": "y", "inputs": {}}}
            ),
            "corrections: 'stat' is a reserved name",
        ),
        (
            lambda a: a["triggers"][1].update(pt_min=30),
            "triggers: no trigger covers leptons from 25 to 30 GeV",
        ),
        (
            lambda a: a["triggers"][1].update(pt_max=20),
            "triggers: the range from 25 to 20 GeV is empty",
        ),
        (
            lambda a: a["systematics"].update(prompt={"up": 0.7, "down": 1.3}),
            "systematics.prompt: up should be more than down",
        ),
        (lambda a: a.update(eta="signed"), "tilt.abs_eta: needs eta: absolute"),
        (lambda a: a["systematics"].update(tilt={"pt": 2}), "tilt.pt: 2 should be less than 1"),
    ],
)
def test_a_fake_rate_analysis_that_does_not_fit_together(
    refused: Refusal, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    assert message in refused(file=DATA, edit=change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a["datasets"].update(prompt=["SingleMuon"], observe=["TTTo2L2Nu"]),
            "datasets: 'SingleMuon' is data, but this group takes simulation",
        ),
        (lambda a: a.pop("unblind"), "the key 'unblind' is missing"),
        (lambda a: a["channels"].update(e="n_ele == 1"), "channels.e: n_ele needs maps.Electron"),
        (lambda a: a["datasets"].pop("prompt"), "datasets: "),
    ],
)
def test_an_application_to_data_that_does_not_fit_together(
    refused: Refusal, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    assert message in refused(file="config/analyses/validation.yaml", edit=change)


# a weight of events by some file's correction
CORRECTION = {"file": "config/config.yaml", "correction": "sf", "inputs": {"x": "MET_pt"}}
UP_DOWN = {"up": 1.02, "down": 0.98}
MU, ELE = {"paths": ["HLT_IsoMu24"]}, {"paths": ["HLT_Ele32_WPTight_Gsf"]}


@pytest.mark.parametrize(
    ("triggers", "message"),
    [
        (
            [MU, ELE],
            "datasets: SingleMuon and MultiLepton may hold the same events; give each trigger "
            "its primary dataset, as primary: [SingleMuon], or declare their years",
        ),
        ([], "datasets: SingleMuon and MultiLepton may hold the same events"),
        (
            [{**MU, "primary": ["SingleMuon"]}, ELE],
            "triggers: HLT_Ele32_WPTight_Gsf: primary is missing; other triggers have it",
        ),
        (
            [{**MU, "primary": ["SingleMuon"]}, {**ELE, "primary": ["EGamma"]}],
            "triggers: HLT_Ele32_WPTight_Gsf: no data of EGamma is listed, so their events would",
        ),
        (
            [{**MU, "primary": ["SingleMuon"]}],
            "datasets: 'MultiLepton': no trigger has primary MultiLepton",
        ),
    ],
)
def test_data_of_several_primary_datasets(
    refused: Refusal, triggers: list[dict[str, Any]], message: str
) -> None:
    def change(analysis: dict[str, Any]) -> None:
        analysis["datasets"]["observe"] = ["SingleMuon", "MultiLepton"]
        analysis["triggers"] = triggers

    assert message in refused(file="config/analyses/validation.yaml", edit=change)


@pytest.mark.parametrize(
    ("das", "words"),
    [
        ("/SingleMuon/Run2018A-UL2018_MiniAODv2_NanoAODv9-v2/NANOAOD", ["SingleMuon"]),
        ("/Muon1/Run2023C-v4/NANOAOD", ["Muon"]),
        ("/EGamma_A-UL2018/listed-2018/USER", ["EGamma"]),
        ("/data_UL18A_SingleMuon/listed-2018/USER", ["SingleMuon"]),
        ("/MET/Run2016B-v1/NANOAOD", ["MET"]),
        ("/DoubleEG_B-ver1_HIPM_UL2016_OSUSkim/listed-2016APV/USER", ["DoubleEG"]),
        ("/DoubleMuon_preVFP_mine/listed-2016APV/USER", ["DoubleMuon", "mine"]),
        ("/2018_01/listed-2018/USER", ["2018_01"]),
        ("/Muon0/Run2024C-MINIv6NANOv15-v1/NANOAOD", ["Muon"]),
        ("/EGamma1/Run2025B-PromptReco-v1/NANOAOD", ["EGamma"]),
        ("/A1/listed-2018/USER", ["A"]),
    ],
)
def test_words_for_primary_datasets(das: str, words: list[str]) -> None:
    assert primaries_of(das) == words


def test_data_of_years_holds_no_event_of_another(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    """What may be twice, or missing, in one year; listed samples are data too."""
    files = itertools.count()

    def outcome(samples: list[str], triggers: list[dict[str, Any]], edit: str = EFT) -> str:
        folder = tmp_path / str(next(files))
        folder.mkdir()
        for name in samples:
            sample = {
                "xsec": 1.0, "year": name[-4:], "treeName": "Events", "histAxisName": "data",
                "WCnames": [], "files": [f"/{name}.root"], "nEvents": 1, "isData": True,
            }  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(sample))
        analysis = yaml.safe_load((repo / edit).read_text())
        analysis["datasets"]["data" if edit == EFT else "measure"] = samples
        (folder / "a.yaml").write_text(
            yaml.safe_dump(
                {**analysis, "triggers": triggers or analysis["triggers"]}, sort_keys=False
            )
        )
        listed = [str(folder / f"{name}.json") for name in samples]
        config = {
            **main_config,
            "datasets": [*main_config["datasets"], *listed],
            "analyses": [str(folder / "a.yaml")],
        }
        try:
            load(config, repo)
        except ConfigError as problem:
            return str(problem)
        return "accepted"

    mu = {**MU, "primary": ["SingleMuon"]}
    ele = {**ELE, "primary": ["SingleElectron", "EGamma"]}
    years = ["SingleMuon_2017", "SingleElectron_2017", "SingleMuon_2018", "EGamma_2018"]
    assert outcome(years, [mu, ele]) == "accepted"
    assert "no data of 2017 of SingleElectron or EGamma is listed" in outcome(
        ["SingleMuon_2017", "SingleMuon_2018", "EGamma_2018"], [ele, mu]
    )
    # another year's data has none of these events
    assert outcome(["SingleElectron_2017", "EGamma_2018"], [ELE]) == "accepted"
    for names in (
        ["data_SingleMuon_2018", "data_EGamma_2018"],
        ["UL18_EGamma_2018", "MuonEG_2018"],
    ):
        assert f"{names[0]} and {names[1]} of 2018 may hold the same" in outcome(names, [MU, ELE])
    both = ["DoubleEG_2017", "SingleElectron_2017"]
    assert "of 2017 may hold the same events; give each trigger its primary" in outcome(
        both, [], FLIPS
    )
    assert outcome(both, [{**ELE, "primary": ["DoubleEG", "SingleElectron"]}], FLIPS) == "accepted"
    assert "may hold the same events; keep one of them" in outcome(both, [], MUON)
    # a word more is an era, or a skim
    same = ["DoubleEG_B-ver1_HIPM_UL_NDSkim_2017", "DoubleEG_C-new_OSUSkim_2017", "DoubleEG_2017"]
    assert outcome(same, [], MUON) == "accepted"


def test_data_of_no_year_may_be_of_any(main_config: dict[str, Any], repo: Path) -> None:
    settings = load(main_config, repo)
    data = {name: dict(settings.datasets[name]) for name in ("SingleMuon", "MultiLepton")}
    data["SingleMuon"]["year"] = "2018"
    with pytest.raises(ConfigError, match=r"may hold the same events; .*, or declare their years"):
        check_primaries([MU], data, "a.yaml")
    data["MultiLepton"]["year"] = "2017"
    check_primaries([MU], data, "a.yaml")


def test_a_signed_map_is_not_applied(refused: Refusal) -> None:
    maps = {"Muon": "seed2021"}
    message = refused(file=CLOSURE, edit=lambda a: a.update(maps=maps))
    assert message.endswith("maps.Muon: 'seed2021' isn't binned in |eta|")


def test_only_data_has_a_luminosity_mask(refused: Refusal) -> None:
    mask = "config/demo/golden.json"
    message = refused(file=DEMO, edit=lambda d: d["TTTo2L2Nu"].update(lumi_mask=mask))
    assert message == "datasets: TTTo2L2Nu.lumi_mask: only data has luminosity sections"
    message = refused(file=DEMO, edit=lambda d: d["SingleMuon"].update(lumi_mask="gone.json"))
    assert "SingleMuon.lumi_mask: the file 'gone.json' does not exist" in message


def test_signal_that_is_no_process(refused: Refusal) -> None:
    message = refused(file=EFT, edit=lambda a: a.update(signal=["tth"]))
    assert message.endswith(
        "signal: 'tth' is not a process of its datasets; there are dy, ttH, ttbar"
    )


def test_point_of_an_unknown_coefficient(refused: Refusal) -> None:
    message = refused(file=EFT, edit=lambda a: a["points"].update(x={"ctW": 1.0}))
    assert (
        "points.x: 'ctW' is not a Wilson coefficient of its datasets; there are cpt, ctG, ctp"
        in (message)
    )


def test_falling_edges_of_an_observable(refused: Refusal) -> None:
    message = refused(file=EFT, edit=lambda a: a["observables"]["ht"].update(edges=[0, 2, 1]))
    assert message.endswith("observables.ht: [0, 2, 1] should increase strictly")


def test_number_that_snakemake_reads_as_text(refused: Refusal) -> None:
    message = refused(lambda c: c["samples"].update(scale="5e-5"))
    assert message.endswith(
        "'5e-5' should be of type number; YAML takes 5e-5 as text: write 5.0e-5"
    )


def test_cut_of_the_transform_that_does_not_parse(refused: Refusal) -> None:
    message = refused(lambda c: c["servicex"].update(cut="nMuon >"))
    assert "configuration: servicex.cut: expression 'nMuon >'" in message


def test_dataset_named_like_a_result(refused: Refusal) -> None:
    message = refused(file=DEMO, edit=lambda d: d.update(map={**d["TTTo2L2Nu"], "das": "/a/b/c"}))
    assert message == "datasets: 'map' is the name of a result; choose another name"


def test_falling_bin_edges(refused: Refusal) -> None:
    message = refused(file=MUON, edit=lambda a: a["binning"].update(pt=[10, 30, 20]))
    assert "binning.pt: [10, 30, 20] should increase strictly" in message


def test_unknown_working_point(refused: Refusal) -> None:
    message = refused(file=MUON, edit=lambda a: a.update(tight="tight_simpel"))
    assert "no working point Muon.tight_simpel; did you mean 'tight_simple'?" in message


def test_working_point_that_builds_on_itself(refused: Refusal) -> None:
    message = refused(file=POINTS, edit=lambda p: p["Muon"]["candidate"].update(like="loose"))
    assert "builds on itself" in message


def test_cut_that_does_not_parse_is_pointed_at(refused: Refusal) -> None:
    message = refused(
        file=POINTS, edit=lambda p: p["Muon"]["candidate"].update(cuts=["pt >> > 10"])
    )
    assert "'pt >> > 10'" in message
    assert message.splitlines()[-1].strip() == "^"


def test_channel_that_speaks_of_something_unknown(refused: Refusal) -> None:
    message = refused(file=EFT, edit=lambda a: a["channels"].update(x="n_leptons == 2"))
    assert (
        "channels.x: 'n_leptons == 2' uses 'n_leptons', which is unknown; there are n_lep"
        in message
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "no_such",
            "maps.Muon: 'no_such' isn't a fake-rate analysis that is listed before this one",
        ),
        (
            "tth_eft",
            "maps.Muon: 'tth_eft' isn't a fake-rate analysis that is listed before this one",
        ),
        ("electron", "maps.Muon: 'electron' is a map of Electrons"),
    ],
)
def test_application_of_a_map_that_does_not_fit(refused: Refusal, name: str, why: str) -> None:
    message = refused(file=CLOSURE, edit=lambda a: a["maps"].update(Muon=name))
    assert message.endswith(why)


def test_two_datasets_of_one_das_name(refused: Refusal) -> None:
    message = refused(file=DEMO, edit=lambda d: d.update(again={**d["TTTo2L2Nu"], "process": "x"}))
    assert (
        "'again' and 'TTTo2L2Nu' have the same das, /TTTo2L2Nu_demo/looseleaf-v1/NANOAODSIM"
        in message
    )


def test_missing_file(refused: Refusal) -> None:
    message = refused(lambda c: c.update(analyses=["config/analyses/muom.yaml"]))
    assert "configuration: analyses: the file 'config/analyses/muom.yaml' does not exist" in message


def test_unknown_site(refused: Refusal) -> None:
    assert "config/sites/lxbatch.yaml" in refused(lambda c: c.update(site="lxbatch"))


def test_key_given_twice(main_config: dict[str, Any], repo: Path, tmp_path: Path) -> None:
    text = (repo / MUON).read_text() + "\neta: signed\n"
    (tmp_path / "twice.yaml").write_text(text)
    config = {**main_config, "analyses": [str(tmp_path / "twice.yaml")]}
    with pytest.raises(ConfigError, match=r"twice.yaml, line \d+: 'eta' is given twice"):
        load(config, repo)


def test_settings_can_be_written_down(main_config: dict[str, Any], repo: Path) -> None:
    settings: Settings = load(main_config, repo)
    value = settings.to_json()
    assert value["working_points"]["Muon"]["loose"]["cuts"] == ["miniPFRelIso_all < 0.4"]
    assert value["site"]["kind"] == "local"


THQ, FLIPS = "config/analyses/thq.yaml", "config/analyses/flips.yaml"


@pytest.fixture
def refused_thq(refused: Refusal) -> Callable[..., str]:
    """`refused` with the analysis of tHq, which applies maps, among the analyses."""

    def message(edit: Callable[[dict[str, Any]], Any], file: str = THQ) -> str:
        return refused(lambda c: c["analyses"].extend([FLIPS, THQ]), file, edit)

    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"coefficients": ["ctW"]},
            "coefficients: 'ctW' is not a Wilson coefficient of its datasets",
        ),
        ({"coefficients": ["cptb"]}, "points.ctp = 5: 'ctp' isn't in the analysis' coefficients"),
        ({"scan": {"ctW": [-1, 1]}}, "scan: 'ctW' is not a Wilson coefficient"),
        (
            {"datacards": {"coefficients": ["x"]}},
            "datacards.coefficients: 'x' is not a Wilson coefficient",
        ),
        ({"datacards": {"observable": "y"}}, "datacards.observable: 'y' is not an observable"),
        ({"lumi_ifb": {"2018": 1.0}}, "lumi_ifb: depends on the year, but 'tHq_EFT' declares none"),
        (
            {"systematics": {"rate": {"a": {"value": 1.1, "correlated": False}}}},
            "systematics.rate.a: depends on the year, but 'tHq_EFT' declares none",
        ),
        (
            {"systematics": {"rate": {"a": {"value": 1.1, "processes": ["qcd"]}}}},
            "systematics.rate.a.processes: 'qcd' is not a process of its datasets",
        ),
        (
            {
                "systematics": {
                    "rate": {"a": {"value": 1.1}},
                    "shape": {"a": {"weight": {"up": "2", "down": "1"}}},
                }
            },
            "systematics.shape.a: the name is already taken by systematics.rate.a",
        ),
        (
            {
                "normalise": "declared",
                "systematics": {"theory": {"ISR": {"branch": "PSWeight", "up": 0, "down": 2}}},
            },
            "systematics.theory.ISR.sums: is missing; normalise: declared needs it",
        ),
        (
            {"systematics": {"theory": {"ISR": {"branch": "genWeight", "up": 0, "down": 2}}}},
            "systematics.theory.ISR.branch: 'genWeight' is not a branch of theory "
            "weights. Their names end in Weight and their sums are in the ledger; others need "
            "normalise: declared",
        ),
        *[
            ({"corrections": {name: {**CORRECTION, **wanted}}, **more}, message)
            for name, wanted, more, message in (
                ("jesUp", {}, {}, "corrections.jesUp: 'jesUp' is a reserved name; choose another"),
                (
                    "a",
                    {},
                    {"systematics": {"rate": {"a": {"value": 1.1}}}},
                    "corrections.a: the name is already taken by systematics.rate.a",
                ),
                (
                    "a",
                    {"of": "tight"},
                    {},
                    "corrections.a.inputs: a lepton weight takes branches of exactly one of "
                    "Muon, Electron, not of none",
                ),
                (
                    "a",
                    {"of": "loose", "inputs": {"x": "sum(Muon_pt) + Electron_pt"}},
                    {},
                    "of Muon, Electron, not of Electron and Muon",
                ),
                (
                    "a_2018",
                    {},
                    {"systematics": {"rate": {"a": {"value": 1.1, "correlated": False}}}},
                    "rate.a: depends on the year, but 'tHq_EFT' declares none",
                ),
                (
                    "a",
                    {"years": [2018]},
                    {},
                    "corrections.a: depends on the year, but 'tHq_EFT' declares",
                ),
                (
                    "a",
                    {"variations": {"up": {"side": "up"}}},
                    {},
                    "corrections.a.variations: the key 'down' is missing",
                ),
            )
        ],
        (
            {"systematics": {"shape": {"a": {"weight": {"up": "n_mu", "down": "n_taus"}}}}},
            "systematics.shape.a.weight.down: 'n_taus' uses 'n_taus'",
        ),
        ({"lumi_ifb": -1}, "lumi_ifb: -1 should be more than 0"),
        (
            {"observables": {"failing": {"expression": "ht", "label": "x", "edges": [0, 1]}}},
            "observables: 'failing' is a reserved name; choose another",
        ),
        (
            {"observables": {"entries": {"expression": "ht", "label": "x", "edges": [0, 1]}}},
            "observables: 'entries' is a reserved name; choose another",
        ),
        ({"lumi_ifb": {2018: 1.0}}, "lumi_ifb: depends on the year, but 'tHq_EFT' declares none"),
        (
            {"points": {"p": {"ctG": float("nan")}}},
            "points.p.ctG: nan is not a finite",
        ),
        ({"scan": {"ctG": [2, -2]}}, "scan.ctG: [2, -2] should increase strictly"),
        ({"scan": {"ctG": [-1, float("inf")]}}, "scan.ctG.1: inf is not a finite"),
        *[
            (
                {"systematics": {"rate": {name: {"value": 1.1}}}},
                f"systematics.rate.{name}: '{name}' is a reserved name; choose another",
            )
            for name in (
                "nonprompt_rate_muon",
                "nonprompt_Muon_closure",
                # what Combine calls so, or reads a card by
                "r",
                "MH",
                "CMS_th1x",
                "CMS_channel",
                "prop_binch_3l_bin0",
                "shapes",
                "data_obs",
                "flips_rate",
                "lin_ctp",
                "quad_mixed_a_b",
                "sm",
                "jesUp",
            )
        ],
        *[
            (changes, f"{key}: 'ctp' is a Wilson coefficient; choose another name")
            for key, changes in (
                ("systematics.rate.ctp", {"systematics": {"rate": {"ctp": {"value": 1.1}}}}),
                ("corrections.ctp", {"corrections": {"ctp": CORRECTION}}),
            )
        ],
        (
            {"systematics": {"rate": {"lumi 13 TeV": {"value": 1.1}}}},
            "systematics.rate: 'lumi 13 TeV' should be",
        ),
        (
            {
                "systematics": {
                    "shape": {
                        "a": {
                            "weight": {"up": "2", "down": "1"},
                            "processes": ["nonprompt"],
                        }
                    }
                }
            },
            "systematics.shape.a.processes: 'nonprompt' is not a process of its datasets",
        ),
        (
            {
                "channels": {
                    "2l": {
                        "lep_chan_lst": [["2l_1b", "2lss"]],
                        "appl_lst": ["isSR_2lSS", "isAR_2lSS"],
                    },
                }
            },
            "flips: no channel has the region isAR_2lSS_OS, from which",
        ),
        (
            {
                "channels": {
                    "2l": {"lep_chan_lst": [["2l_1b", "2lss"]], "appl_lst": ["isSR_2lSS"]},
                }
            },
            "channels: '2l_1b' has no isAR_ region, but with nonprompt, simulation has prompt",
        ),
        ({"leptons": {"Muon": "loose"}}, "leptons: is missing; declare them, or maps in nonprompt"),
        (
            {"cuts": {"2lss": "lep0_pt > 25"}},
            "channels.2l.lep_chan_lst: 2lss_1b: the cut 'exactly_1b' is not",
        ),
        (
            {"nonprompt": {"maps": {"Muon": "electron"}, "cap": 0.8}},
            "nonprompt.maps.Muon: 'electron' is a map of Electrons",
        ),
        (
            {"flips": {"map": "muon"}},
            "flips.map: 'muon' isn't a flips analysis that is listed before this one",
        ),
        (
            {"datasets": {"simulation": ["tHq_EFT", "ttH_EFT"]}},
            "nonprompt: needs data; list it in datasets.data",
        ),
        (
            {"datasets": {"simulation": ["tHq_EFT"], "data": ["ttH_EFT"]}},
            "datasets.data: 'ttH_EFT' is simulation",
        ),
    ],
)
def test_what_is_wrong_with_an_eft_analysis(
    refused_thq: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    found = refused_thq(lambda a: a.update(changes))
    assert "thq.yaml: " in found
    assert message in found


def test_year_that_the_luminosities_do_not_have(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    datasets = yaml.safe_load((repo / DEMO).read_text())
    for name in ("tHq_EFT", "ttH_EFT", "TTTo2L2Nu", "MultiLepton"):
        datasets[name]["year"] = "2017"
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(datasets))
    analysis = yaml.safe_load((repo / THQ).read_text())
    (tmp_path / "thq.yaml").write_text(
        yaml.safe_dump({**analysis, "lumi_ifb": {"2018": 1.0}}, sort_keys=False)
    )
    config = {
        **main_config,
        "datasets": [str(tmp_path / "demo.yaml")],
        "analyses": [MUON, "config/analyses/electron.yaml", FLIPS, str(tmp_path / "thq.yaml")],
    }
    with pytest.raises(ConfigError, match="'tHq_EFT' is of the year 2017, lumi_ifb has 2018"):
        load(config, repo)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "accepted"),
        (
            {"triggers": [{**MU, "years": [2018]}]},
            "is of the year 2017, for which there are no trig",
        ),
        ({"triggers": [{**MU, "years": [2017]}, {**ELE, "years": ["2018"]}]}, "accepted"),
        (
            {"corrections": {"a": {**CORRECTION, "years": [2016]}}},
            "a.years: its datasets have no simulation of 2016",
        ),
        (
            {
                "corrections": {"a_2017": CORRECTION},
                "systematics": {"shape": {"a": {"jet_scale": UP_DOWN, "correlated": False}}},
            },
            "corrections.a_2017: the name is already taken by systematics.shape.a",
        ),
        ({"lumi_ifb": {2017: 1.0, "2017": 2.0}}, ": '2017' is given twice"),
    ],
)
def test_years_of_an_eft_analysis(
    main_config: dict[str, Any],
    repo: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    datasets = yaml.safe_load((repo / DEMO).read_text())
    for name in ("tHq_EFT", "ttH_EFT", "TTTo2L2Nu", "MultiLepton"):
        datasets[name]["year"] = 2017
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(datasets))
    analysis = {**yaml.safe_load((repo / THQ).read_text()), **changes}
    outcomes = []
    for thresholds in ({2017: 0.3}, {"2016": 0.2, "2018": 0.3}):
        analysis["jets"]["btag"]["min"] = thresholds
        (tmp_path / "thq.yaml").write_text(yaml.safe_dump(analysis, sort_keys=False))
        config = {
            **main_config,
            "datasets": [str(tmp_path / "demo.yaml")],
            "analyses": [MUON, "config/analyses/electron.yaml", FLIPS, str(tmp_path / "thq.yaml")],
        }
        try:
            load(config, repo)
            outcomes.append("accepted")
        except ConfigError as problem:
            outcomes.append(str(problem))
    assert message in outcomes[0]
    assert outcomes[1] != "accepted"
    if message == "accepted":
        assert "'tHq_EFT' is of the year 2017, jets.btag.min has 2016, 2018" in outcomes[1]


def test_declared_sums_of_theory_weights(refused_thq: Callable[..., str]) -> None:
    isr = {"branch": "PSWeight", "up": 0, "down": 2, "sums": "ISR"}
    changes = {"normalise": "declared", "systematics": {"theory": {"ISR": isr}}}
    assert refused_thq(lambda a: a.update(changes)) == (
        "config/datasets/demo.yaml: tHq_EFT.sums_of_weights: 'ISRUp' is missing; "
        "systematics.theory.ISR of thq needs it for its normalisation"
    )


@pytest.mark.parametrize("process", ["data_obs", "data", "nonprompt", "flips"])
def test_simulation_is_not_called_as_what_data_makes(refused: Refusal, process: str) -> None:
    message = refused(file=DEMO, edit=lambda d: d["ttH_EFT"].update(process=process))
    assert "tth_eft.yaml: datasets.simulation: 'ttH_EFT' has the process" in message
    assert f"{process!r}, which is a reserved name" in message


@pytest.mark.parametrize("name", ["r", "MH", "prop_bin1", "a_b"])
def test_coefficients_are_called_as_cards_take_them(refused: Refusal, name: str) -> None:
    def edit(datasets: dict[str, Any]) -> None:
        datasets["ttH_EFT"]["wc_names"][0] = name

    message = refused(file=DEMO, edit=edit)
    if "_" in name:
        assert f"ttH_EFT.wc_names.0: {name!r} should be a word of letters and digits" in message
    else:
        assert f"tth_eft.yaml: datasets: a sample has the Wilson coefficient {name!r}" in message


def test_names_of_listed_samples_are_held_to_what_cards_take(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    """Where no schema says what a coefficient is called."""
    sample = {
        "xsec": 0.2, "year": "2018", "treeName": "Events", "histAxisName": "ttH", "isData": False,
        "WCnames": ["ctG", "quad_ctG"], "files": ["a.root"], "nEvents": 1, "nGenEvents": 1,
        "nSumOfWeights": 1.0,
    }  # fmt: skip
    (tmp_path / "listed.json").write_text(json.dumps(sample))
    config = copy.deepcopy(main_config)
    config["datasets"].append(str(tmp_path / "listed.json"))
    analysis = yaml.safe_load((repo / EFT).read_text())
    analysis["datasets"]["simulation"] = ["listed"]
    (tmp_path / "eft.yaml").write_text(yaml.safe_dump(analysis))
    config["analyses"] = [str(tmp_path / "eft.yaml")]
    with pytest.raises(ConfigError, match="WCnames: 'quad_ctG' should be a word of letters"):
        load(config, repo)


@pytest.mark.parametrize(
    ("years", "energies"),
    [
        ([None, None], "13"),
        (["2016APV", "2018"], "13"),
        (["2022EE", "2023BPix"], "13.6"),
        (["2018", "2022"], "13, 13.6"),
        (["2024", "2025"], "13.6"),
        (["2026", "2016"], "13, 13.6"),
    ],
)
def test_energies_are_those_of_the_years(
    main_config: dict[str, Any], repo: Path, years: list[str | None], energies: str
) -> None:
    settings = load(main_config, repo)
    names = settings.datasets_of("tth_eft")
    for name, year in zip(names, [*years, years[0]], strict=True):
        settings.datasets[name].pop("year", None)
        if year is not None:
            settings.datasets[name]["year"] = year
    assert settings.energies_of("tth_eft") == energies


def test_years_may_be_numbers(main_config: dict[str, Any], repo: Path, tmp_path: Path) -> None:
    datasets = yaml.safe_load((repo / DEMO).read_text())
    for dataset in datasets.values():
        dataset["year"] = 2018
    analysis = yaml.safe_load((repo / EFT).read_text())
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(datasets))
    (tmp_path / "tth_eft.yaml").write_text(yaml.safe_dump({**analysis, "lumi_ifb": {2018: 2.5}}))
    config = copy.deepcopy(main_config)
    config["datasets"] = [str(tmp_path / "demo.yaml")]
    config["analyses"] = [
        str(tmp_path / "tth_eft.yaml") if name == EFT else name for name in config["analyses"]
    ]
    settings = load(config, repo)
    year = settings.datasets["ttH_EFT"]["year"]
    assert settings.analyses["tth_eft"].lumi_ifb[year] == 2.5


def test_a_file_of_two_samples_counts_twice(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    one = {
        "xsec": 1.0, "year": "2018", "treeName": "Events", "histAxisName": "tt", "WCnames": [],
        "files": ["a.root", "b.root"], "nEvents": 1, "nSumOfWeights": 1.0, "isData": False,
    }  # fmt: skip
    (tmp_path / "first.json").write_text(json.dumps(one))
    (tmp_path / "second.json").write_text(json.dumps({**one, "files": ["c.root", "b.root"]}))
    cfg = tmp_path / "samples.cfg"
    cfg.write_text("root://host//\nfirst.json\nsecond.json\n")
    config = copy.deepcopy(main_config)
    config["datasets"].append(str(cfg))
    twice = (
        f"{tmp_path}/second.json: files: root://host/b.root already belongs to 'first', so its "
        "events would count twice; list one of the two samples"
    )
    # told where nothing uses the second, an error where something does
    settings = load(config, repo)
    assert settings.remarks == (twice,)
    assert "second" not in settings.datasets
    analysis = yaml.safe_load((repo / EFT).read_text())
    analysis["datasets"]["simulation"].append("second")
    (tmp_path / "eft.yaml").write_text(yaml.safe_dump(analysis, sort_keys=False))
    config["analyses"] = [str(tmp_path / "eft.yaml")]
    with pytest.raises(ConfigError) as problem:
        load(config, repo)
    assert str(problem.value) == (f"{tmp_path}/eft.yaml: datasets: 'second' can't be used: {twice}")


def test_years_are_the_same_to_all_declarations(repo: Path) -> None:
    schema = yaml.safe_load((repo / "config/schemas/datasets.schema.yaml").read_text())
    assert schema["additionalProperties"]["properties"]["year"]["enum"] == list(YEARS)
    assert {"2016APV", "2023BPix", "2024", "2025"} <= set(YEARS)


def test_an_analysis_of_2024_and_2025(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    """NanoAOD v15 is made for 2024: luminosity, threshold, triggers and energy go by it."""
    datasets = yaml.safe_load((repo / DEMO).read_text())
    years = {"tHq_EFT": 2024, "ttH_EFT": "2025", "TTTo2L2Nu": 2024, "MultiLepton": 2024}
    for name, year in years.items():
        datasets[name]["year"] = year
    analysis = yaml.safe_load((repo / EFT).read_text())
    analysis["datasets"] = {"simulation": ["tHq_EFT", "ttH_EFT"]}
    analysis |= {"signal": [], "lumi_ifb": {2024: 109.0, "2025": 110.5}, "points": {"SM": {}}}
    del analysis["systematics"], analysis["scan"]
    analysis["jets"]["btag"]["min"] = {2024: 0.1, 2025: 0.2}
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(datasets))
    (tmp_path / "eft.yaml").write_text(yaml.safe_dump(analysis, sort_keys=False))
    config = {**main_config, "datasets": [str(tmp_path / "demo.yaml")]}
    settings = load({**config, "analyses": [str(tmp_path / "eft.yaml")]}, repo)
    assert settings.energies_of("tth_eft") == "13.6"
    found = settings.analyses["tth_eft"]
    assert found.lumi_ifb == {"2024": 109.0, "2025": 110.5}
    for name, threshold in (("tHq_EFT", 0.1), ("ttH_EFT", 0.2)):
        year = settings.datasets[name]["year"]
        assert found.of_year(year).jets["btag"]["min"] == threshold


def test_unknown_year(refused: Refusal) -> None:
    message = refused(file=DEMO, edit=lambda d: d["ttH_EFT"].update(year="2019"))
    assert "ttH_EFT.year: '2019' is not one of 2016APV, 2016" in message


def test_squares_are_exact_for_few_coefficients(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    assert load(main_config, repo).analyses["tth_eft"].squares == "exact"
    datasets = yaml.safe_load((repo / DEMO).read_text())
    datasets["ttH_EFT"]["wc_names"] += [f"c{index}" for index in range(7)]
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(datasets))
    config = {**main_config, "datasets": [str(tmp_path / "demo.yaml")]}
    assert load(config, repo).analyses["tth_eft"].squares == "points"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("file", "key", "edit"),
    [
        (DEMO, "DYJetsToLL.xsec_pb", lambda v, n: v["DYJetsToLL"].update(xsec_pb=n)),
        (DEMO, "A.sums_of_weights.ISRUp", lambda v, n: v.update(
            A={**v["ttH_EFT"], "das": "/a/b/c", "sums_of_weights": {"ISRUp": n}})),
        (MUON, "lumi_ifb", lambda v, n: v.update(lumi_ifb=n)),
        (MUON, "triggers.0.prescale", lambda v, n: v["triggers"][0].update(prescale=n)),
        (MUON, "triggers.1.pt_max", lambda v, n: v["triggers"][1].update(pt_max=n)),
        (MUON, "binning.pt.0", lambda v, n: v["binning"].update(pt=[n, 20, 30])),
        (MUON, "binning.abs_eta.1", lambda v, n: v["binning"].update(abs_eta=[0, n])),
        (MUON, "region.met_max", lambda v, n: v["region"].update(met_max=n)),
        (MUON, "systematics.tilt.pt", lambda v, n: v["systematics"].update(tilt={"pt": n})),
        (MUON, "systematics.away_jet_pt.up", lambda v, n: v["systematics"].update(
            away_jet_pt={"up": n, "down": 20})),
        (DATA, "prompt_fit.edges.4", lambda v, n: v["prompt_fit"].update(edges=[0, 1, 2, 3, n])),
        (CLOSURE, "cap", lambda v, n: v.update(cap=n)),
        (EFT, "lumi_ifb.2018", lambda v, n: v.update(lumi_ifb={2018: n})),
        (EFT, "jets.btag.min", lambda v, n: v["jets"]["btag"].update(min=n)),
        (EFT, "points.x.ctG", lambda v, n: v["points"].update(x={"ctG": n})),
        (EFT, "scan.ctG.0", lambda v, n: v.update(scan={"ctG": [n, 1]})),
        (EFT, "systematics.rate.lumi.value.1", lambda v, n: v["systematics"]["rate"].update(
            lumi={"value": [1, n]})),
        (EFT, "systematics.shape.jes.jet_scale.up", lambda v, n: v["systematics"]["shape"].update(
            jes={"jet_scale": {"up": n, "down": 1}})),
        (EFT, "observables.ht.edges.1", lambda v, n: v["observables"]["ht"].update(edges=[0, n])),
        (EFT, "datacards.auto_mc_stats", lambda v, n: v["datacards"].update(auto_mc_stats=n)),
        (POINTS, "Muon.loose.cuts.0", lambda v, n: v["Muon"]["loose"].update(cuts=[n])),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_everywhere(
    refused: Refusal, file: str, key: str, edit: Callable[[Any, float], Any], number: float
) -> None:
    message = refused(file=file, edit=lambda value: edit(value, number))
    assert message.partition("/")[2].split(": ", 1)[1] == (
        f"{key}: {number} is not a finite number; give one, or remove the key if it is optional"
    )


def test_numbers_that_are_none_in_the_main_file(refused: Refusal) -> None:
    for section, key in (("samples", "scale"), ("das", "timeout"), ("processing", "chunk_s")):
        message = refused(lambda c, s=section, k=key: c[s].update({k: float("inf")}))
        assert message.startswith(f"configuration: {section}.{key}: inf is not a finite number")
    assert refused(lambda c: c["servicex"].update(cut=float("nan"))).startswith(
        "configuration: servicex.cut: nan is not a finite number"
    )


LONG = "n" * 201


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        (DEMO, lambda v: v.update({LONG: {**v["ttH_EFT"], "das": "/a/b/c"}})),
        (DEMO, lambda v: v["ttH_EFT"].update(wc_names=[LONG])),
        (MUON, lambda v: v.update(name=LONG)),
        (DATA, lambda v: v["observables"].update({LONG: v["observables"]["npvs"]})),
        (CLOSURE, lambda v: v["channels"].update({LONG: "n_lep == 2"})),
        (EFT, lambda v: v.update(name=LONG)),
        (EFT, lambda v: v["channels"].update({LONG: "n_lep == 2"})),
        (EFT, lambda v: v["observables"].update({LONG: v["observables"]["ht"]})),
        (FLIPS, lambda v: v.update(name=LONG)),
    ],
)
def test_names_that_are_too_long_for_files(
    refused: Refusal, file: str, edit: Callable[[Any], Any]
) -> None:
    message = refused(lambda c: c["analyses"].append(FLIPS), file, edit)
    assert message.endswith(
        f": '{'n' * 96}... is longer than 200 characters, too long for a file name"
    )


@pytest.mark.parametrize("file", [EFT, CLOSURE])
def test_names_that_are_too_long_together(refused: Refusal, repo: Path, file: str) -> None:
    """255 characters are what a file's name can have: the picture of a channel and observable."""
    channel = "c" * (255 - len("closure__.png") - 100)

    def edit(analysis: dict[str, Any], more: str = "") -> None:
        analysis["channels"][channel + more] = "n_lep == 2"
        analysis["observables"]["o" * 100] = next(iter(analysis["observables"].values()))

    message = refused(file=file, edit=lambda analysis: edit(analysis, "c"))
    assert "give a picture a file name of more than 255 characters" in message
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refused(file=file, edit=edit)


def test_paths_that_are_no_files(refused: Refusal) -> None:
    assert refused(lambda c: c.update(working_points="config/analyses")) == (
        "configuration: working_points: 'config/analyses' is a folder; name a file in it"
    )
    message = refused(lambda c: c.update(analyses=["n" * 300]))
    assert message.endswith("...: File name too long")


def test_processes_that_results_would_take_for_one(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    """Whose names differ in what results can't have; an analysis of one of them is right."""
    analysis = yaml.safe_load((repo / EFT).read_text())
    del analysis["systematics"]
    for name, process in (("one", "tt-Z"), ("other", "tt_Z"), ("same", "tt-Z")):
        sample = {
            "xsec": 1.0, "year": "2024", "treeName": "Events", "histAxisName": process,
            "WCnames": [], "files": [f"{name}.root"], "nEvents": 1, "nSumOfWeights": 1.0,
            "isData": False,
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(sample))
    (tmp_path / "all.cfg").write_text("one.json\nother.json\nsame.json\n")

    def loaded(*names: str) -> Settings:
        analysis["datasets"]["simulation"] = ["ttH_EFT", *names]
        (tmp_path / "eft.yaml").write_text(yaml.safe_dump(analysis, sort_keys=False))
        datasets = [*main_config["datasets"], str(tmp_path / "all.cfg")]
        files = {"datasets": datasets, "analyses": [str(tmp_path / "eft.yaml")]}
        return load({**main_config, **files}, repo)

    analysis["signal"] = ["tt-Z"]
    with pytest.raises(
        ConfigError, match=r"signal: 'tt-Z' is not a process .*; results call it 'tt_Z'"
    ):
        loaded("one", "same")
    analysis["signal"] = ["tt_Z"]
    settings = loaded("one", "same")
    assert [settings.datasets[name]["process"] for name in ("one", "other")] == ["tt_Z"] * 2
    with pytest.raises(ConfigError) as problem:
        loaded("one", "other")
    assert str(problem.value) == (
        f"{tmp_path}/eft.yaml: datasets: the processes 'tt-Z' and 'tt_Z' would both be "
        f"called 'tt_Z' in results; rename one, in {tmp_path}/one.json or {tmp_path}/other.json"
    )
