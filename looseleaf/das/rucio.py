"""The backend `rucio`: files, replicas and sites, by the client of coffea's dataset tools."""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

from looseleaf.das.problems import RucioFailed
from looseleaf.das.proxy import Credential, credential
from looseleaf.das.query import Runs
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    Record,
    SiteRecord,
    file_record,
    only_valid,
)
from looseleaf.errors import LookupFailed, LooseleafError

SCOPE = "cms"
FILE_KEYS = {"name": "name", "bytes": "bytes", "events": "events"}
# coffea asks for as much
NEEDED = timedelta(hours=1)
ON_CVMFS = "/cvmfs/cms.cern.ch/rucio/current"


class Rucio:
    """Asks CMS's Rucio, whose address stands in the configuration below RUCIO_HOME.

    Each of its client's requests takes at most `timeout` seconds without a byte; what fails on the
    way is asked again by the client itself.
    """

    name = "rucio"
    answers = frozenset({"file", "dataset", "block", "site"})
    narrows = frozenset({"site"})

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    @cached_property
    def _credential(self) -> Credential:
        return credential(needed=NEEDED, tokens=False)

    def check(self) -> None:
        """Raise `LookupFailed` if the client, its configuration or the proxy is missing."""
        if importlib.util.find_spec("rucio") is None:
            raise LookupFailed("rucio-clients is not installed; type: pip install rucio-clients")
        if not os.path.isfile(f"{os.environ.get('RUCIO_HOME', ON_CVMFS)}/etc/rucio.cfg"):
            raise LookupFailed(f"there is no etc/rucio.cfg in RUCIO_HOME, nor in {ON_CVMFS}")
        _ = self._credential

    @cached_property
    def _client(self) -> Any:
        from coffea.dataset_tools.rucio_utils import get_rucio_client  # noqa: PLC0415 - optional

        with _failing_as_rucio("Rucio", self._credential):
            client = get_rucio_client(proxy=self._credential.proxy)
        client.timeout = self.timeout
        return client

    def records(
        self,
        field: str,
        dataset: str,
        status: str,
        runs: Runs | None = None,
        site: str | None = None,
    ) -> list[Record]:
        """The records of a dataset, for `dataset` of the containers that match.

        Rucio knows no numbers of events, no invalid files and not the block of a file, except where
        files of a block are asked for. Raises `QueryWrong` for datasets of another status than
        VALID, of which it knows nothing.
        """
        only_valid(status, self.name)
        from coffea.dataset_tools.rucio_utils import query_dataset  # noqa: PLC0415 - optional

        client = self._client
        with _failing_as_rucio(f"Rucio: {field} of {dataset}", self._credential):
            match field:
                case "file":
                    rows = list(client.list_files(SCOPE, dataset))
                    block = {"block_name": dataset} if "#" in dataset else {}
                    if site is not None:
                        held = self._held(dataset)
                        rows = [row for row in rows if site in held.get(row["name"], ())]
                    return [file_record({**row, **block}, FILE_KEYS, "Rucio") for row in rows]
                case "dataset":
                    names = query_dataset(dataset, client=client, scope=SCOPE)
                    return [DatasetRecord(name) for name in names]
                case "block":
                    rows = list(client.list_content(SCOPE, dataset))
                    return [BlockRecord(row["name"]) for row in rows]
                case _:
                    return self._sites(dataset)

    def _sites(self, dataset: str) -> list[Record]:
        """The sites of a dataset by the share of its files that they have whole."""
        files = {row["name"] for row in self._client.list_files(SCOPE, dataset)}
        whole = self._held(dataset)
        held = Counter(site for name in files for site in whole.get(name, ()))
        return [
            SiteRecord(site, round(100 * count / len(files), 2))
            for site, count in held.most_common()
        ]

    def _held(self, dataset: str) -> dict[str, list[str]]:
        """The sites that have a file whole, by its name."""
        replicas = self._client.list_replicas([{"scope": SCOPE, "name": dataset}], all_states=True)
        return {
            row["name"]: [site for site, state in row["states"].items() if state == "AVAILABLE"]
            for row in replicas
        }


@contextmanager
def _failing_as_rucio(asked: str, used: Credential) -> Iterator[None]:
    """Turn whatever the client raises into a `RucioFailed` saying what was asked."""
    try:
        yield
    except LooseleafError:
        raise
    except Exception as problem:
        said = used.without_secrets(str(problem)).strip()
        words = (said.splitlines() or ["no message"])[0]
        raise RucioFailed(f"{asked}: {type(problem).__name__}: {words[:300]}") from None
