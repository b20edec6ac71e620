"""The benchmark stage against numbers worked out by hand."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import hist
import pytest

from looseleaf.benchmark.collect import Job, read_job
from looseleaf.benchmark.report import check_summary, rate, report, seconds, size
from looseleaf.cost import JobCost
from looseleaf.errors import DataFileError
from looseleaf.files import read_json, write_json
from looseleaf.histograms.store import write_uhi
from looseleaf.losses import Loss
from looseleaf.stage_files import FileRecord, write_catalogue

MEBIBYTE = 1048576
# neither HTML nor matplotlib's formulas
ODD_NAME = r"a<b & $\oops{$"


def cost(events, bytes_read, wall_s, cpu_s, peak):
    return {
        "events": events,
        "bytes_read": bytes_read,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_rss_bytes": peak,
    }


def ledger(path, dataset, *chunks, losses=()):
    write_json(
        path,
        {
            "format": "looseleaf-ledger/1",
            "dataset": dataset,
            "losses": [loss.to_json() for loss in losses],
            "chunks": [
                {"worker": worker, "tries": tries[0] if tries else 1, "cost": spent}
                for worker, spent, *tries in chunks
            ],
        },
    )
    return str(path)


def made(path, losses):
    """A result that says what it lacks, over all datasets."""
    write_json(path, {"losses": [loss.to_json() for loss in losses]})
    return str(path)


@pytest.fixture
def results(tmp_path):
    """The arguments of `report` for a small run, by name."""
    root = tmp_path / "results"
    records = {
        "samples_generate/QCD": (4.0, 3.5, 64),
        "das_lookup/A": (0.25, 0.125, 1),
        "servicex_transform/A": (10.5, 8.0, 100),
        "servicex_transform/B": (9.5, 4.5, 300),
        "fakerate_process/muon": (40.0, 31.5, 40),
        "fakerate_measure/muon": (10.0, 9.25, 50),
    }
    jobs = []
    for name, (wall_s, cpu_s, mebibytes) in records.items():
        jobs.append(str(root / f"benchmark/jobs/{name}.json"))
        write_json(jobs[-1], JobCost(wall_s, cpu_s, mebibytes * MEBIBYTE).to_json())
    write_json(
        root / "servicex/A.json",
        {
            "format": "looseleaf-manifest/4",
            "totals": {"bytes": 4000, "events_in": 3000, "events_out": 900},
            "files": [
                {"cost": cost(1000, 5000, 0.5, 0.4, 7)},
                {"cost": cost(2000, 7000, 2.0, 1.7, 5)},
            ],
        },
    )
    write_catalogue(
        root / "samples/QCD/catalogue.json",
        {
            "/A/b/NANOAODSIM": [FileRecord("/store/a", 10, 700, None)],
            "/B/b/NANOAODSIM": [FileRecord("/store/b", 25, 300, None)],
        },
    )
    write_json(
        root / "reference.json",
        {
            "origin": "somebody <else>",
            "runs": [{"name": "fake rate", "events": 740240386, "events_per_s_per_thread": 2073}],
            "slides": [],
        },
    )
    muon, odd = root / "fakerate/muon", root / "topcoffea" / ODD_NAME
    return {
        "jobs": jobs,
        "ledgers": {
            "muon": [
                ledger(
                    muon / "A.ledger.json",
                    "A",
                    ("0", cost(600, 1000, 1.5, 1.2, 900)),
                    ("1", cost(300, 500, 0.25, 0.25, 800)),
                ),
                ledger(muon / "B.ledger.json", "B", ("2", cost(100, 250, 0.25, 0.2, 700), 3)),
            ],
            ODD_NAME: [ledger(odd / "A.ledger.json", "A", ("2", cost(50, 20, 0.8, 0.1, 60)))],
        },
        "results": {"muon": made(root / "fakerate/muon/closure.json", [])},
        "manifests": [str(root / "servicex/A.json")],
        "catalogues": [str(root / "samples/QCD/catalogue.json")],
        "reference": str(root / "reference.json"),
        "stages": {"fakerate": "fakerate", "application": "fakerate", "topcoffea": "topcoffea"},
        "summary": str(root / "benchmark/summary.json"),
        "page": str(root / "benchmark/report.html"),
    }


def page_of(results):
    report(**results)
    with open(results["page"], encoding="utf-8") as stream:
        return stream.read()


def test_stages_sum_the_jobs_and_the_work(results):
    report(**results)
    summary = read_json(results["summary"])
    assert summary["format"] == "looseleaf-benchmark/2"
    stages = {row["stage"]: row for row in summary["stages"]}
    assert list(stages) == ["samples", "das", "servicex", "fakerate", "topcoffea"]
    assert stages["servicex"] == {
        "stage": "servicex",
        "jobs": 2,
        "wall_s": 20.0,
        "longest_s": 10.5,
        "cpu_s": 12.5,
        "peak_rss_bytes": 300 * MEBIBYTE,
        "events": 3000,
        "events_out": 900,
        "bytes_read": 12000,
        "bytes_written": 4000,
        "process_s": 2.5,
        "process_cpu_s": 2.1,
        "process_peak_rss_bytes": 7,
        "events_per_s": 150.0,
        "events_per_process_s": 1200.0,
    }
    fakerate = stages["fakerate"]
    assert (fakerate["jobs"], fakerate["wall_s"], fakerate["cpu_s"]) == (2, 50.0, 40.75)
    assert fakerate["peak_rss_bytes"] == 50 * MEBIBYTE
    assert (fakerate["events"], fakerate["events_per_s"]) == (1000, 20.0)
    assert fakerate["bytes_read"] == 1750


def test_what_is_not_known_is_null(results):
    report(**results)
    stages = {row["stage"]: row for row in read_json(results["summary"])["stages"]}
    das, samples, topcoffea = stages["das"], stages["samples"], stages["topcoffea"]
    assert (das["events"], das["events_per_s"], das["bytes_read"]) == (None, None, None)
    assert (samples["events"], samples["events_out"], samples["bytes_written"]) == (1000, 1000, 35)
    assert (samples["events_per_s"], samples["events_per_process_s"]) == (250.0, None)
    # a ledger, but no job
    assert (topcoffea["jobs"], topcoffea["wall_s"], topcoffea["events_per_s"]) == (0, None, None)
    assert topcoffea["events_per_process_s"] == 62.5


def test_processing_is_by_analysis(results):
    report(**results)
    muon, odd = read_json(results["summary"])["processing"]
    # the mean of the chunks' rates would be 667
    assert muon == {
        "analysis": "muon",
        "stages": ["fakerate"],
        "datasets": 2,
        "chunks": 3,
        "tries": 5,
        "workers": 3,
        "events": 1000,
        "bytes_read": 1750,
        "process_s": 2.0,
        "process_cpu_s": 1.65,
        "process_peak_rss_bytes": 900,
        "events_per_process_s": 500.0,
    }
    assert (odd["analysis"], odd["stages"]) == (ODD_NAME, ["topcoffea"])


def test_work_is_by_stage_dataset_and_worker(results, tmp_path):
    more = ledger(
        tmp_path / "fakerate/more/A.ledger.json",
        "A",
        ("w", cost(4, 40, 0.5, 0.25, 9), 2),
        ("w", cost(6, 10, 1.5, 0.5, 7), 1),
        ("v", cost(1, 2, 1.0, 0.5, 8), 1),
    )
    report(**results | {"ledgers": {"more": [more]}})
    transform, first, second = read_json(results["summary"])["work"]
    keys = ("stage", "analysis", "dataset", "worker", "pieces", "tries")
    assert [transform[key] for key in keys] == ["servicex", None, "A", None, 2, None]
    assert (transform["events"], transform["bytes_read"]) == (3000, 12000)
    assert [first[key] for key in keys] == ["fakerate", "more", "A", "v", 1, 1]
    assert second == {
        "stage": "fakerate",
        "analysis": "more",
        "dataset": "A",
        "worker": "w",
        "pieces": 2,
        "tries": 3,
        "events": 10,
        "bytes_read": 50,
        "process_s": 2.0,
        "process_cpu_s": 0.75,
        "process_peak_rss_bytes": 9,
        "events_per_process_s": 5.0,
    }


def test_jobs_of_a_kind_count_to_the_stage_of_its_ledgers(results, tmp_path):
    """Analyses that apply maps make files of the stage `fakerate`, by rules of another name."""
    job = str(tmp_path / "results/benchmark/jobs/application_process/cr.json")
    write_json(job, JobCost(5.0, 4.0, 7).to_json())
    report(**results | {"jobs": [*results["jobs"], job]})
    summary = read_json(results["summary"])
    stages = {row["stage"]: row for row in summary["stages"]}
    assert list(stages) == ["samples", "das", "servicex", "fakerate", "topcoffea"]
    assert (stages["fakerate"]["jobs"], stages["fakerate"]["wall_s"]) == (3, 55.0)
    assert stages["fakerate"]["events"] == 1000
    assert (summary["rules"][-1]["rule"], summary["rules"][-1]["stage"]) == (
        "application_process",
        "fakerate",
    )
    assert summary["jobs"][-1] == {
        "rule": "application_process",
        "stage": "fakerate",
        "name": "cr",
        "wall_s": 5.0,
        "cpu_s": 4.0,
        "peak_rss_bytes": 7,
    }


def test_a_summary_that_does_not_fit_its_schema_is_not_written(results, tmp_path):
    wrong = str(tmp_path / "wrong.json")
    run = {"name": "fake rate", "events": "740 M"}
    write_json(wrong, {"origin": "somebody", "runs": [run]})
    with pytest.raises(DataFileError, match=r"summary\.json: reference\.runs\.0\.events: '740 M'"):
        report(**results | {"reference": wrong})
    assert not Path(results["summary"]).exists()
    assert not Path(results["page"]).exists()


def test_the_schema_knows_every_key_of_a_summary(results):
    report(**results)
    summary = read_json(results["summary"])
    check_summary(summary, "summary.json")
    for part in ("stages", "processing", "work", "rules", "jobs"):
        row = summary[part][0]
        for changed in (row | {"new": 1}, dict(list(row.items())[1:])):
            with pytest.raises(DataFileError, match=rf"summary\.json: {part}\.0: "):
                check_summary(summary | {part: [changed]}, "summary.json")
        spent = next(key for key in row if key.endswith("_s"))
        with pytest.raises(DataFileError, match=rf"summary\.json: {part}\.0\.{spent}: "):
            check_summary(summary | {part: [row | {spent: -1.0}]}, "summary.json")


def test_rules_reference_and_machine(results):
    report(**results)
    summary = read_json(results["summary"])
    rules = {row["rule"]: row for row in summary["rules"]}
    assert list(rules) == [
        "samples_generate",
        "das_lookup",
        "servicex_transform",
        "fakerate_process",
        "fakerate_measure",
    ]
    assert rules["fakerate_process"] == {
        "rule": "fakerate_process",
        "stage": "fakerate",
        "jobs": 1,
        "wall_s": 40.0,
        "longest_s": 40.0,
        "cpu_s": 31.5,
        "peak_rss_bytes": 40 * MEBIBYTE,
    }
    assert summary["reference"]["runs"][0]["events_per_s_per_thread"] == 2073
    assert set(summary["machine"]) == {"cpus", "python", "platform"}


def test_the_page_escapes_and_needs_no_network(results):
    page = page_of(results)
    assert "a&lt;b &amp; $\\oops{$" in page
    assert "a<b" not in page
    assert "somebody &lt;else&gt;" in page
    assert not re.search(
        r"https?:|//[a-z]|@import|<script|<link", re.sub(r'"data:[^"]*"', "", page)
    )
    assert [src[:21] for src in re.findall(r'src="([^"]*)', page)] == ["data:image/png;base64"] * 3
    cells = re.findall(r"<td>servicex</td>.*?</tr>", page, re.DOTALL)[0]
    shown = [cell.strip() for cell in re.findall(r"<td>(.*?)</td>", cells)]
    assert shown[:6] == ["servicex", "2", "20.0", "12.5", "315 MB", "3,000"]
    assert shown[6:] == ["900", "12.0 kB", "4.00 kB", "150", "1,200"]


def test_losses_are_listed_by_analysis_and_dataset(results, tmp_path):
    left_out = Loss(
        "file left out", "/store/<b>.root", 1200, None, "events", "Left out.", "leave_out"
    )
    beyond = Loss("beyond the axis", "pt", 3.25, 40.0, "leptons", "Above 90 GeV.")
    chunk = ("0", cost(10, 10, 1.0, 1.0, 1))
    paths = [
        ledger(tmp_path / "fakerate/muon/A.ledger.json", "A", chunk, losses=[left_out]),
        ledger(tmp_path / "fakerate/muon/B.ledger.json", "B", chunk, losses=[beyond]),
    ]
    empty = Loss("empty bins", "map", 2, 6, "bins", "Wider bins would tell.", "allow.empty_bins")
    of_map = tmp_path / "fakerate/muon/map.json"
    write_uhi(of_map, {"loose": hist.new.Reg(1, 0, 1).Double()}, {"losses": [empty.to_json()]})
    page = page_of(results | {"ledgers": {"muon": paths}, "results": {"muon": str(of_map)}})
    whole, first, second = read_json(results["summary"])["losses"]
    assert whole == {"analysis": "muon", "dataset": None} | empty.to_json()
    assert first == {"analysis": "muon", "dataset": "A"} | left_out.to_json()
    assert (second["dataset"], second["count"], second["of"]) == ("B", 3.25, 40.0)
    section = re.findall(r"<h2>Losses</h2>.*?<h2>", page, re.DOTALL)[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section.split("<tr>")[2:]]
    assert rows[0][:3] == ["muon", "all", "empty bins"]
    assert rows[1:] == [
        ["muon", "A", "file left out", "/store/&lt;b&gt;.root", "1,200 events", "\N{EN DASH}",
         "Left out.", "leave_out"],
        ["muon", "B", "beyond the axis", "pt", "3.25 leptons", "40", "Above 90 GeV.",
         "\N{EN DASH}"],
    ]  # fmt: skip


def test_the_page_says_that_there_are_no_losses(results):
    assert "<p>None: no analysis has left out" in page_of(results)
    assert read_json(results["summary"])["losses"] == []


def test_a_repeated_report_is_the_same(results):
    assert page_of(results) == page_of(results)


def test_a_run_without_analyses_has_a_page(results):
    page = page_of(
        results | {"jobs": [], "ledgers": {}, "results": {}, "manifests": [], "catalogues": []},
    )
    assert read_json(results["summary"])["stages"] == []
    # the rates of 2021
    assert page.count("<img") == 1


def test_a_chunk_of_no_events_and_no_time_has_no_rate(results, tmp_path):
    empty = ledger(tmp_path / "fakerate/none/A.ledger.json", "A", ("0", cost(0, 0, 0.0, 0.0, 1)))
    page = page_of(results | {"ledgers": {"none": [empty]}})
    (row,) = read_json(results["summary"])["processing"]
    assert (row["events"], row["events_per_process_s"]) == (0, None)
    assert page.count("<img") == 2


# a second before it begins, one and a half in processes that have ended, half a second in one that
# lives, and memory
SPENDING = """
import subprocess
import sys
import time

from looseleaf.doorway import doorway

# as imports do
time.sleep(1)

LARGE = "held = bytearray(300_000_000); held[::4096] = held[::4096]"


def started(cpu_s, then):
    lines = f"import time\\nwhile time.process_time() < {cpu_s}: pass\\n{then}"
    return subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE)


with doorway("log", "cost.json"):
    started(0.5, LARGE).wait()
    started(1.0, "").wait()
    living = started(0.5, "print(flush=True);time.sleep(60)")
    living.stdout.readline()
    print("at the end")
living.kill()
living.wait()
"""


def test_a_job_counts_the_processes_that_it_started(tmp_path):
    (tmp_path / "job.py").write_text(SPENDING)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "job.py"], cwd=tmp_path, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = read_json(tmp_path / "cost.json")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # the kernel has counted the same, less the end of the interpreter
    assert 2.0 < cost["cpu_s"] < spent + 0.02
    assert cost["cpu_s"] > spent - 0.3
    assert cost["wall_s"] > 3.0
    assert 300_000_000 < cost["peak_rss_bytes"] < 400_000_000


def test_peak_memory_is_not_that_of_the_process_which_started_another():
    held = bytearray(400_000_000)
    held[::4096] = b"1" * len(held[::4096])
    code = "from looseleaf.cost import peak_rss_bytes; print(peak_rss_bytes())"
    # a fork, as Snakemake's; without a reason to, Python takes vfork
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True,
                          preexec_fn=lambda: None)  # fmt: skip
    assert len(held) > 300_000_000
    assert 10_000_000 < int(told.stdout) < 300_000_000


def test_a_job_that_fails_has_no_cost(tmp_path):
    job = SPENDING.replace('print("at the end")', "living.kill(); 1 / 0")
    (tmp_path / "job.py").write_text(job)
    command = [sys.executable, "job.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 1
    assert b"ZeroDivisionError" in ran.stderr
    assert [path.name for path in tmp_path.iterdir() if "cost" in path.name] == []


def test_the_rule_is_below_the_last_jobs_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "benchmark/jobs/user/benchmark/jobs/das_lookup/jobs/A.json"
    spent = JobCost(1.5, 1.25, 7)
    write_json(path, spent.to_json())
    found = Job("das_lookup", "das", "jobs/A", spent)
    assert read_job(path, {}) == read_job(path.relative_to(tmp_path), {}) == found
    write_json("A.json", spent.to_json())
    with pytest.raises(DataFileError, match=r"A\.json: not below a folder benchmark/jobs"):
        read_job("A.json", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"wall_s": 1.0', "das_lookup/A.json: .*not valid JSON"),
        ('{"cpu_s": 1, "peak_rss_bytes": 1}', "A.json: .*wall_s"),
        ('{"wall_s": NaN, "cpu_s": 1, "peak_rss_bytes": 1}', "A.json"),
        ('{"wall_s": 1, "cpu_s": 1, "peak_rss_bytes": "much"}', "A.json: peak_rss_bytes"),
        ("[1]", "A.json: .*an object"),
        ("", "A.json: .*not valid JSON"),
        (None, "A.json"),
    ],
)
def test_a_broken_job_record_is_named(results, tmp_path, text, message):
    path = tmp_path / "results/benchmark/jobs/das_lookup/A.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataFileError, match=message):
        report(**results)
    assert not (tmp_path / "results/benchmark/summary.json").exists()
    assert not (tmp_path / "results/benchmark/report.html").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "servicex/A.json",
            {"format": "other"},
            "A.json: not of the format 'looseleaf-manifest/4'",
        ),
        ("servicex/A.json", {"format": "looseleaf-manifest/4"}, "A.json: totals is missing"),
        (
            "fakerate/muon/B.ledger.json",
            {
                "format": "looseleaf-ledger/1",
                "dataset": "B",
                "losses": [],
                "chunks": [{"worker": "0", "tries": 1}],
            },
            "B.ledger.json: chunks: 0: cost is missing",
        ),
        (
            "fakerate/muon/B.ledger.json",
            {"format": "looseleaf-ledger/1", "dataset": "B", "chunks": []},
            "B.ledger.json: losses is missing",
        ),
        ("reference.json", {"runs": [{}]}, "reference.json: needs an origin and named runs"),
    ],
)
def test_a_broken_record_of_a_stage_is_named(results, tmp_path, name, value, message):
    write_json(tmp_path / "results" / name, value)
    with pytest.raises(DataFileError, match=message):
        report(**results)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (99_970, "100 kB"),
        (999_700, "1.00 MB"),
        (73_575_139_779, "73.6 GB"),
        (5.1e15, "5100 TB"),
    ],
)
def test_sizes_are_readable(value, text):
    assert size(value) == text


def test_numbers_are_readable():
    assert [rate(value) for value in (None, 0, 0.125, 62.5, 2073)] == [
        "\N{EN DASH}",
        "0",
        "0.12",
        "62",
        "2,073",
    ]
    assert [seconds(value) for value in (None, 0.04, 10700)] == ["\N{EN DASH}", "0.0", "10,700.0"]
