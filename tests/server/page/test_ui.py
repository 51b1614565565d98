"""`autoresearch-mcp ui`: the page of a lab whose agents speak over stdio."""

import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar
from urllib.error import HTTPError

import pytest

from tests.server.mcp.conftest import FakeRunnerLab


def test_the_printed_address_opens_the_page_as_its_owner_and_no_other_does(page_lab: tuple[FakeRunnerLab, dict[str, str]]) -> None:
    command = [sys.executable, "-W", "error", "-m", "autoresearch_mcp.server.cli", "ui", "--no-browser", str(page_lab[0].root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        address = serving.stdout.readline().split()[-1]
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert b"You are the lab's owner here" in browser.open(address, timeout=20).read()
        with pytest.raises(HTTPError, match="401"):
            urllib.request.urlopen(f"{address[:-4]}abcd", timeout=20)
        with pytest.raises(HTTPError, match="404"):
            browser.open(address.replace("/login", "/mcp"), timeout=20)
        serving.terminate()
        assert serving.wait(10) == 0
