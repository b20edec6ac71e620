"""The command `looseleaf`: what people type beside snakemake."""

import sys
import time

import click

from looseleaf import __version__
from looseleaf.errors import LookupFailed, LooseleafError

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
conditions: block=, status= (VALID), instance= (prod/global).

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
    from looseleaf.das import shapes  # noqa: PLC0415 - `looseleaf --help` is quick without
    from looseleaf.das.ask import Asking, ask  # noqa: PLC0415
    from looseleaf.das.query import parse  # noqa: PLC0415

    started = time.time()
    settings = {key: value for key, value in given.items() if value is not None}
    try:
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
        click.echo(text)
