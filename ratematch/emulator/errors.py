"""Why an emulated server does not start, or does not run a request; each engine answers them in its own form."""

from __future__ import annotations


class SettingsError(Exception):
    """The server must not start; the message is what its log shows."""


class LoadFailure(Exception):
    """The model could not be loaded; the process ends with status 1."""


class BadRequest(Exception):
    """The body of a request does not pass validation."""


class Refused(Exception):
    """A well-formed request that this server cannot run. ``status``, ``kind``, ``param``: of the error it gets."""

    def __init__(self, message: str, status: int = 400, kind: str = "BadRequestError", param: str | None = None):
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param


class TransferError(Exception):
    """The KV cache of a request cannot be fetched; the request fails."""
