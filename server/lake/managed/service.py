"""Queries to Deeplake's managed tables: one call with a deadline, tries that back off, and errors that say what to do.

Only `client.query` is used, with parameters. `deeplake.Client` (4.7.4) has a timeout for a socket operation but none for a
call. It repeats nothing, and lets raw errors out. This module makes up for all three. A failure tells whether the statement may have
been carried out all the same (`maybe_done`): then the caller looks before it repeats the statement. The token is never
in a message, a log or a repr.
"""

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError

from autoresearch_mcp.server.addresses import checked_url
from autoresearch_mcp.server.lake.base import LakeUnavailable
from autoresearch_mcp.server.retry import retry_within

ATTEMPT_S = 20.0  # the longest a single try may take
BACKOFF_S = (0.2, 5.0)  # first and longest pause between tries; each is drawn from zero to twice that
_LOOK_S = 0.2  # between looks whether to give up
_DEFAULT_URL = "https://api.deeplake.ai"

Row = dict[str, Any]


class ServiceError(LakeUnavailable):
    """A query failed.

    Attributes:
        maybe_done: whether it may have had its effect.
        retry: whether the same query may succeed later.
        status: of HTTP, or 0.
    """

    def __init__(self, message: str, *, maybe_done: bool = False, retry: bool = False, status: int = 0) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done
        self.retry = retry
        self.status = status


class Service:
    """One workspace, reached with one token. Thread-safe."""

    def __init__(self, token: str, workspace: str = "default", org_id: str = "", api_url: str = "") -> None:
        self._token = token
        self._org_id = org_id
        self._url = checked_url(api_url or _DEFAULT_URL, "DEEPLAKE_API_URL")
        self._client: Any = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.workspace = workspace

    @classmethod
    def from_environment(cls, workspace: str) -> "Service":
        """Make the service from DEEPLAKE_API_KEY, DEEPLAKE_ORG_ID and DEEPLAKE_API_URL.

        Args:
            workspace: its name; where it is empty, DEEPLAKE_WORKSPACE or "default".

        Raises:
            LabError: `bad_settings`.
        """
        token = os.environ["DEEPLAKE_API_KEY"].strip()
        named = workspace or os.environ.get("DEEPLAKE_WORKSPACE", "").strip() or "default"
        return cls(token, named, os.environ.get("DEEPLAKE_ORG_ID", "").strip(), os.environ.get("DEEPLAKE_API_URL", "").strip())

    def query(self, sql: str, params: Sequence[Any] = (), *, within_s: float, reads: bool = True) -> list[Row]:
        """Run one statement, and repeat it after a passing failure.

        Args:
            sql: with places `$1`, `$2`, ...
            params: for the places.
            within_s: seconds for all tries together.
            reads: whether it only reads. Another is repeated only when it surely had no effect.

        Returns:
            Its rows, by column name.

        Raises:
            ServiceError: within about `within_s`.
        """
        deadline = time.monotonic() + within_s

        def attempt() -> list[Row]:
            left_s = min(ATTEMPT_S, deadline - time.monotonic())
            return self._within(left_s, lambda: self._try(sql, params, left_s))

        def may_help(error: BaseException) -> bool:
            return isinstance(error, ServiceError) and error.retry and (reads or not error.maybe_done)

        return retry_within(attempt, may_help, BACKOFF_S, within_s, self._closing)

    def close(self) -> None:
        """Make queries that wait in other threads fail now."""
        self._closing.set()

    def ping(self) -> float:
        """Return the seconds that the smallest query takes.

        Raises:
            ServiceError: as `query`.
        """
        began = time.perf_counter()
        self.query("SELECT 1 AS one", within_s=ATTEMPT_S)
        return time.perf_counter() - began

    def _try(self, sql: str, params: Sequence[Any], left_s: float) -> list[Row]:
        try:
            rows = self._connected().query(sql, tuple(params), timeout=max(1, math.ceil(left_s)))
        except ImportError as error:
            raise ServiceError("The package deeplake is not installed or does not fit this platform: see the README.") from error
        except Exception as error:
            raise self._translated(error) from None  # the chain holds requests, and requests hold the token
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise ServiceError("Deeplake's answer had no rows in it; it is not as documented.", maybe_done=True, retry=True)
        return rows

    def _within(self, seconds: float, call: Callable[[], list[Row]]) -> list[Row]:
        """Return the call's outcome, or fail after `seconds`. A thread that hangs is left behind, and ends with the process."""
        outcome: queue.SimpleQueue[list[Row] | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put(call())
            except BaseException as error:
                outcome.put(error)

        threading.Thread(target=work, daemon=True, name="deeplake").start()
        deadline = time.monotonic() + max(0.05, seconds)
        while True:
            try:
                result = outcome.get(timeout=min(_LOOK_S, max(0.0, deadline - time.monotonic())))
                break
            except queue.Empty:
                if self._closing.is_set() or time.monotonic() >= deadline:
                    raise ServiceError("Deeplake did not answer in time.", maybe_done=True, retry=True) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                from deeplake.managed import Client

                self._client = Client(token=self._token, workspace_id=self.workspace, api_url=self._url, org_id=self._org_id or None)
            return self._client

    def _translated(self, error: BaseException) -> ServiceError:
        """Make our error for one of the client's. Its own errors are all alike, but they keep their causes."""
        chain = [error]
        while chain[-1].__cause__ is not None and len(chain) < 8:
            chain.append(chain[-1].__cause__)
        for cause in chain:
            if isinstance(cause, HTTPError):
                cause.close()  # the client leaves it open
                return self._by_status(cause.code, self._text(error))
        if any(isinstance(cause, TimeoutError) or "timed out" in str(cause) for cause in chain):
            return ServiceError("Deeplake did not answer in time.", maybe_done=True, retry=True)
        if any(type(cause).__name__ == "TokenError" for cause in chain):
            return ServiceError(
                "DEEPLAKE_API_KEY names no organisation: set DEEPLAKE_ORG_ID, or use a token of the form that the Deeplake web app gives."
            )
        unsent = any(isinstance(cause, URLError) for cause in chain)  # urllib wraps so what fails before the request is out
        if unsent or any(isinstance(cause, OSError | HTTPException) for cause in chain):
            return ServiceError(f"Deeplake can't be reached at {self._url} ({self._text(chain[-1])}).", maybe_done=not unsent, retry=True)
        return ServiceError(
            f"Deeplake's answer could not be understood ({type(error).__name__}); it is not as documented.", maybe_done=True, retry=True
        )

    def _by_status(self, status: int, reason: str) -> ServiceError:
        match status:
            case 401:
                text = "Deeplake refused the token (401): DEEPLAKE_API_KEY is wrong or has expired. Set a valid one"
            case 403:
                text = f"The Deeplake token may not use the workspace {self.workspace!r} (403). Use another token, or another DEEPLAKE_WORKSPACE"
            case 402:
                text = "The Deeplake organisation is out of credits (402). Add credits in Deeplake's web app"
            case 429:
                return ServiceError("Deeplake is asked too often (429).", retry=True, status=429)
            case _ if status >= 500:
                return ServiceError(f"Deeplake is out of order ({status}).", maybe_done=True, retry=True, status=status)
            case _:
                return ServiceError(f"Deeplake refused a statement ({status}): {reason}", status=status)
        return ServiceError(f"{text}; until then new records wait, safe, in the ledger.", status=status)

    def _text(self, error: BaseException) -> str:
        text = " ".join(str(error).split()).removeprefix("Query failed: ").removeprefix("API request failed: ")
        return (text.replace(self._token, "***") or type(error).__name__)[:300]
