"""Access tokens of an OAuth issuer: which open the lab, as whom, and which don't. The issuer is a real one on this machine."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.oauth import Issuer
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.roles import Identity, Role
from autoresearch_mcp.server.settings.auth import AuthSection
from autoresearch_mcp.server.settings.live import SettingsFile
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.test_http import LIST, ask
from tests.standins.web import Answer, Request, served

AUDIENCE = "https://lab.example/mcp"
RSA, EC, OTHER = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)


class LocalIssuer:
    """Publishes keys and makes tokens."""

    def __init__(self, place: str = "/.well-known/openid-configuration") -> None:
        self.keys = [
            {**RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "r", "use": "sig", "alg": "RS256"},
            {**ECAlgorithm.to_jwk(EC.public_key(), as_dict=True), "kid": "e"},
            {"kty": "of a later age", "kid": "l"},
        ]
        self.asked: list[str] = []
        self.moved: dict[str, str] = {}
        self.place = place
        self.url = ""

    def answer(self, request: Request) -> Answer:
        self.asked.append(request.path)
        pages: dict[str, Any] = {self.place: {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}, "/jwks": {"keys": self.keys}}
        pages |= {f"/new{path}": page for path, page in pages.items()}
        status = 302 if request.path in self.moved else 200 if request.path in pages else 404
        return Answer(status, json.dumps(pages.get(request.path, {})).encode(), self.moved.get(request.path, ""))

    def auth(self, **changes: Any) -> AuthSection:
        return AuthSection.model_validate({"issuer": self.url, "audience": AUDIENCE} | changes)

    def token(self, key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r", **changes: Any) -> str:
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "scope": "openid worker", "exp": time.time() + 60} | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key, algorithm, headers={} if kid is None else {"kid": kid})


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    made = LocalIssuer()
    with served(made.answer) as made.url:
        yield made


@pytest.fixture(scope="module")
def door(issuer: LocalIssuer) -> Issuer:
    return Issuer(issuer.auth())


def test_the_issuers_tokens_say_who_calls_and_what_they_may_do(issuer: LocalIssuer, door: Issuer) -> None:
    assert door.identify(issuer.token()) == Identity("ada", Role.WORKER)
    assert door.identify(issuer.token(EC, "ES256", "e", sub="bo", scope="viewer orchestrator")) == Identity("bo", Role.ORCHESTRATOR)
    assert door.identify(issuer.token(aud=["https://other.example", AUDIENCE])) == Identity("ada", Role.WORKER)
    groups = Issuer(issuer.auth(name_claim="email", role_claim="groups", roles={"ml team": "worker", "chiefs": "owner"}))
    assert groups.identify(issuer.token(email="bo@a.example", groups=["ml team", "chiefs", 1])) == Identity("bo@a.example", Role.OWNER)
    assert groups.identify(issuer.token(email="bo@a.example", groups="worker")) is None


def test_a_token_need_not_name_the_only_key() -> None:
    made = LocalIssuer()
    with served(made.answer) as made.url:
        del made.keys[1:]
        for key in ({**made.keys[0]}, {name: value for name, value in made.keys[0].items() if name != "kid"}):
            made.keys[:] = [key]
            door = Issuer(made.auth())
            assert door.identify(made.token(kid=None)) == Identity("ada", Role.WORKER)
            assert [door.identify(made.token(OTHER, kid=name)) for name in (None, "x")] == [None, None]
            assert [door.identify(made.token(kid=name)) for name in ("x", "e")] == [None, None]


WRONG: dict[str, Callable[[LocalIssuer], str]] = {
    "another issuer": lambda i: i.token(iss="https://id.example"),
    "another service": lambda i: i.token(aud="https://other.example"),
    "expired": lambda i: i.token(exp=time.time() - 60),
    "not yet": lambda i: i.token(nbf=time.time() + 600),
    "for ever": lambda i: i.token(exp=None),
    "no audience": lambda i: i.token(aud=None),
    "no name": lambda i: i.token(sub=None),
    "a name of nobody": lambda i: i.token(sub="<script>"),
    "a long name": lambda i: i.token(sub="a" * 65),
    "no role": lambda i: i.token(scope=None),
    "a role of elsewhere": lambda i: i.token(scope="openid admin"),
    "another's key": lambda i: i.token(OTHER),
    "a key's name that is none": lambda i: i.token(OTHER, kid="x"),
    "another key's name": lambda i: i.token(RSA, kid="e"),
    "a later key": lambda i: i.token(RSA, kid="l"),
    "no key's name": lambda i: i.token(kid=None),
    "unsigned": lambda i: i.token(None, "none"),
    "signed with what is public": lambda i: jwt.api_jws.encode(
        json.dumps({"iss": i.url, "aud": AUDIENCE, "sub": "ada", "scope": "owner", "exp": time.time() + 60}).encode(),
        "0" * 64,
        "HS256",
        headers={"kid": "r"},
    ),
    "another algorithm": lambda i: i.token(RSA, "PS256"),
    "cut": lambda i: i.token()[:-1],
    "half": lambda i: i.token().rpartition(".")[0],
    "dots": lambda i: "..",
    "nested": lambda i: "W1tb" * 4000 + ".e30.e30",
    "1 MB": lambda i: "a." * (1 << 19),
}


@pytest.mark.parametrize("what", WRONG)
def test_any_other_token_opens_nothing(issuer: LocalIssuer, door: Issuer, what: str) -> None:
    assert door.identify(WRONG[what](issuer)) is None


def test_the_owner_is_told_once_why_what_the_issuer_signed_opens_nothing(issuer: LocalIssuer, caplog: pytest.LogCaptureFixture) -> None:
    door = Issuer(issuer.auth())
    for token in (
        issuer.token(aud="https://secret.example"),
        issuer.token(sub="auth0|1"),
        issuer.token(scope="openid"),
        issuer.token(aud=None),
    ):
        assert door.identify(token) is door.identify(token) is None and token not in caplog.text
    assert door.identify(issuer.token(OTHER, aud="x")) is None  # somebody else's is no news
    told = [record.getMessage().partition("here: ")[2] for record in caplog.records]
    assert [words in text for words, text in zip(("Audience", "sub is no name", "scope holds no value", '"aud"'), told, strict=True)] == [
        True
    ] * 4


def test_invented_keys_cause_no_flood_and_new_keys_come(issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    door = Issuer(issuer.auth())
    issuer.asked.clear()
    assert [door.identify(issuer.token(OTHER, kid=f"new {number}")) for number in range(20)] == [None] * 20
    assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]
    issuer.keys.append({**RSAAlgorithm.to_jwk(OTHER.public_key(), as_dict=True), "kid": "new 1"})
    now += 11
    assert door.identify(issuer.token(OTHER, kid="new 1")) == Identity("ada", Role.WORKER)
    issuer.keys.pop()
    now += 601
    assert door.identify(issuer.token(OTHER, kid="new 1")) is None  # withdrawn
    assert door.identify(issuer.token()) is not None


def test_an_issuer_that_is_away_opens_nothing_and_is_found_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    late = LocalIssuer("/.well-known/oauth-authorization-server")
    with served(late.answer) as late.url:
        door = Issuer(late.auth(jwks="http://127.0.0.1:9/jwks"))
        assert door.identify(late.token()) is None and "can't be read" in caplog.text
        assert Issuer(late.auth()).identify(late.token()) == Identity("ada", Role.WORKER)  # as RFC 8414 places it
        assert Issuer(late.auth(issuer=late.url + "/", jwks="")).identify(late.token()) is None  # the metadata is another issuer's


def test_while_the_issuer_is_slow_or_talks_nonsense_the_last_keys_hold_for_all(
    issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as slow:
        door = Issuer(issuer.auth())
        assert door.identify(issuer.token()) is not None
        door.auth = issuer.auth(jwks=f"http://127.0.0.1:{slow.getsockname()[1]}/jwks")
        now += 601
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(door.identify, issuer.token())
            slow.settimeout(60.0)
            connection, _ = slow.accept()  # and no answer yet
            assert [door.identify(issuer.token(sub=name)) for name in ("bo", "cy")] == [
                Identity("bo", Role.WORKER),
                Identity("cy", Role.WORKER),
            ]
            assert not asking.done()
            now += 20  # so long it took
            connection.sendall(b"what?\r\n\r\n")
            connection.close()
            assert asking.result() == Identity("ada", Role.WORKER)
        slow.settimeout(0.0)
        assert door.identify(issuer.token()) is not None
        with pytest.raises(BlockingIOError):  # it isn't asked again at once
            slow.accept()


@pytest.mark.parametrize("place", ["/jwks", "/.well-known/openid-configuration"])
def test_a_redirect_is_not_followed(issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setitem(issuer.moved, place, f"{issuer.url}/new{place}")
    assert Issuer(issuer.auth()).identify(issuer.token()) is None


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ('issuer = "http://id.example"\naudience = "a"', "must be an https:// address"),
        ('issuer = "https://id.example"', "must name an audience"),
        ('issuer = "https://id.example"\naudience = "a"\njwks = "file:///etc/passwd"', "must be an https:// address"),
        ('[auth.roles]\n"x" = "king"', "roles must be"),
        ("requests_per_minute = 0", "requests_per_minute"),
    ],
)
def test_settings_that_cannot_be_are_refused(runner_lab: FakeRunnerLab, written: str, why: str) -> None:
    path = LabPaths(runner_lab.root).settings
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{before}\n[auth]\n{written}\n", encoding="utf-8")
        with pytest.raises(LabError, match=why):
            SettingsFile(runner_lab.root)
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


def test_a_lab_with_an_issuer_serves_its_tokens_and_no_stranger(
    runner_lab: FakeRunnerLab, issuer: LocalIssuer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = LabPaths(runner_lab.root).settings
    path.write_text(f'{path.read_text(encoding="utf-8")}\n[auth]\nissuer = "{issuer.url}"\naudience = "{AUDIENCE}"\n', encoding="utf-8")
    note = {"name": "write_memory", "arguments": {"kind": "finding", "text": "Wider models learn more in the same time."}}
    with served_over_http(runner_lab.root) as server:

        def status(token: str, message: object = LIST) -> int:
            return ask(server.url, body=json.dumps(message), Authorization=f"Bearer {token}")[0]

        assert ask(server.url, body=json.dumps(LIST))[0] == status(issuer.token(exp=1)) == 401
        assert status(issuer.token(), LIST | {"method": "tools/call", "params": note}) == 200
        form = {"body": urlencode({"token": issuer.token()}), "path": "/login", "Content_Type": "application/x-www-form-urlencoded"}
        cookie = ask(server.url, "POST", **form)[2]["set-cookie"].partition(";")[0]
        assert len(issuer.token()) > 512 and "You are ada here, with the role worker" in ask(server.url, "GET", path="/", Cookie=cookie)[1]
        metadata = json.loads(ask(server.url, "GET", path="/.well-known/oauth-protected-resource/mcp")[1])
        assert metadata["authorization_servers"] == [issuer.url]
        assert status(issuer.token(sub="bo")) == 200
        assert cli.main(["token", "create", "bo", str(runner_lab.root)]) == 0
        assert status(issuer.token(sub="bo")) == 401  # two may not sign with one name
        assert status(capsys.readouterr().out.split()[0]) == 200
    with contextlib.closing(runner_lab.ledger):
        (change,) = runner_lab.ledger.recorded_changes("ada")
    assert (change.role, change.action) == ("worker", "write_memory")
