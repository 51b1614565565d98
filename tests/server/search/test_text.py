"""Notes are found by the words an agent would use."""

import pytest

from autoresearch_mcp.server.search.text import rank, terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Rates", "rate"),
        ("losses", "loss"),
        ("batches", "batch"),
        ("strategies", "Strategy"),
        ("warm-up", "warmup"),
        ("warm_up", "warmup"),
        ("résumé", "RESUME"),
        ("3e-4", "3E-4"),
    ],
)
def test_spellings_of_one_word_share_a_term(one: str, other: str) -> None:
    assert set(terms(one)) & set(terms(other))


def test_numbers_stay_whole() -> None:
    assert terms("lr 0.02, not 0.2") == ["lr", "0_02", "not", "0_2"]


@pytest.mark.parametrize("text", ["", "!!! ''' %", "\0", " \n"])
def test_text_without_words_has_no_terms(text: str) -> None:
    assert terms(text) == []


def test_huge_text_is_bounded() -> None:
    assert len(terms("word " * 1_000_000)) == 2_000


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    documents = [terms(text) for text in ("the muon", "the adam", "the lion", "nothing")]
    scores = rank(terms("the muon"), documents)
    assert scores[0] > scores[1] == scores[2] > scores[3] == 0
    assert rank(["muon"], []) == []
