"""The client for scripts: its methods are the tools, and calls reach a real server over both transports."""

import inspect
import threading
from pathlib import Path

import pytest

from autoresearch_mcp.client import Lab, Refused
from autoresearch_mcp.client.tools import Tools
from autoresearch_mcp.contracts import TOOLS
from tests import client_tools
from tests.ports import free_port
from tests.server.mcp.listening import served_over_http
from tests.server.measured import MeasuredLab


def test_the_methods_are_generated_from_the_tools_of_today() -> None:
    for name, text in client_tools.sources().items():
        assert (client_tools.FOLDER / name).read_text("utf-8") == text, "run `make reference`"
    assert tuple(name for name, _ in inspect.getmembers(Tools, inspect.isfunction) if name in TOOLS) == tuple(sorted(TOOLS))


def test_a_folder_is_served_for_one_agent_and_a_refusal_keeps_its_words(measured: MeasuredLab) -> None:
    with Lab(measured.root, name="ada", role="worker") as lab:
        assert lab.get_status()["champion"]["commit"] == measured.lab.status().champion.commit[:12]
        assert "def " in lab.read_file(path="train.py") and lab.plot_progress().text
        memory = lab.write_memory("insight", "Wider models learn slower here.")
        assert memory["id"] in str(lab.search_memory(query="wider"))
        with pytest.raises(Refused, match="e-nothing"):
            lab.get_experiment(["e-nothing"])
        with pytest.raises(Refused):
            lab.promote_commit("champion")  # a worker may not
    with pytest.raises(RuntimeError, match="not open"):
        lab.get_status()


def test_threads_share_a_connection_over_http(measured: MeasuredLab) -> None:
    answers: list[str] = []
    with served_over_http(measured.root, AUTORESEARCH_TOKEN="t" * 32) as server, Lab(server.url, token="t" * 32) as lab:
        threads = [threading.Thread(target=lambda: answers.append(lab.get_status()["champion"]["commit"])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [measured.lab.status().champion.commit[:12]] * 8


def test_where_no_lab_answers_one_sentence_says_so(measured: MeasuredLab, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"No lab answers at .*nowhere: .* words stand above"), Lab(tmp_path / "nowhere"):
        pass
    with pytest.raises(ConnectionError, match="Does its server run"), Lab(f"http://127.0.0.1:{free_port()}/mcp"):
        pass
    refused = pytest.raises(ConnectionError, match="is the token right")
    with served_over_http(measured.root, AUTORESEARCH_TOKEN="t" * 32) as server, refused, Lab(server.url, token="another"):
        pass


def test_name_and_role_are_for_servers_that_the_client_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token"):
        Lab("https://lab.example/mcp", name="ada")
