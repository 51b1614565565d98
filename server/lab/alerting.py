"""Alerts by webhook: notices what people should hear of, and sends it from the ledger's outbox. docs/alerts.md describes the messages.

A thread of each server and of the runner does it, so no call ever waits for it. All of one lab share the work, and each alert is sent once;
only a process that dies while it sends makes one arrive twice. Without webhooks in lab.toml, nothing is looked at.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server import __version__
from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.awaited import used
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.lab.news import NewsCases
from autoresearch_mcp.server.ledger.alerts import Alert, Delivery
from autoresearch_mcp.server.retry import pause_s
from autoresearch_mcp.server.runner import health
from autoresearch_mcp.server.settings.alerts import Webhook
from autoresearch_mcp.server.untrusted import one_line

if TYPE_CHECKING:
    from http.client import HTTPConnection

LOOK_S = 30.0  # between two looks at a lab whose ledger doesn't change
TICK_S = 2.0
_TIMEOUT_S = 10.0
_AT_ONCE = 20
_LEASE_S = _AT_ONCE * _TIMEOUT_S + 40.0  # after which another server may send what this one took
_RETRY_S = (5.0, 900.0)
_GIVE_UP_S = 86_400.0
_LATE_S = 300.0  # a record that isn't in the shared log by then is an alert
_STATUS = "the answer's status was"
_MOST = 1_500  # characters of a text; Discord takes 2,000
_TITLES = {
    "promotion": "New champion",
    "approval": "Approval wanted",
    "stalled": "The search is stuck",
    "budget": "Budget",
    "trouble": "Trouble",
    "ended": "The budget is used up",
    "test": "Test",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A webhook, as it may be shown.

    Attributes:
        form: of its messages.
        where: the variable that holds its address, or that lab.toml does.
        kinds: of alerts that it is told.
        waiting: how many it still has to be sent.
        state: whether this process can send there; of a test, what became of it.
        is_well: whether that is a good state.
    """

    form: str
    where: str
    kinds: tuple[str, ...]
    waiting: int
    state: str
    is_well: bool


class Alerting:
    """Notices and sends. Thread-safe, as it keeps nothing but its thread.

    Args:
        core: the lab's stores.
        status: reads the lab's status.
    """

    def __init__(self, core: LabCore, status: Callable[[], a.StatusAnswer]) -> None:
        self._core = core
        self._status = status
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._looked: tuple[int, float] = (-1, 0.0)  # the ledger's version, and when

    def start(self) -> None:
        """Start to look and send, beside everything else, until `stop`."""
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. What is not sent stays in the ledger."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def approval_wanted(self, commit: str, champion: str, author: str, reason: str) -> None:
        """Tell that a promotion waits for a person's yes."""
        text = (
            f"{author} asks to promote {commit[:12]} over {champion[:12]}. {reason} Say yes with `autoresearch-mcp approve {commit[:12]}`."
        )
        self._add("approval", f"approval {champion} {commit}", text)

    def places(self, test: bool = False) -> list[Place]:
        """Return where alerts go.

        Args:
            test: whether to send each place a message now, which is no alert and is not tried again.

        Raises:
            LabError: the ledger's own.
        """
        waiting = self._core.ledger.waiting_deliveries()
        places = []
        for hook in self._core.settings.alerts.webhooks:
            where = f"the address in {hook.url}" if hook.url.startswith("$") else "the address in lab.toml"
            is_well, state = hook.is_ready, "can be sent to from here"
            if not is_well:
                state = f"can't be sent to from here: {hook.lacks} is missing{'' if hook.address else ' or no https address'}"
            elif test:
                now = time.time()
                said = Alert(f"test {now}", "test", "This is a test: alerts of this lab arrive here.", now)
                why = _post(hook.address, *message(hook, self._core.settings.lab.name, said))
                is_well, state = not why, f"the test failed: {why}" if why else "the test arrived"
            places.append(Place(hook.form, where, tuple(hook.on), waiting.get(_target(hook), 0), state, is_well))
        return places

    def tick(self) -> None:
        """Notice what is new, and send what is due.

        Raises:
            LabError: the ledger's own.
        """
        if not self._core.settings.alerts.webhooks:
            return
        version, now = self._core.ledger.changes(), time.monotonic()
        if version != self._looked[0] or now - self._looked[1] >= LOOK_S:
            self._looked = version, now
            for kind, key, text in self._noticed():
                self._add(kind, key, text)
        ready = {_target(hook): hook for hook in self._core.settings.alerts.webhooks if hook.is_ready}
        silent = set[str]()  # a place that doesn't answer holds up the others once, and not for each of its alerts
        for delivery in self._core.ledger.take_deliveries(_LEASE_S, _AT_ONCE, [*ready], time.time() - _GIVE_UP_S):
            if delivery.target in silent:
                self._core.ledger.postpone_delivery(delivery, pause_s(_RETRY_S, delivery.tries))
            elif not self._deliver(delivery, ready.get(delivery.target)):
                silent.add(delivery.target)

    def _work(self) -> None:
        while not self._ended.wait(TICK_S):
            try:
                self.tick()
            except Exception as error:  # the lab goes on without them
                if self._ended.is_set():  # the stores are closed
                    return
                _log.warning("Alerts are looked at again later: %s", error, exc_info=not isinstance(error, LabError))

    def _add(self, kind: str, key: str, text: str) -> None:
        webhooks = [hook for hook in self._core.settings.alerts.webhooks if kind in hook.on]
        if webhooks and not self._core.ledger.has_alert(key):
            text = one_line(mask_paths(text, self._core.root), _MOST)
            self._core.ledger.add_alert(Alert(key, kind, text, time.time()), [_target(hook) for hook in webhooks])

    def _noticed(self) -> Iterator[tuple[str, str, str]]:
        """Yield the kind, the key and the text of all that is to be told now. What was told before may be among it."""
        ledger, status = self._core.ledger, self._status()
        began = ledger.alerts_began()
        words = NewsCases(self._core)
        for promotion in ledger.promotions():
            key = f"promotion {promotion.id}"
            if promotion.created_at >= began and not ledger.has_alert(key):
                yield "promotion", key, words.promotion_in_words(promotion)
        search = status.search
        if search is not None and search.state != "searching":
            text = f"{search.trainings} trainings of {search.commits} commits since the last promotion; {search.failed:.0%} of the last ones failed."
            yield "stalled", f"{search.state} {status.champion.commit}", f"The search is {search.state}: {text}"
        yield from _budget(status)
        yield from self._trouble(status)

    def _trouble(self, status: a.StatusAnswer) -> Iterator[tuple[str, str, str]]:
        open_ = [*status.running, *status.queued]
        if status.runner:
            for text in health.tell(self._core.state)[0]:
                # Words without numbers: how long it has lasted changes, and is the same trouble.
                yield "trouble", f"runner {_day()} {''.join(each for each in text if not each.isdigit())[:300]}", text
        elif open_ and not self._core.ledger.paused_at():
            yield (
                "trouble",
                f"no runner {_day()} {open_[0].id}",
                f"{len(open_)} trainings wait, and no runner works at them. `autoresearch-mcp doctor` says why.",
            )
        since = self._core.ledger.waiting_since()
        if since is not None and time.time() - since > _LATE_S:
            yield (
                "trouble",
                f"lake {_day()}",
                f"Records have waited for more than {_LATE_S / 60:.0f} minutes to get into the shared log. None is lost.",
            )

    def _deliver(self, delivery: Delivery, hook: Webhook | None) -> bool:
        """Send an alert to a place, or put it off, or give it up. Return whether the place answered."""
        ledger, is_answered = self._core.ledger, True
        if hook is None:
            why = "for a day its webhook wasn't in lab.toml, or no server had the variables that it names"
        else:
            why = _post(hook.address, *message(hook, self._core.settings.lab.name, delivery.alert))
            is_answered = not why or why.startswith(_STATUS)
        if not why or time.time() - delivery.alert.at > _GIVE_UP_S:
            ledger.delivered(delivery)
        else:
            ledger.postpone_delivery(delivery, pause_s(_RETRY_S, delivery.tries))
        if why:
            _log.warning("An alert of the kind %s can't be sent: %s.", delivery.alert.kind, why)
        return is_answered


def message(hook: Webhook, lab: str, alert: Alert) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers in which an alert is sent. JSON is signed as Standard Webhooks are, where there is a secret."""
    title = f"{lab}: {_TITLES.get(alert.kind, alert.kind)}"
    id = "alert_" + hashlib.sha256(alert.key.encode()).hexdigest()[:24]
    headers = {"Content-Type": "application/json", "User-Agent": f"autoresearch-mcp/{__version__}"}
    content: dict[str, Any]
    match hook.form:
        case "slack":
            safe = f"{title}\n{alert.text}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            content = {"text": safe}
        case "discord":
            content = {"content": f"{title}\n{alert.text}", "allowed_mentions": {"parse": []}, "flags": 4}  # no previews of links
        case _:
            content = {"type": alert.kind, "id": id, "timestamp": round(alert.at), "lab": lab, "title": title, "text": alert.text}
    body = json.dumps(content).encode()
    if hook.key:
        stamp = str(int(time.time()))
        signature = hmac.new(hook.key, f"{id}.{stamp}.".encode() + body, "sha256").digest()
        headers |= {"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": f"v1,{base64.b64encode(signature).decode()}"}
    return body, headers


def _budget(status: a.StatusAnswer) -> Iterator[tuple[str, str, str]]:
    budget, money = status.budget, status.budget.usd
    parts = [("device hours", budget.spent_s / 3600, budget.total_s / 3600)]
    parts += [("USD", money.spent, money.total)] if money else []
    for part in parts:
        for key, text in used(*part):
            yield "budget", f"budget {key}", text
    if status.training is not None and status.training.left == 0 and not status.running and not status.queued:
        limits = " ".join(f"{total:g}" for _, _, total in parts)
        yield (
            "ended",
            f"ended {limits}",
            f"Nothing runs, and no training fits the rest of the budget. Champion: {status.champion.commit[:12]}.",
        )


def _post(url: str, body: bytes, headers: dict[str, str]) -> str:
    """Send a message. Returns why it didn't arrive, without the address; empty if it did. Follows no redirect."""
    import http.client
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    if parts.username is not None:
        named = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = headers | {"Authorization": f"Basic {base64.b64encode(named.encode()).decode()}"}
    late = threading.Event()
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        watch = threading.Timer(_TIMEOUT_S, _hang_up, [connection, late])
        watch.daemon = True
        watch.start()
        try:
            path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.connect()  # to each of its addresses in turn, so the watch may have looked before there was a socket
            if late.is_set():
                raise TimeoutError
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
        finally:
            watch.cancel()
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no answer within {_TIMEOUT_S:.0f} s" if late.is_set() or isinstance(error, TimeoutError) else type(error).__name__
    return "" if 200 <= status < 300 else f"{_STATUS} {status}"


def _hang_up(connection: "HTTPConnection", late: threading.Event) -> None:
    """Cut a connection that takes too long as a whole: a socket's own timeout begins anew with each byte that comes, as in a TLS handshake it still does."""
    late.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _target(hook: Webhook) -> str:
    """Return a name of a webhook that tells nothing of its address."""
    return hashlib.sha256(f"{hook.form} {hook.url}".encode()).hexdigest()[:16]


def _day() -> int:
    return int(time.time() // 86_400)
