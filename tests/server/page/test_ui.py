"""`autoresearch-mcp ui`: the page of a lab whose agents speak over stdio."""

import contextlib
import ctypes
import io
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from rich.console import Console

from autoresearch_mcp.server.commands import demo
from tests.server.mcp.conftest import FakeRunnerLab


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command, and yield its process and the address that it printed. Where it still runs in the end, it says where."""
    command = [sys.executable, *["-X", "faulthandler", "-W", "error", "-m", "autoresearch_mcp.server.cli", "ui", "--no-browser"], str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGABRT)


def test_the_printed_address_opens_the_page_as_its_owner_and_no_other_does(page_lab: tuple[FakeRunnerLab, dict[str, str]]) -> None:
    with serving(page_lab[0].root) as (process, address):
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert b"You are the lab's owner here" in browser.open(address, timeout=20).read()
        with pytest.raises(HTTPError, match="401"):
            urllib.request.urlopen(f"{address[:-4]}abcd", timeout=20)
        with pytest.raises(HTTPError, match="404"):
            browser.open(address.replace("/login", "/mcp"), timeout=20)
        with browser.open(address.partition("/login")[0] + "/events", timeout=20) as events:  # an open tab holds nothing up
            assert events.readline().startswith(b"retry")
            process.terminate()
            assert process.wait(10) == 0


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "tgkill"), reason="the C library can't signal one thread of a process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_whichever_of_its_threads_is_given_the_signal(page_lab: tuple[FakeRunnerLab, dict[str, str]], number: int) -> None:
    with serving(page_lab[0].root) as (process, address):
        urllib.request.urlopen(address, timeout=20).read()
        other = next(int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir() if each.name != str(process.pid))
        assert ctypes.CDLL(None).tgkill(process.pid, other, number) == 0
        assert process.wait(10) == 0


def test_a_demos_page_is_served_while_it_goes_on_and_by_no_process_of_its_own(page_lab: tuple[FakeRunnerLab, dict[str, str]]) -> None:
    printed = io.StringIO()
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    with demo.page(page_lab[0].root, demo.LiveConsole(Console(file=printed, width=300))):
        address = printed.getvalue().split()[-1]
        assert children.read_text() == before
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert b"You are the lab's owner here" in browser.open(address, timeout=20).read()
    with pytest.raises(URLError, match="refused"):
        urllib.request.urlopen(address, timeout=20)
