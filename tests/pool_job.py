"""A processing job for the pool, which tests disturb: pool_job.py FOLDER MANIFEST.

It processes the manifest at the site of FOLDER/site.json, waiting in each chunk for FOLDER/gate,
and writes FOLDER/result.json.
"""

import json
import sys
from pathlib import Path

from processors import Traced

from looseleaf.cluster import client_for
from looseleaf.doorway import doorway
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits

folder, manifest = Path(sys.argv[1]), sys.argv[2]
with doorway(str(folder / "log")):
    settings = json.loads((folder / "site.json").read_text())
    with client_for(settings, 2, folder / "workers") as site:
        processor = Traced(folder / "journal", gate=folder / "gate")
        results = run(
            processor, [from_manifest("q", manifest, {})], site, Limits(500, 500), "job",
            folder / "kept",
        )  # fmt: skip
    (folder / "result.json").write_text(
        json.dumps(
            {
                "bits": results["q"].accumulator["pt"].view(flow=True).tobytes().hex(),
                "ledger": results["q"].ledger,
            }
        )
    )
