"""The EFT histogram without the rest of the package, and its kernels kept between processes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPO

from looseleaf.efthist import kernels, machine
from looseleaf.objects import kernels as object_kernels
from looseleaf.objects import loops

pytestmark = pytest.mark.slow

NOT_NEEDED = [
    "asyncio",
    "awkward",
    "coffea",
    "correctionlib",
    "dask",
    "distributed",
    "fastapi",
    "jsonschema",
    "matplotlib",
    "numba",
    "pandas",
    "pyarrow",
    "scipy",
    "servicex",
    "snakemake",
    "uproot",
    "yaml",
]
NOT_INSTALLED = [name for name in NOT_NEEDED if name not in ("asyncio", "numba", "scipy")]
IMPORT = """
import json, sys, time
import looseleaf.efthist
ours = [m for m in sys.modules if m.startswith("looseleaf")]
print(json.dumps({"modules": list(sys.modules), "cpu": time.process_time(), "ours": ours}))
"""
# stands for an environment of hist, h5py, numba and scipy alone
ABSENT = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
ALONE = """
import hist, numpy as np
import looseleaf
from looseleaf.efthist import EFTHist, read_histograms, write_histograms
h = EFTHist(
    hist.axis.StrCategory([], growth=True, name="process"),
    hist.axis.Regular(2, 0, 1, name="x"),
    coefficients=["a", "b"],
)
x, terms = np.array([0.2, 0.2, 0.7]), np.tile([1.15, 1.35, 1.25, 0.25, 0.75, 1], (3, 1))
h.fill("ttH", x, weight=np.ones(3), eft=terms)
both = h + h.copy().fill(np.array(["ttW", "ttH"]), np.array([0.1, 0.9]))
plain = hist.Hist(hist.axis.Regular(2, 0, 1, name="x")).fill(x)
write_histograms({path!r}, {{"eft": both, "plain": plain}}, {{"lumi": 1}})
found, about = read_histograms({path!r})
assert found["eft"] == both and found["plain"] == plain and about == {{"lumi": 1}}
at = found["eft"].at({{"a": 1.2, "b": 0.4}})
print(looseleaf.__file__, json.dumps([at.values().tolist(), at.variances().tolist()]))
"""
RATIO = """
import hist, numpy as np
from looseleaf.histograms import divide, read_uhi, write_uhi
axis = hist.axis.Regular(1, 0, 1, name="x")
loose, tight = (hist.Hist(axis).fill(np.full(number, 0.5)) for number in (10, 4))
ratio = divide(tight, loose, "clopper-pearson")
write_uhi({path!r}, {{"ratio": ratio.to_hist()}}, {{}})
maps, _ = read_uhi({path!r})
print(json.dumps([maps["ratio"].values()[0], ratio.lower[0], ratio.upper[0]]))
"""
FILL = """
import json, sys
import hist, numpy as np
from looseleaf.efthist import EFTHist
h = EFTHist(hist.axis.Regular(2, 0, 1, name="x"), coefficients=["a"])
h.fill([0.2, 0.7], weight=[1.0, 2.0], eft=[[1, 2, 3], [4, 5, 6]])
from looseleaf.efthist import machine
told = {"terms": h.terms().tolist(), "folder": str(machine.folder())}
print(json.dumps(told | {"compiled": "numba" in sys.modules}))
"""
TERMS = [[1, 2, 3], [8, 10, 12]]


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_takes_neither_time_nor_what_histograms_do_not_need() -> None:
    told = [json.loads(run(IMPORT, PYTHONPATH=str(REPO))) for _ in range(3)]
    assert {m.split(".")[0] for m in told[0]["modules"]} & set(NOT_NEEDED) == set()
    assert {m for m in told[0]["ours"] if not m.startswith("looseleaf.efthist")} == {"looseleaf"}
    assert min(each["cpu"] for each in told) < 0.7


def test_the_package_imports_nothing_else_of_the_project() -> None:
    text = "".join(path.read_text() for path in (REPO / "looseleaf/efthist").glob("*.py"))
    lines = [line.strip() for line in text.splitlines() if "import looseleaf" in line]
    lines += [line.strip() for line in text.splitlines() if line.strip().startswith("from loose")]
    assert len(lines) > 5
    assert [line for line in lines if not line.startswith("from looseleaf.efthist")] == []


def test_histograms_are_filled_added_evaluated_and_stored_without_the_rest(tmp_path: Path) -> None:
    package = tmp_path / "looseleaf"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "looseleaf/efthist", package / "efthist", ignore=ignored)
    shutil.copy(REPO / "looseleaf/__init__.py", package)
    code = ABSENT + ALONE
    told = run(
        code.format(absent=NOT_INSTALLED, path=str(tmp_path / "histograms.h5")),
        PYTHONPATH=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    place, _, numbers = told.partition(" ")
    assert place == str(package / "__init__.py")
    values, variances = json.loads(numbers)
    # an event of terms is 5.19 at the point, one without is 1
    np.testing.assert_allclose(values, [[4 * 5.19, 2 * 5.19 + 1], [1, 0]], rtol=1e-12)
    expected = [[4 * 26.9361, 2 * 26.9361 + 1], [1, 0]]
    np.testing.assert_allclose(variances, expected, rtol=1e-12)


def test_ratios_need_no_extra(tmp_path: Path) -> None:
    code = (ABSENT + RATIO).format(absent=NOT_INSTALLED, path=str(tmp_path / "map.json"))
    value, low, high = json.loads(run(code, PYTHONPATH=str(REPO)))
    # Clopper and Pearson's interval of 4 in 10, from the beta distribution's quantiles
    assert (value, round(low, 4), round(high, 4)) == (0.4, 0.22, 0.6046)


@pytest.fixture
def fill(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """A first fill in a process of its own, with a folder for what it compiles."""

    def filled(**environment: str) -> dict[str, Any]:
        places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""}
        return json.loads(run(FILL, **{**places, "PYTHONPATH": str(REPO), **environment}))

    return filled


def test_kernels_are_compiled_once_and_kept(fill: Any, tmp_path: Path) -> None:
    first, second = fill(), fill()
    assert first["terms"] == second["terms"] == TERMS
    assert (first["compiled"], second["compiled"]) == (True, False)
    folder = tmp_path / "cache/looseleaf/efthist"
    assert first["folder"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_code_is_kept_by_what_it_says_and_not_by_where_it_lies(fill: Any, tmp_path: Path) -> None:
    fill()
    shutil.copytree(REPO / "looseleaf", tmp_path / "elsewhere/looseleaf")
    assert not fill(PYTHONPATH=str(tmp_path / "elsewhere"))["compiled"]
    kernels = tmp_path / "elsewhere/looseleaf/efthist/kernels.py"
    kernels.write_text(kernels.read_text() + "\n# another state of the file\n")
    assert fill(PYTHONPATH=str(tmp_path / "elsewhere"))["compiled"]
    assert not fill()["compiled"]


def test_what_others_could_have_written_is_not_executed(fill: Any, tmp_path: Path) -> None:
    fill()
    (tmp_path / "cache/looseleaf/efthist").chmod(0o770)
    told = fill()
    assert (told["folder"], told["compiled"], told["terms"]) == ("None", True, TERMS)


@pytest.mark.parametrize("length", [0, 20, 5000])
def test_damaged_code_is_compiled_again(fill: Any, tmp_path: Path, length: int) -> None:
    fill()
    paths = list((tmp_path / "cache/looseleaf/efthist").iterdir())
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(path.read_bytes()[:length])
    told = fill()
    assert (told["compiled"], told["terms"]) == (True, TERMS)
    assert not fill()["compiled"]


@pytest.mark.parametrize("terms", ["D", "F"])
def test_loops_call_nothing_but_what_llvm_has_itself(terms: str) -> None:
    # a symbol of numba's or Python's would end the process that hasn't imported numba
    own = [(kernels, name, letters) for name, letters in machine.SIGNATURES.items()]
    of_objects = [(object_kernels, name, letters) for name, letters in loops.SIGNATURES.items()]
    for module, name, letters in (*own, *of_objects):
        text = module.compiled(name, *(part.format(terms=terms) for part in letters))
        outside = re.findall(r"^declare .*?@([\w.]+)|^@(\w+) = external", text, re.MULTILINE)
        assert [a or b for a, b in outside if not a.startswith("llvm.")] == [], name


def test_without_a_place_to_keep_code_a_fill_is_as_right(fill: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = fill(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (told["folder"], told["terms"]) == ("None", TERMS)


def test_a_full_disk_does_not_stop_a_fill(fill: Any, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    # Python ignores the signal, so that a write beyond the limit is an OSError
    told = json.loads(
        run(
            limit + FILL,
            PYTHONPATH=str(REPO),
            XDG_CACHE_HOME=str(tmp_path / "cache"),
            NUMBA_CACHE_DIR="",
        )
    )
    assert told["terms"] == TERMS
