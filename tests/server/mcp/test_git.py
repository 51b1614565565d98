"""The lab's repository at /git: clone for readers, push to one's own branches for workers, and nothing else by any push."""

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.roles import Role
from tests.server.mcp import rhythm
from tests.server.mcp.conftest import TRAIN, FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.test_roles import calling

pytestmark = pytest.mark.anyio

WIDER = TRAIN.replace("64", "128")


class Served:
    """A lab over HTTP, with tokens of a few agents."""

    def __init__(self, lab: FakeRunnerLab, url: str, place: Path) -> None:
        self.lab, self.url, self.place = lab, url.removesuffix("/mcp"), place
        names = {"ada": Role.WORKER, "bob": Role.WORKER, "a/b": Role.WORKER, "a-b": Role.WORKER, "vera": Role.VIEWER, "boss": Role.OWNER}
        self.tokens = {name: lab.ledger.add_token(name, role, None) for name, role in names.items()}

    def remote(self, name: str, token: str | None = None) -> str:
        return self.url.replace("//", f"//any:{token or self.tokens[name]}@") + "/git"

    def clone(self, name: str, folder: str) -> Path:
        git(self.place, "clone", "-q", self.remote(name), folder)
        return self.place / folder

    def refs(self) -> str:
        return git(self.lab.root, "for-each-ref")


def run(folder: Path, *command: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.invalid"]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(["git", *who, *command], cwd=folder, capture_output=True, input=stdin, env=environment, timeout=60)


def git(folder: Path, *command: str, stdin: bytes | None = None) -> str:
    done = run(folder, *command, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def refused(folder: Path, *command: str) -> str:
    done = run(folder, *command)
    assert done.returncode != 0, done.stdout
    return done.stderr.decode()


def commit(clone: Path, text: str, message: str = "A wider model has more room to learn in.") -> str:
    (clone / "train.py").write_text(text)
    git(clone, "commit", "-qam", message)
    return git(clone, "rev-parse", "HEAD")


def bearer(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.tokens['ada']}"}


@contextlib.contextmanager
def asking(served: Served) -> Iterator[HTTPConnection]:
    place = urlsplit(served.url)
    with contextlib.closing(HTTPConnection(place.hostname or "", place.port, timeout=60)) as connection:
        yield connection


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("git")
    lab = make_runner_lab(place / "lab")
    made = next(lab)
    git(made.root, "branch", "secret")
    hook = made.root / ".git" / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {place}/ran\n")
    hook.chmod(0o755)
    with served_over_http(made.root) as server:
        yield Served(made, server.url, place)
    assert not (place / "ran").exists()
    with contextlib.suppress(StopIteration):
        next(lab)


@pytest.fixture
def clone(served: Served) -> Iterator[Path]:
    """A clone of ada's, on the champion."""
    folder = served.clone("ada", "ada")
    yield folder
    shutil.rmtree(folder)


async def test_a_worker_pushes_its_branch_and_has_it_trained_by_name(served: Served, clone: Path) -> None:
    assert git(clone, "branch", "--show-current") == "research" and (clone / "train.py").read_text() == TRAIN

    def push() -> str:
        pushed = commit(clone, WIDER)
        git(clone, "push", "-q", "origin", "HEAD:refs/heads/agents/ada/pointer")
        assert git(served.lab.root, "rev-parse", "agents/ada/pointer") == pushed
        return "agents/ada/pointer"

    async with calling(f"{served.url}/mcp", served.tokens["ada"]) as client:
        proposed = await rhythm.go_through(served.lab, client, push)
    assert git(served.lab.root, "show", f"{proposed}:train.py") == WIDER.strip()
    with contextlib.closing(Lab(served.lab.root)) as lab:
        change = next(each for each in lab.recorded_changes("ada") if each.action == "git push")
    assert (change.subject, change.role, change.way) == ("agents/ada/pointer", "worker", "http")
    git(clone, "reset", "-q", "--hard", "HEAD~1")
    commit(clone, TRAIN.replace("64", "32"))
    git(clone, "push", "-qf", "origin", "HEAD:refs/heads/agents/ada/pointer")  # while it is proposed
    assert git(served.lab.root, "show", f"{proposed}:train.py") == WIDER.strip()
    git(clone, "push", "-q", "origin", ":refs/heads/agents/ada/pointer")


def test_only_published_refs_are_shown_and_handed_out(served: Served, clone: Path) -> None:
    names = {line.split("\t")[1] for line in git(clone, "ls-remote").splitlines()}
    assert {"HEAD", "refs/heads/main", "refs/heads/research"} <= names
    assert all(name in ("HEAD", "refs/heads/main", "refs/heads/research") or name.startswith("refs/heads/agents/") for name in names)
    tree = git(served.lab.root, "rev-parse", "research^{tree}")
    hidden = git(served.lab.root, "-c", "user.name=x", "-c", "user.email=x", "commit-tree", tree, "-m", "hidden")
    git(served.lab.root, "update-ref", "refs/heads/secret", hidden)
    assert "unadvertised object" in refused(clone, "fetch", "origin", hidden)
    want = f"0032want {hidden}\n00000009done\n".encode()
    with asking(served) as connection:
        head = {"Content-Type": "application/x-git-upload-pack-request", "Git-Protocol": "version=2", **bearer(served)}
        connection.request("POST", "/git/git-upload-pack", want, head)
        assert b"not our ref" in connection.getresponse().read()


def test_no_ref_moves_but_ones_own(served: Served, clone: Path) -> None:
    before = served.refs()
    commit(clone, WIDER)
    for refspec, why in {
        "HEAD:refs/heads/research": "agents/ada/... alone",
        "HEAD:refs/heads/agents/bob/pointer": "agents/ada/... alone",
        "HEAD:refs/heads/agents/ada": "agents/ada/... alone",
        "HEAD:refs/heads/agents/ada/a/b/c/d": "agents/ada/... alone",
        "+HEAD:refs/heads/secret": "hidden ref",
        "HEAD:refs/tags/v1": "hidden ref",
    }.items():
        assert why in refused(clone, "push", "--atomic", "origin", "HEAD:refs/heads/agents/ada/good", refspec), refspec
    assert served.refs() == before


def test_who_has_no_valid_token_or_reads_only_pushes_nothing(served: Served, clone: Path) -> None:
    before, head = served.refs(), "HEAD:refs/heads/agents/vera/x"
    commit(clone, WIDER)
    for token in ("wrong", "armcp_" + "x" * 43):
        assert "Authentication failed" in refused(clone, "push", served.remote("", token), head)
    assert "could not read Username" in refused(clone, "ls-remote", f"{served.url}/git")
    assert "takes the role worker" in refused(clone, "push", served.remote("vera"), head)
    assert git(clone, "ls-remote", served.remote("vera"))
    assert "is a-b's" in refused(clone, "push", served.remote("a/b"), "HEAD:refs/heads/agents/a-b/x")
    assert served.refs() == before
    git(clone, "push", "-q", served.remote("a-b"), "HEAD:refs/heads/agents/a-b/x")
    git(clone, "push", "-q", served.remote("boss"), "HEAD:refs/heads/agents/boss/x")


def test_two_authors_each_have_the_name(served: Served, clone: Path) -> None:
    mine = commit(clone, WIDER)
    git(clone, "push", "-q", "origin", "HEAD:refs/heads/agents/ada/same")
    other = commit(clone, TRAIN.replace("64", "96"))
    git(clone, "push", "-q", served.remote("bob"), "HEAD:refs/heads/agents/bob/same")
    assert git(served.lab.root, "rev-parse", "agents/ada/same", "agents/bob/same").split() == [mine, other]


def _link(clone: Path) -> None:
    (clone / "train.py").unlink()
    (clone / "train.py").symlink_to("/etc/passwd")
    git(clone, "commit", "-qam", "A link")


def _submodule(clone: Path) -> None:
    git(clone, "update-index", "--add", "--cacheinfo", f"160000,{git(clone, 'rev-parse', 'HEAD')},deep")
    git(clone, "commit", "-qm", "A submodule")


def _dot_git(clone: Path) -> None:
    blob = git(clone, "hash-object", "-w", "train.py")
    inner = git(clone, "mktree", stdin=f"100644 blob {blob}\tconfig\n".encode())
    tree = git(clone, "mktree", stdin=f"040000 tree {inner}\t.GIT\n".encode())
    git(clone, "reset", "-q", "--soft", git(clone, "commit-tree", tree, "-p", "HEAD", "-m", "Another .git"))


def _large(clone: Path) -> None:
    with (clone / "train.py").open("wb") as file:
        file.truncate(40 << 20)
    git(clone, "commit", "-qam", "Zeros")


def _nested(clone: Path) -> None:
    """Ten names in a folder, each of which is a folder with ten names, and so on."""
    kind, id = "100644 blob", git(clone, "hash-object", "-w", "train.py")
    for _ in range(9):
        id = git(clone, "mktree", stdin="".join(f"{kind} {id}\t{n}\n" for n in range(10)).encode())
        kind = "040000 tree"
    git(clone, "reset", "-q", "--soft", git(clone, "commit-tree", id, "-p", "HEAD", "-m", "A thousand million files"))


def _long(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD")
    lines = [f"commit refs/heads/research\ncommitter x <y> 0 +0000\ndata 3\none\n{f'from {head}' if not n else ''}" for n in range(1100)]
    git(clone, "fast-import", "--quiet", "--force", stdin="\n".join(lines).encode() + b"\n")


def _unrelated(clone: Path) -> None:
    git(clone, "checkout", "-q", "--orphan", "alone")
    git(clone, "commit", "-qm", "Alone")


def _packed(clone: Path) -> None:
    (clone / "train.py").write_bytes(os.urandom(5 << 20))
    git(clone, "commit", "-qam", "Noise")


WRONG = {
    "a link": (_link, "'train.py'"),
    "a submodule": (_submodule, "'deep'"),
    "another .git": (_dot_git, "hasDotgit"),
    "a bomb of zeros": (_large, "the cap is 33,554,432"),
    "a bomb of folders": (_nested, "more than 300 folders"),
    "a long branch": (_long, "at most 1000 commits"),
    "another history": (_unrelated, "no champion of this lab"),
    "more than may be sent": (_packed, "exceeds maximum allowed size"),
}


def test_what_a_push_may_not_bring_is_gone_again(served: Served, clone: Path) -> None:
    before, objects = served.refs(), served.lab.root / ".git" / "objects"
    for kind, (make, why) in WRONG.items():
        git(clone, "checkout", "-qf", "-B", "research", "origin/research")
        make(clone)
        assert why in refused(clone, "push", "origin", "HEAD:refs/heads/agents/ada/bad"), kind
        assert served.refs() == before and not list(objects.glob("tmp_objdir*"))
        assert run(served.lab.root, "cat-file", "-e", git(clone, "rev-parse", "HEAD")).returncode != 0


def test_a_push_that_is_broken_off_leaves_nothing(served: Served, clone: Path) -> None:
    before, new = served.refs(), commit(clone, WIDER)
    place = urlsplit(served.url)
    command = f"{'0' * 40} {new} refs/heads/agents/ada/half\0report-status".encode()
    body = f"{len(command) + 4:04x}".encode() + command + b"0000" + b"PACK\0\0\0\2\0\0\0\5" + b"\xb4\6" + zlib.compress(b"x" * 100)
    credentials = base64.b64encode(f"any:{served.tokens['ada']}".encode()).decode()
    head = (
        "POST /git/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-git-receive-pack-request\r\n"
        f"Authorization: Basic {credentials}\r\nContent-Length: 100000\r\n\r\n"
    )
    with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
        connection.sendall(head.encode() + body)
    git(clone, "push", "-q", "origin", "HEAD:refs/heads/agents/ada/whole")  # served as before
    assert git(served.lab.root, "for-each-ref", "refs/heads/agents/ada/half") == "" and before != served.refs()


def test_nothing_but_gits_two_services_is_there(served: Served) -> None:
    for path, status in {
        "/git/HEAD": 404,
        "/git/objects/info/packs": 404,
        "/git/../git/HEAD": 404,
        "/git/info/refs": 404,
        "/git/info/refs?service=git-upload-archive": 404,
        "/git/git-upload-pack": 405,
    }.items():
        with asking(served) as connection:
            connection.request("GET", path, headers=bearer(served))
            assert connection.getresponse().status == status, path
        with asking(served) as connection:
            connection.request("GET", path, headers={**bearer(served), "Host": "evil.example"})
            assert connection.getresponse().status == 421
