"""Keys that a cluster is made with: who doesn't hold them can't speak to it.

Dask runs the functions that it is sent. On a machine with other accounts, or within a pool, its
scheduler and workers therefore speak by TLS alone, and take only who shows the certificate that was
made for this one cluster. Keys stand in memory, or in a folder that only its owner may open.
"""

from pathlib import Path

from distributed.security import Security

from looseleaf.files import write_private

CERTIFICATE, KEY = "cluster.crt", "cluster.key"


def in_memory() -> Security:
    """Keys for a cluster whose workers are children of this process, and are handed them."""
    keys: Security = Security.temporary()
    return keys


class FileKeys(Security):
    """Keys for a cluster whose workers read them from files.

    `folder` is made, open to its owner alone, and holds the certificate, which is its own
    authority, and its key. Workers look for them in `folder`, or, if the batch system brings them
    along (`carried`), where they start.
    """

    def __init__(self, folder: Path, carried: bool = False) -> None:
        folder.mkdir(mode=0o700)
        self._carried = carried
        own = Security.temporary().get_tls_config_for_role("scheduler")
        self.certificate, self.key = str(folder / CERTIFICATE), str(folder / KEY)
        write_private(folder / CERTIFICATE, own["ca_file"])
        write_private(folder / KEY, own["key"])
        both: dict[str, str] = {}
        for role in ("client", "scheduler", "worker"):
            both |= {f"tls_{role}_cert": self.certificate, f"tls_{role}_key": self.key}
        super().__init__(require_encryption=True, tls_ca_file=self.certificate, **both)

    def get_tls_config_for_role(self, role: str) -> dict[str, object]:
        config: dict[str, object] = super().get_tls_config_for_role(role)
        if role == "worker" and self._carried:
            config |= {"ca_file": CERTIFICATE, "cert": CERTIFICATE, "key": KEY}
        return config
