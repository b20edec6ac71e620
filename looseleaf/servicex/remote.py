"""The remote backend: a ServiceX in the client's configuration."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servicex.configuration import Configuration
from servicex.servicex_adapter import ServiceXAdapter

from looseleaf.errors import ConfigError
from looseleaf.servicex.request import Request
from looseleaf.servicex.submission import Endpoint


@dataclass(frozen=True)
class Remote:
    """A ServiceX by its name in servicex.yaml (None: the default there).

    `mount` is the local folder of its volume, None if it isn't mounted.
    """

    endpoint: str | None = None
    mount: Path | None = None
    name = "remote"

    @contextmanager
    def service(self, request: Request, folder: Path) -> Iterator[Endpoint]:
        """The service; `ConfigError` if servicex.yaml doesn't have it."""
        try:
            configuration = Configuration.read()
        except (NameError, ValueError, OSError) as problem:
            raise ConfigError(
                f"servicex.backend: remote: no usable servicex.yaml: {problem}"
            ) from None
        known = configuration.endpoint_dict()
        name = self.endpoint or configuration.default_endpoint or next(iter(known))
        if name not in known:
            raise ConfigError(
                f"servicex.endpoint: {name!r} is not in {configuration.config_file}: "
                f"{', '.join(known)}"
            )
        url = known[name].endpoint
        yield Endpoint(ServiceXAdapter(url, refresh_token=known[name].token), url, self.mount)
