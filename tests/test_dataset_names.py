"""Names of datasets that hold the same events: refused where both would be counted."""

import copy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from looseleaf.config.settings import load
from looseleaf.das.lookup import check_kindred
from looseleaf.dataset_names import campaign, may_match_the_same, pattern_of_both
from looseleaf.errors import ConfigError, LookupFailed

CAMPAIGN = "RunIISummer20UL18NanoAODv9-106X_upgrade2018_realistic_v16_L1v1"
BASE, EXTENSION = f"/TT/{CAMPAIGN}-v1/NANOAODSIM", f"/TT/{CAMPAIGN}_ext1-v2/NANOAODSIM"
BOTH = f"/TT/{CAMPAIGN}*/NANOAODSIM"


def loaded(
    config: dict[str, Any],
    repo: Path,
    folder: Path,
    group: str = "measure",
    change: dict[str, Any] | None = None,
    **of: Any,
) -> None:
    """Load an analysis, with a change, of two datasets, each declared as `of` says."""
    declared = {name: {"process": "tt", "xsec_pb": 832.0, **value} for name, value in of.items()}
    (folder / "d.yaml").write_text(yaml.safe_dump(declared))
    analysis = yaml.safe_load((repo / "config/analyses/muon.yaml").read_text()) | (change or {})
    names = list(declared)
    analysis["datasets"] = {"measure": names}
    if group != "measure":
        analysis["datasets"] = {"measure": names[:1], group: names[1:]}
    (folder / "a.yaml").write_text(yaml.safe_dump(analysis))
    changed = copy.deepcopy(config)
    changed |= {"datasets": [str(folder / "d.yaml")], "analyses": [str(folder / "a.yaml")]}
    load(changed, repo)


def told(config: dict[str, Any], repo: Path, folder: Path, **of: Any) -> str:
    with pytest.raises(ConfigError) as problem:
        loaded(config, repo, folder, **of)
    return str(problem.value)


def test_an_extension_at_the_whole_cross_section(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    message = told(main_config, repo, tmp_path, a={"das": BASE}, b={"das": EXTENSION})
    assert (
        f"a.yaml: datasets: a ({BASE}) and b ({EXTENSION}) are parts of one simulation" in message
    )
    assert "each normalised separately: declare" in message
    assert f"declare one dataset for both, das: {BOTH}, so that" in message
    # which the lookup takes
    assert all(fnmatchcase(name, BOTH) for name in (BASE, EXTENSION))
    check_kindred(BOTH, [BASE, EXTENSION])
    loaded(main_config, repo, tmp_path, a={"das": BOTH})
    # whatever share of the cross section each has
    halves = ({"das": name, "xsec_pb": x} for name, x in ((BASE, 416.0), (EXTENSION, 417.0)))
    again = told(main_config, repo, tmp_path, **dict(zip("ab", halves, strict=True)))
    assert again.endswith(f"das: {BOTH}, so that their sums of weights add up")
    # users' skims may have no event in common
    skims = (f"/TT/jdoe-skim_{name}-abc/USER" for name in ("sl", "dl"))
    loaded(main_config, repo, tmp_path, **{n: {"das": s} for n, s in zip("ab", skims, strict=True)})
    # other years, another role
    years = ({"year": "2017"}, {"year": "2018"})
    loaded(main_config, repo, tmp_path, a={"das": BASE} | years[0], b={"das": EXTENSION} | years[1])
    loaded(main_config, repo, tmp_path, group="subtract", a={"das": BASE}, b={"das": EXTENSION})
    # without normalisation events add up
    counts = {"weights": "counts", "interval": "clopper-pearson"}
    loaded(main_config, repo, tmp_path, change=counts, a={"das": BASE}, b={"das": EXTENSION})


def test_another_processing_of_the_same_simulation(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    other = "/TT/RunIISummer20UL18NanoAODv2-106X_upgrade2018_realistic_v15_L1v1-v1/NANOAODSIM"
    message = told(main_config, repo, tmp_path, a={"das": BASE}, b={"das": other})
    assert message.endswith(
        "are parts of one simulation, each normalised separately: keep one of them"
    )
    for apart in (other.replace("UL18", "UL17"), other.replace("/TT/", "/TTTo2L2Nu/")):
        loaded(main_config, repo, tmp_path, a={"das": BASE}, b={"das": apart})


def test_the_parts_of_2016_are_two() -> None:
    assert campaign("RunIISummer20UL16NanoAODAPVv9-106X_x-v1") == "RunIISummer20UL16APV"
    assert campaign("RunIISummer20UL16NanoAODv9-106X_x-v1") == "RunIISummer20UL16"
    assert campaign("Run3Summer22EENanoAODv12-130X-v2") == "Run3Summer22EE"


@pytest.mark.parametrize("group", ["measure", "subtract"])
def test_two_versions(main_config: dict[str, Any], repo: Path, tmp_path: Path, group: str) -> None:
    other = BASE.replace("-v1/", "-v3/")
    of = {"a": {"das": BASE}, "b": {"das": other, "xsec_pb": 1.0}}
    message = told(main_config, repo, tmp_path, group=group, **of)
    assert f"a ({BASE}) and b ({other}) are two versions of one dataset" in message


def test_a_pattern_that_matches_another_dataset(
    main_config: dict[str, Any], repo: Path, tmp_path: Path
) -> None:
    message = told(
        main_config, repo, tmp_path, a={"das": EXTENSION}, b={"das": BOTH, "xsec_pb": 1.0}
    )
    assert f"a ({EXTENSION}) and the matches of b ({BOTH}) may be the same dataset" in message


PROMPT = [f"/Muon0/Run2024E-PromptReco-v{n}/NANOAOD" for n in (1, 2)]
RERECO = [f"/Muon/Run2022C-22Sep2023-v{n}/NANOAOD" for n in (1, 2)]


def test_versions_of_data(main_config: dict[str, Any], repo: Path, tmp_path: Path) -> None:
    data = {"data": True}
    a, b = ({"das": name, **data} for name in RERECO)
    assert "are two versions of one dataset" in told(main_config, repo, tmp_path, a=a, b=b)
    # of the prompt reconstruction each has its own runs
    a, b = ({"das": name, **data} for name in PROMPT)
    loaded(main_config, repo, tmp_path, a=a, b=b)
    check_kindred("/Muon0/Run2024E-PromptReco-v*/NANOAOD", PROMPT)
    with pytest.raises(LookupFailed, match="different versions of the same dataset"):
        check_kindred("/Muon/Run2022C-22Sep2023-v*/NANOAOD", RERECO)


def test_what_else_a_pattern_may_not_merge() -> None:
    with pytest.raises(LookupFailed, match="matches different processings"):
        check_kindred("/M/R*/N", ["/M/Run2018A-UL2018-v1/N", "/M/Run2018B-02Apr2020-v1/N"])
    check_kindred("/M/R*/N", ["/M/Run2018A-UL2018-v1/N", "/M/Run2018B-UL2018-v2/N"])


def test_no_pattern_of_what_is_no_extension() -> None:
    assert pattern_of_both(BASE, EXTENSION) == BOTH
    assert pattern_of_both(BASE, EXTENSION.replace("NANOAODSIM", "USER")) is None
    assert pattern_of_both(BASE, EXTENSION.replace("v16", "v15")) is None


words = st.text("ab*", max_size=6)


@given(words, words, st.text("ab", max_size=8))
def test_patterns_that_meet(one: str, other: str, name: str) -> None:
    if fnmatchcase(name, one) and fnmatchcase(name, other):
        assert may_match_the_same(one, other)


def test_patterns_that_do_not_meet() -> None:
    # against every name of up to six letters
    names = [""]
    for _ in range(6):
        names += [name + letter for name in names for letter in "ab" if len(name) < 6]
    names = sorted(set(names))
    for one in ("a*", "*b", "a*b", "*ab*", "b", "", "a*a*a"):
        for other in ("b*", "*a", "ab*b", "*", "aa", "*bb*", "b*a"):
            both = any(fnmatchcase(n, one) and fnmatchcase(n, other) for n in names)
            assert may_match_the_same(one, other) == both, (one, other)
