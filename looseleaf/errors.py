"""The errors a user is meant to read: what is wrong, where, and what to do about it."""


class LooseleafError(Exception):
    """Base of all errors whose message is written for the user."""


class ConfigError(LooseleafError):
    """The configuration is wrong; the message names file, key, value and what is allowed."""


class DataFileError(LooseleafError):
    """A data file can't be used; the message names the file and what is the matter with it."""


class ReadFailed(DataFileError):
    """A file elsewhere can't be read just now: another try, or another address, may do."""


class LookupFailed(LooseleafError):
    """A dataset's files could not be found; `status` is what the command `looseleaf das` ends with.

    The numbers are dasgoclient's where it has one.
    """

    status = 1


class Shortfall(LooseleafError):
    """Less was processed than expected; the message names what is missing."""


class ServiceFailed(LooseleafError):
    """A ServiceX refused a request, or can't be reached; the message says which and why."""
