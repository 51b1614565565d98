"""Search by words and by meaning, fused: with the local model, with an endpoint, without either, and when they fail or change."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.base import Condition
from autoresearch_mcp.server.lake.embedded.manifest import read_head
from autoresearch_mcp.server.lake.embedded.repair import repair
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.view import MergedView, Ranked, Read
from autoresearch_mcp.server.models import Record, Table
from autoresearch_mcp.server.search.embedding import Embedder, EmbeddingsUnavailable, Endpoint, open_embedder
from autoresearch_mcp.server.settings import EmbeddingsSection, load
from tests.server.lake.records import memory
from tests.standins.embeddings import KEY, EmbeddingsStandIn

NOTES = [
    memory(1, "Muon wants a higher step size"),
    memory(2, "Longer warm-up phase helps stability"),
    memory(3, "Sharing the unembedding matrix with the token embedding loses nothing", kind="failure"),
    memory(4, "Twice the batch size, half the noise"),
]


def local() -> Embedder:
    embedder = open_embedder(EmbeddingsSection(backend="local"))
    assert embedder is not None
    return embedder


@pytest.fixture
def service() -> Iterator[EmbeddingsStandIn]:
    standin = EmbeddingsStandIn()
    yield standin
    standin.close()


@pytest.fixture
def endpoint(service: EmbeddingsStandIn) -> Endpoint:
    return Endpoint(service.url, "topics", KEY)


def nothing(_: Table) -> list[Record]:
    return []


def ids(read: Read[Ranked]) -> list[str]:
    return [hit.id for hit, _ in read.value.hits]


def test_a_note_is_found_by_what_it_means(tmp_path: Path) -> None:
    lake = EmbeddedLake(tmp_path / "lake", local())
    lake.append("memories", NOTES)
    result = MergedView(lake, nothing, local()).search("bigger learning rate for muon", limit=2)
    assert ids(result)[0] == "m-000001" and "meaning (wordllama-l2-256)" in result.value.ranking
    for question, answer in {"larger minibatches": "m-000004", "shared vocabulary vectors": "m-000003"}.items():
        assert ids(MergedView(lake, nothing).search(question)) == []  # not a word in common
        assert ids(MergedView(lake, nothing, local()).search(question)) == [answer]
    assert ids(MergedView(lake, nothing, local()).search("gardening in winter")) == []


def test_words_and_meaning_are_fused_by_reciprocal_ranks(tmp_path: Path, endpoint: Endpoint) -> None:
    lake = EmbeddedLake(tmp_path, endpoint)
    lake.append("memories", [memory(1, "step faster"), memory(2, "the rate of seven foxes"), memory(3, "seven foxes"), memory(4, "wider")])
    hits = MergedView(lake, nothing, endpoint).search("rate of seven foxes").value.hits
    assert [hit.id for hit, _ in hits][:1] == ["m-000002"]  # the first of both rankings
    assert hits[0][1] == pytest.approx(1 / 61 + 1 / 61)
    assert {hit.id for hit, _ in hits} >= {"m-000001", "m-000003"}  # each the best of one ranking


def test_filters_hold_for_both_rankings_and_unflushed_notes_take_part(tmp_path: Path) -> None:
    lake = EmbeddedLake(tmp_path / "lake", local())
    lake.append("memories", NOTES)
    view = MergedView(lake, lambda table: [memory(9, "A larger LR for the muon optimizer", author="bob"), NOTES[0]], local())
    assert set(ids(view.search("muon with a higher learning rate"))[:2]) == {"m-000009", "m-000001"}
    assert ids(view.search("muon with a higher learning rate", (Condition("author", "=", "bob"),))) == ["m-000009"]
    assert ids(view.search("shared vocabulary vectors", (Condition("kind", "=", "failure"),))) == ["m-000003"]
    assert ids(view.search("shared vocabulary vectors", (Condition("kind", "=", "idea"),))) == []


def test_without_a_model_full_text_alone_says_so(tmp_path: Path) -> None:
    lake = EmbeddedLake(tmp_path)
    lake.append("memories", NOTES)
    result = MergedView(lake, nothing).search("muon")
    assert ids(result) == ["m-000001"]
    assert result.value.ranking == "full text (BM25) alone: no embedding model is installed or set, see [embeddings] in the README"


def test_notes_from_before_the_model_are_embedded_with_the_next_write(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    EmbeddedLake(folder).append("memories", NOTES)
    lake = EmbeddedLake(folder, local())
    view = MergedView(lake, nothing, local())
    assert ids(view.search("shared vocabulary vectors")) == []
    lake.append("memories", [memory(5, "one more")])
    assert ids(view.search("shared vocabulary vectors"))[:1] == ["m-000003"]
    head = read_head(folder / "memories.json")
    lake.append("memories", [memory(6, "and another")])
    later = read_head(folder / "memories.json")
    assert head is not None and later is not None and later.generation == head.generation == 2  # once


def test_another_model_takes_over(tmp_path: Path, endpoint: Endpoint, service: EmbeddingsStandIn) -> None:
    EmbeddedLake(tmp_path, local()).append("memories", [memory(1, "step faster"), memory(2, "ramp")])
    lake = EmbeddedLake(tmp_path, endpoint)
    view = MergedView(lake, nothing, endpoint)
    assert ids(view.search("rate")) == []  # vectors of two models are never compared
    lake.append("memories", [memory(3, "wider")])
    assert ids(view.search("rate"))[0] == "m-000001"
    before = sum(map(len, service.asked))
    lake.append("memories", [memory(4, "width")])
    assert sum(map(len, service.asked)) == before + 1  # what is stored is not asked again


def test_a_rewrite_keeps_the_vectors(
    tmp_path: Path, endpoint: Endpoint, service: EmbeddingsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.dataset.MOST_COMMITS", 3)
    for n in range(8):
        EmbeddedLake(tmp_path, Endpoint(service.url, "topics", KEY)).append("memories", [memory(n, f"step {n}")])
    assert sum(map(len, service.asked)) == 8
    assert len(MergedView(EmbeddedLake(tmp_path, endpoint), nothing, endpoint).search("rate").value.hits) == 8


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, None),
        (429, None),
        (500, None),
        (302, None),
        (200, b"<html>"),
        (200, b'{"data": []}'),
        (200, b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}'),
    ],
)
def test_an_endpoint_that_fails_costs_a_ranking_and_no_note(
    status: int, body: bytes | None, tmp_path: Path, endpoint: Endpoint, service: EmbeddingsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.status, service.body = status, body
    lake = EmbeddedLake(tmp_path, endpoint)
    lake.append("memories", [memory(1, "muon steps")])
    result = MergedView(lake, nothing, endpoint).search("muon")
    assert ids(result) == ["m-000001"]
    assert result.value.ranking.startswith("full text (BM25) alone: The embedding endpoint") and KEY not in result.value.ranking
    asked = len(service.asked)
    MergedView(lake, nothing, endpoint).search("another")
    assert len(service.asked) == asked  # it is left alone for a while
    monkeypatch.setattr("autoresearch_mcp.server.search.embedding.PAUSE_S", 0.0)
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.dataset.MOST_COMMITS", 1)
    service.status, service.body = 200, None
    lake.append("memories", [memory(2, "faster")])
    assert set(ids(MergedView(lake, nothing, endpoint).search("rate"))) >= {"m-000002"}


def test_no_key_is_in_an_error(endpoint: Endpoint, service: EmbeddingsStandIn) -> None:
    service.status = 500
    with pytest.raises(EmbeddingsUnavailable) as refusal:
        endpoint.embed(["text"])
    assert KEY not in repr(refusal.value) + repr(refusal.value.__cause__) + repr(endpoint) and refusal.value.__suppress_context__


def test_repair_restores_the_notes_and_the_next_write_their_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    EmbeddedLake(folder, local()).append("memories", NOTES)
    (folder / "memories.json").write_bytes(b"")
    repair(folder)
    lake = EmbeddedLake(folder, local())
    lake.append("memories", [memory(5, "one more")])
    assert ids(MergedView(lake, nothing, local()).search("shared vocabulary vectors"))[:1] == ["m-000003"]


def test_settings_choose_the_model(make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def section(text: str) -> EmbeddingsSection:
        root = make_lab(f"lab-{len(text)}", {'[embeddings]\nbackend = "auto"': f"[embeddings]\n{text}"})
        return load(root).embeddings

    assert open_embedder(section('backend = "none"')) is None
    monkeypatch.setenv("AUTORESEARCH_EMBEDDINGS_KEY", KEY)
    remote = open_embedder(section('backend = "endpoint"\nurl = "https://example.org/v1/"\nmodel = "m"'))
    assert isinstance(remote, Endpoint) and remote.name == "m"
    with pytest.raises(LabError, match=r"\[embeddings\] url must begin with https"):
        open_embedder(section('backend = "endpoint"\nurl = "http://example.org/v1"\nmodel = "m"'))
    with pytest.raises(LabError, match=r"\[embeddings\] must"):
        section('backend = "endpoint"')
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert open_embedder(EmbeddingsSection()) is None
        with pytest.raises(LabError, match=r"autoresearch-mcp\[embeddings\]"):
            open_embedder(EmbeddingsSection(backend="local"))


def test_the_local_model_needs_no_torch_and_no_hub() -> None:
    script = (
        "import sys, json; from autoresearch_mcp.server.search.embedding import open_embedder; from autoresearch_mcp.server.settings import EmbeddingsSection\n"
        "e = open_embedder(EmbeddingsSection(backend='local')); v = e.embed(['', 'muon', 'the muon optimizer', '\\0'])\n"
        "print(json.dumps([sorted({'torch', 'deeplake', 'wordllama', 'huggingface_hub'} & set(sys.modules)), (v @ v.T).tolist()]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    modules, cosines = json.loads(out)
    assert modules == []
    assert cosines[0][0] == 0 and cosines[1][1] == pytest.approx(1) and cosines[1][2] > 0.5
