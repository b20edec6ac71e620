"""A processing job, which tests disturb: pool_job.py FOLDER MANIFEST [SECONDS].

It processes the manifest at the site of FOLDER/site.json and writes FOLDER/result.json. In each
chunk it waits for FOLDER/gate, or, where SECONDS are given, for up to so long at random.
"""

import json
import sys
from pathlib import Path

from processors import Traced, Uneven

from looseleaf.cluster import client_for
from looseleaf.doorway import doorway
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits

folder, manifest, *longest = Path(sys.argv[1]), *sys.argv[2:]
with doorway(str(folder / "log")):
    settings = json.loads((folder / "site.json").read_text())
    with client_for(settings, 2, folder / "workers") as site:
        if longest:
            processor, limits = Uneven(float(longest[0])), Limits(50, 50)
        else:
            processor = Traced(folder / "journal", gate=folder / "gate")
            limits = Limits(500, 500)
        fileset = from_manifest("q", manifest, {})
        results = run(processor, [fileset], site, limits, "job", folder / "kept")
    (histogram,) = (h for h in results["q"].accumulator.values() if hasattr(h, "view"))
    (folder / "result.json").write_text(
        json.dumps(
            {
                "bits": histogram.view(flow=True).tobytes().hex(),
                "ledger": results["q"].ledger,
            }
        )
    )
