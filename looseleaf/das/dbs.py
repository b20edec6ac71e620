"""The backend `dbs`: the DBS reader over HTTPS, with a proxy or a token and no other program."""

import math
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import urllib3

from looseleaf.das.answers import rows_of
from looseleaf.das.problems import BackendFailed, CutOff, NoCredential, Transient
from looseleaf.das.proxy import MAKE_ONE, Credential, certificates, credential
from looseleaf.das.query import Runs
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    LumiRecord,
    Record,
    SummaryRecord,
    file_record,
    numbers,
    text,
    whole_number,
)
from looseleaf.retries import Retries

FILE_KEYS = {"name": "logical_file_name", "bytes": "file_size", "events": "event_count"}
# overloaded, or a part behind the front end is restarting
TRANSIENT = (429, 502, 503, 504)
# seconds before the second try
BACKOFF = 0.5
# bytes of an answer that are read at a time
READ = 1 << 20
SUMMARY_KEYS = {
    "files": "num_file",
    "events": "num_event",
    "blocks": "num_block",
    "lumis": "num_lumi",
    "bytes": "file_size",
}


class Dbs:
    """Asks the DBS reader of an instance (prod/global) at a host (https://...).

    Failed connections, time-outs, broken-off answers and the statuses in `TRANSIENT` are asked
    again, `tries` times in all, with growing pauses; everything else fails at once. An answer has
    to begin within `timeout` seconds, and to end within as many. At most `parallel` connections
    are open at a time.
    """

    name = "dbs"
    answers = frozenset({"file", "dataset", "block", "summary", "file,run,lumi"})
    narrows = frozenset({"run"})

    def __init__(self, host: str, instance: str, timeout: float, tries: int, parallel: int) -> None:
        self.base = f"{host.rstrip('/')}/dbs/{instance}/DBSReader"
        self.timeout = timeout
        self.tries = tries
        self.parallel = parallel

    @cached_property
    def _credential(self) -> Credential:
        return credential()

    def check(self) -> None:
        """Raise `NoCredential` if there is neither a proxy nor a token that DBS would accept."""
        # threads are to find it made
        _ = self._pool

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        context = ssl.create_default_context(capath=certificates())
        context.load_default_certs()
        headers = {"Accept": "application/json", "User-Agent": "looseleaf"}
        if self._credential.proxy:
            context.load_cert_chain(self._credential.proxy)
        else:
            headers["Authorization"] = f"Bearer {self._credential.token}"
        return urllib3.PoolManager(
            maxsize=self.parallel,
            block=True,
            ssl_context=context,
            headers=headers,
            timeout=self.timeout,
            retries=urllib3.Retry(
                self.tries - 1,
                # no other host gets the credential, and TLS refuses for good
                redirect=False,
                other=0,
                backoff_factor=BACKOFF,
                # a server may ask for a pause of hours
                retry_after_max=math.ceil(self.timeout),
                status_forcelist=TRANSIENT,
                raise_on_status=False,
            ),
        )

    def _get(self, api: str, **parameters: str) -> list[dict[str, Any]]:
        """The rows of an answer; one that comes whole but is cut off is asked for again."""
        retries = Retries(CutOff, tries=self.tries, pause=BACKOFF)
        return retries.call(lambda: self._get_once(api, **parameters))

    def _get_once(self, api: str, **parameters: str) -> list[dict[str, Any]]:
        asked = f"DBS {api} of {next(iter(parameters.values()))}"
        url = f"{self.base}/{api}/"
        try:
            answer = self._pool.request("GET", url, fields=parameters, preload_content=False)
        except urllib3.exceptions.HTTPError as problem:
            raise self._unanswered(problem, asked) from None
        content = self._content(answer, asked).decode(errors="replace")
        body = self._credential.without_secrets(content)
        if answer.status != 200:
            raise self._refused(answer.status, body, asked)
        rows = rows_of(body, asked)
        if len(rows) == 1 and "error" in rows[0]:
            raise self._refused(answer.status, body, asked)
        return rows

    def _content(self, answer: urllib3.BaseHTTPResponse, asked: str) -> bytes:
        """The whole of an answer; one that goes on and on, or breaks off, is `CutOff`.

        The pool's own time-out is of each read, which a byte now and then keeps waiting for ever.
        """
        parts, end = [], time.monotonic() + self.timeout
        try:
            # only a read of so many bytes notices that fewer came than were announced
            while part := answer.read1(READ):
                parts.append(part)
                if time.monotonic() > end:
                    answer.close()
                    raise CutOff(
                        f"{asked}: the answer of {self.base} was not whole after {self.timeout:g} "
                        "s; das.timeout (--timeout) gives it more"
                    )
        except urllib3.exceptions.HTTPError as problem:
            answer.close()
            words = self._credential.without_secrets(str(problem.args[-1]))
            raise CutOff(f"{asked}: the answer of {self.base} broke off: {words}") from None
        answer.release_conn()
        return b"".join(parts)

    def _refused(self, status: int, body: str, asked: str) -> Exception:
        """The exception for an answer that isn't the one asked for, in DBS's own words."""
        try:
            row = rows_of(body, asked)[0]
            error = row.get("error")
            words = error.get("reason") if isinstance(error, dict) else error
            reason = str(row.get("message") or words or "")
        except (BackendFailed, IndexError):
            reason = body.strip()[:200]
        if status in (401, 403):
            return NoCredential(
                f"{asked}: {self.base} doesn't accept the credential ({status}: {reason}); is the "
                f"proxy or token of the VO cms? type: {MAKE_ONE}"
            )
        if 300 <= status < 400:
            return BackendFailed(
                f"{asked}: {self.base} redirects ({status}), as it does to a login page; "
                "das.host should be the address for X.509, https://cmsweb.cern.ch:8443"
            )
        kind = Transient if status in TRANSIENT else BackendFailed
        tried = f" after {self.tries} tries" if kind is Transient else ""
        return kind(f"{asked}: {self.base} answered {status}{tried}: {reason or 'no reason given'}")

    def _unanswered(self, problem: Exception, asked: str) -> Exception:
        """The exception for an answer that never came."""
        cause = getattr(problem, "reason", None) or problem
        words = self._credential.without_secrets(str(cause))
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return BackendFailed(
                f"{asked}: the certificate of {self.base} can't be trusted: its authority is not "
                "among those in X509_CERT_DIR, /etc/grid-security/certificates or the system's; "
                f"name the folder with CERN's in X509_CERT_DIR ({words})"
            )
        if isinstance(cause, urllib3.exceptions.SSLError) or "alert" in words:
            return NoCredential(
                f"{asked}: {self.base} refused the proxy: is it from an authority that it "
                f"trusts? ({words}); type: {MAKE_ONE}"
            )
        return Transient(f"{asked}: no answer from {self.base} in {self.tries} tries: {words}")

    def records(
        self,
        field: str,
        dataset: str,
        status: str,
        runs: Runs | None = None,
        site: str | None = None,
    ) -> list[Record]:
        """The records of a dataset (for `dataset`: of those that match) in one call.

        `file,run,lumi` takes a call for each block besides.
        """
        source = f"DBS {self.base}"
        match field:
            case "file":
                key = "block_name" if "#" in dataset else "dataset"
                more = {} if runs is None else {"run_num": _run_num(runs)}
                rows = self._get("files", **{key: dataset}, detail="True", **more)
                return [file_record(row, FILE_KEYS, source) for row in rows]
            case "dataset":
                rows = self._get("datasets", dataset=dataset, dataset_access_type=status)
                return [DatasetRecord(text(row, "dataset", source), status) for row in rows]
            case "block":
                rows = self._get("blocks", dataset=dataset, detail="True")
                return [
                    BlockRecord(
                        text(row, "block_name", source),
                        whole_number(row, "block_size", source),
                        whole_number(row, "file_count", source),
                    )
                    for row in rows
                ]
            case "summary":
                rows = self._get("filesummaries", dataset=dataset, validFileOnly="1")
                summaries = [
                    SummaryRecord(
                        **{
                            name: whole_number(row, key, source)
                            for name, key in SUMMARY_KEYS.items()
                        }
                    )
                    for row in rows
                ]
                # DBS sums up what it doesn't know to nothing
                return [record for record in summaries if record.files]
            case _:
                return self._lumis(dataset, source)

    def _lumis(self, dataset: str, source: str) -> list[Record]:
        records = self.records("block", dataset, "")
        blocks = [record.name for record in records if isinstance(record, BlockRecord)]
        with ThreadPoolExecutor(self.parallel) as threads:
            answers = threads.map(lambda name: self._get("filelumis", block_name=name), blocks)
            rows = [row for answer in answers for row in answer]
        sections: dict[tuple[str, tuple[int, ...]], set[int]] = {}
        for row in rows:
            key = (text(row, "logical_file_name", source), numbers(row, "run_num", source))
            sections.setdefault(key, set()).update(numbers(row, "lumi_section_num", source))
        return [
            LumiRecord(file, runs, tuple(sorted(lumis))) for (file, runs), lumis in sections.items()
        ]


def _run_num(runs: Runs) -> str:
    """Runs as DBS takes them: one, first-last, or a list."""
    if isinstance(runs, range):
        return f"{runs[0]}-{runs[-1]}"
    return str(runs[0]) if len(runs) == 1 else f"[{','.join(map(str, runs))}]"
