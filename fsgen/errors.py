"""Errors a user can act on: one line that names the object, shows what it holds and gives the edit."""


class FsgenError(Exception):
    """An error in what was given to fsgen; commands print its message and exit with status ``exit_status``."""

    exit_status = 2


class UnknownNameError(FsgenError, LookupError):
    """No model, preset, data source or other registered thing of this name."""


class UnknownOptionError(FsgenError, TypeError):
    """A model or data source does not take this option."""


class InputError(FsgenError, ValueError):
    """A value of the wrong shape, type or range."""


class DataError(FsgenError):
    """A data file or folder is missing, altered or unreadable."""


class CheckpointError(FsgenError):
    """A run folder or checkpoint is torn, altered, locked or of another model."""


class StorageError(FsgenError):
    """A file could not be written: full disk, quota, read-only folder."""

    exit_status = 74


class ToldElsewhereError(FsgenError):
    """Another process of the job has said why all of them end; this one says nothing."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("")
        self.exit_status = exit_status
