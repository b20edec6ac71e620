"""Why a lookup failed, told apart by what the user can do about it."""

from looseleaf.errors import LookupFailed


class QueryWrong(LookupFailed):
    """The query can't be understood; the message shows where, and what is allowed."""

    status = 17


class NoCredential(LookupFailed):
    """The proxy or token is missing, expired or of another VO; the message says what to type."""

    status = 15


class BackendFailed(LookupFailed):
    """A backend's service refused, broke off or answered with something it wasn't asked for."""

    status = 2


class Transient(BackendFailed):
    """A failure that may pass when asked again: a time-out, an overloaded service."""


class CutOff(Transient):
    """An answer that breaks off, though the connection did not."""


class RucioFailed(BackendFailed):
    """Rucio refused or broke off."""

    status = 4
