"""The command `looseleaf`: what people type beside snakemake."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from looseleaf import __version__, disk
from looseleaf.cost import readable_size
from looseleaf.errors import LookupFailed, LooseleafError
from looseleaf.preflight import needing

HELP = """Find files, datasets, blocks, sites and totals as DAS knows them.

\b
  looseleaf das "file dataset=/A/B/C"            the files, a line each
  looseleaf das "dataset=/QCD_*/RunIIFall17*/NANOAODSIM"
  looseleaf das "summary dataset=/A/B/C"         files, events, bytes
  looseleaf das "site dataset=/A/B/C"            where its replicas are
  looseleaf das "block dataset=/A/B/C"
  looseleaf das "file,run,lumi dataset=/A/B/C run between [1,9]"

\b
After the query may follow what to show and to sum up:
  "... | grep file.name, file.size"
  "... | grep file.nevents>1000 | sum(file.size), count(file.name)"

A * in a dataset stands for any characters; every dataset that matches is asked for. Other
conditions: block=, run= and site= of files, status= (VALID), instance= (prod/global).

The proxy is that of X509_USER_PROXY or of voms-proxy-init; BEARER_TOKEN or BEARER_TOKEN_FILE
name a token instead. It ends with 0, or with dasgoclient's numbers: 1 nothing found, 2 DBS,
4 Rucio, 15 proxy, 17 query.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="looseleaf")
def main() -> None:
    """From a CMS dataset name to a fake-rate map: the commands beside snakemake."""


@main.command(help=HELP, short_help="Find a dataset's files as DAS knows them.")
@click.argument("query")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, as `dasgoclient -json`.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["plain", "json"]),
    default="plain",
    help="json: the list wrapped with status and times, as `dasgoclient -format json`.",
)
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Show so many; 0: all.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "dasgoclient", "dbs", "rucio", "catalogue"]),
    default="auto",
    show_default=True,
    help="Whom to ask; auto takes the first of them that can work here.",
)
@click.option("--catalogue", "catalogues", multiple=True, help="A local catalogue; repeatable.")
@click.option("--instance", help="DBS instance.  [default: prod/global]")
@click.option("--host", help="Where DBS stands.  [default: https://cmsweb.cern.ch:8443]")
@click.option("--timeout", type=float, help="Seconds for one request.  [default: 60]")
@click.option("-v", "--verbose", is_flag=True, help="Say who answered, and who can't and why.")
def das(
    query: str,
    as_json: bool,
    shape: str,
    limit: int,
    backend: str,
    catalogues: tuple[str, ...],
    verbose: bool,
    **given: str | float | None,
) -> None:
    started = time.time()
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        with needing("das"):
            from looseleaf.das import shapes  # noqa: PLC0415 - `looseleaf --help` is quick without
            from looseleaf.das.ask import Asking, ask  # noqa: PLC0415
            from looseleaf.das.query import parse  # noqa: PLC0415
        answer = ask(parse(query), Asking(backend=backend, catalogues=catalogues, **settings))
        if verbose:
            for name, reason in answer.passed_over.items():
                click.echo(f"passed over {name}: {reason}", err=True)
            click.echo(f"answered by {answer.backend} ({answer.instance})", err=True)
        if shape == "plain" and not as_json:
            text = "\n".join(shapes.lines(answer)[: limit or None])
        else:
            data = shapes.objects(answer)[: limit or None]
            text = shapes.json_lines(data)
            if shape == "json":
                text = shapes.wrapped(answer, data, started, time.time())
    except LooseleafError as problem:
        click.echo(f"error: {problem}", err=True)
        sys.exit(problem.status if isinstance(problem, LookupFailed) else 1)
    if text:
        _print(text)


def _print(text: str) -> None:
    try:
        click.echo(text)
    except OSError as problem:
        click.echo(f"error: the answer can't be written: {problem.strerror}", err=True)
        # what is left of it isn't tried once more when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Lay the workflow out in FOLDER: Snakefile, rules, scripts, configuration, profiles.

    In it `snakemake` runs the demo, and config/ is yours to change. A folder that has one of these
    names is left as it is.
    """
    from looseleaf.layout import lay_out  # noqa: PLC0415 - as above

    with _told():
        names = lay_out(folder)
    click.echo(f"{folder}: {', '.join(names)}\nnext: cd {folder} && snakemake")


@main.command()
@click.option(
    "--configfile",
    "files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="The configuration file that snakemake is given; repeatable.",
)
@click.option("--yes", is_flag=True, help="Remove it without asking.")
def clean(files: tuple[Path, ...], yes: bool) -> None:
    """Find what earlier runs left behind, and remove it.

    In the folder where snakemake runs, with the same --configfile, it shows path, size, age and
    reason of: requests on the ServiceX volume that no results refer to, part files of killed runs,
    checkpoints of analyses that are finished or no longer in the configuration, and temporary
    folders of dead processes. Results are never removed.

    It removes only after a question, or with --yes. What a run holds, what another user owns and
    what is behind a symbolic link stays.
    """
    with _told():
        with needing("workflow"):
            from looseleaf.clean import Present, find_left, remove_left  # noqa: PLC0415 - as above
            from looseleaf.lease import age  # noqa: PLC0415
        present = Present.of(files)
        findings = find_left(present)
        for remark in findings.remarks:
            click.echo(remark, err=True)
        for left in findings.left:
            click.echo(
                f"{left.path}  {readable_size(left.bytes)}, {age(left.since)} old: {left.why}"
            )
        total = readable_size(sum(left.bytes for left in findings.left))
        if not findings.left:
            click.echo("nothing to remove")
            return
        question = f"remove these {len(findings.left)} ({total})?"
        if not yes and not sys.stdin.isatty():
            click.echo(f"{question} --yes does it")
            return
        if not yes and not click.confirm(question):
            return
        failed = 0
        for left, problem in remove_left(present, findings.left):
            if problem:
                failed += 1
                click.echo(f"{left.path}: not removed: {problem}", err=True)
        click.echo(f"removed {len(findings.left) - failed} of {len(findings.left)}")
    sys.exit(1 if failed else 0)


@main.group()
def servicex() -> None:
    """A ServiceX of one's own."""


@servicex.command()
@click.option(
    "--volume", type=click.Path(path_type=Path), required=True, help="The folder for results."
)
@click.option("--subdir", default="transforms", show_default=True, help="Below the volume.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("~/.local/state/looseleaf/servicex"),
    show_default=True,
    help="Where the service remembers requests and its token; on a local disk.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1)
@click.option("--token/--no-token", default=True, help="Who has no token is turned away.")
@click.option("--token-file", type=click.Path(path_type=Path), help="The clients' token.")
@click.option("--certificate", type=click.Path(path_type=Path), help="For TLS, PEM.")
@click.option("--key", type=click.Path(path_type=Path), help="For TLS, PEM.")
@click.option(
    "--catalogue",
    "catalogues",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Datasets that may be asked for by name; repeatable.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="PLACE",
    help="A folder, or scheme://host:port, to read files from; repeatable.",
)
@click.option("--tries", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--seconds", type=click.IntRange(min=1), default=3600, show_default=True)
@click.option("--memory", type=click.IntRange(min=256), default=4096, show_default=True, help="MB.")
@click.option("--unconfined-python", is_flag=True, help="Run Python queries without a jail.")
@click.option(
    "--pods",
    type=click.Path(path_type=Path),
    help="Work in pods on Kubernetes, made of this template.",
)
@click.option("--files-per-pod", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--pending", type=click.IntRange(min=1), default=900, show_default=True)
def serve(
    state: Path, tries: int, seconds: int, memory: int, unconfined_python: bool, **options: Any
) -> None:
    """Run a ServiceX on this machine, results on a volume.

    It serves ServiceX's own client (`servicex.deliver`, with the servicex.yaml that it writes) and
    the workflow (servicex.backend: remote). Ended in whatever way, it goes on where it was when it
    is started again. --tries are those of a file when the network fails or a worker dies,
    --seconds a file's longest time, --memory what a python query may use. Python queries run in a
    jail that bubblewrap makes; without it they are refused, unless --unconfined-python.

    Files are read below the volume, beside a catalogue, at root:// and https:// addresses other
    than this machine's own, and in an object store. --allow adds a folder, a host, or all of a
    scheme (http://*).

    With --pods there are up to --workers pods at a time, each for up to --files-per-pod files of a
    request; one that can't start within --pending seconds is given up. charts/looseleaf-servicex
    sets all of it up.
    """
    confined = not unconfined_python
    with _told():
        with needing("servicex"):
            from looseleaf.servicex.service.engine import TransformLimits  # noqa: PLC0415 - as above
            from looseleaf.servicex.service.serve import Service  # noqa: PLC0415
            from looseleaf.servicex.service.serve import serve as run  # noqa: PLC0415
        limits = TransformLimits(
            tries=tries, seconds=seconds, memory=memory << 20, confined=confined
        )
        run(Service(state=state.expanduser(), limits=limits, **options))


@contextmanager
def _told() -> Iterator[None]:
    """End with 1 and one sentence on an error that is meant for the user."""
    try:
        yield
    except LooseleafError as problem:
        message = str(problem)
    except OSError as problem:
        message = disk.sentence(problem) or str(problem)
    else:
        return
    click.echo(f"error: {message}", err=True)
    sys.exit(1)
