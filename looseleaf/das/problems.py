"""Why a lookup failed, told apart by what the user can do about it."""

from looseleaf.errors import LookupFailed


class QueryWrong(LookupFailed):
    """The query can't be understood; the message shows where and what is allowed."""

    status = 17


class NoCredential(LookupFailed):
    """Proxy or token is missing, has run out or is of another VO; the message says what to type."""

    status = 15


class ServiceFailed(LookupFailed):
    """A service refused, broke off or answered with something else than was asked for."""

    status = 2


class Transient(ServiceFailed):
    """A failure that may pass when asked again: a time-out, an overloaded service."""


class CutOff(Transient):
    """An answer that breaks off, though the connection did not."""


class RucioFailed(ServiceFailed):
    """Rucio refused or broke off."""

    status = 4
