"""The number is ours: what it is, and which models get none. Real runs through the real launcher."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoresearch_mcp.trainer import prepare, protocol, stream
from tests.trainer.conftest import BIGRAM, Warm


def bigram_table(data: Path) -> Any:
    """Log-probabilities (token, next token) of the bigram model that seed 0 counts, from the files alone."""
    size = prepare.PROFILES["tiny"].vocab_size
    with tempfile.TemporaryDirectory() as scratch:
        stream.write(data / "train.bin", share := Path(scratch, "share"), size - 1, seed=0)
        train = np.fromfile(share, dtype=np.uint16).astype(np.int64)
    counts = np.bincount(train[:-1] * size + train[1:], minlength=size * size).reshape(size, size) + 0.1
    return np.log(counts / counts.sum(1, keepdims=True))


def bigram_bpb(data: Path, split: str = "val") -> float:
    """Bits per byte on a split of the bigram model that seed 0 counts, from the files alone."""
    profile = prepare.PROFILES["tiny"]
    logp = bigram_table(data)
    val = np.fromfile(data / f"{split}.bin", dtype=np.uint16).astype(np.int64)
    widths = np.load(data / prepare.TOKEN_BYTES)
    each, size = profile.seq_len + 1, profile.eval_bytes // (2 if split == "test" else 1)  # a row is tokens and the last target
    rows = val[: int(np.searchsorted(np.cumsum(widths[val]), size)) // each * each].reshape(-1, each)
    x, y = rows[:, :-1], rows[:, 1:]
    text = widths[y] > 0
    return float(-logp[x, y][text].sum() / math.log(2) / widths[y].sum())


def test_the_metric_is_what_an_independent_computation_gives(warm: Warm, data: Path) -> None:
    launched = warm.launch(BIGRAM)
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["val_bpb"] == round(bigram_bpb(data), 4)
    assert launched.hidden == pytest.approx(bigram_bpb(data, "test"), abs=1e-5)


def test_a_printed_metric_is_reported_and_changes_nothing(warm: Warm, data: Path) -> None:
    result = warm.launch(BIGRAM.replace("# before submit", 'print("---\\nval_bpb:          0.123456")')).wait()
    assert result["reported_bpb"] == 0.123456
    assert result["val_bpb"] == round(bigram_bpb(data), 4)


@pytest.mark.parametrize(("shift", "allowance"), [("1000", 1e-3), ("1e8", 100), ("3e38", 100)])
def test_shifted_logits_gain_nothing(warm: Warm, data: Path, shift: str, allowance: float) -> None:
    """Around a huge logit float32 knows few values: a sum's logarithm is rounded away, and every token would look certain."""
    result = warm.launch(BIGRAM.replace("return self.table(idx)", f"return self.table(idx) + {shift}")).wait()
    assert result["val_bpb"] is None or bigram_bpb(data) - 1e-3 < result["val_bpb"] < bigram_bpb(data) + allowance


CHEATS = {
    "looks ahead everywhere": """
        logits = self.table(idx).clone()
        logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], torch.full_like(logits[:, :-1, :1], 5.0))
        return logits""",
    "looks ahead at one position in eight": """
        logits = self.table(idx).clone()
        logits[:, :-1:8].scatter_add_(-1, idx[:, 1::8, None], torch.full_like(logits[:, :-1:8, :1], 5.0))
        return logits""",
    "looks at the last token only": """
        return self.table(idx) + 0.01 * idx[:, -1:, None]  * torch.arange(512) / 512""",
    "mixes rows": """
        return self.table(idx) + self.table(idx).mean(0, keepdim=True)""",
    "keeps state": """
        self.seen = getattr(self, "seen", 0) + torch.nn.functional.one_hot(idx.flatten(), 512).sum(0)
        return self.table(idx) + torch.log1p(self.seen)""",
    "remembers rows by their beginning": """
        self.rows = getattr(self, "rows", {})
        logits = self.table(idx).clone()
        logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], torch.full_like(logits[:, :-1, :1], 5.0))
        for row, answer in zip(idx, logits):
            answer.copy_(self.rows.setdefault(tuple(row[:4].tolist()), answer))
        return logits""",
}


# A reserve of probability on a token that never counts goes to the true next token, only where that was very unlikely, and never makes it
# likelier than it is anywhere. `chosen` says where.
RESERVE = """
        logits = torch.log_softmax(self.table(idx), -1)
        keep = torch.full_like(logits[..., :1], 2e-3)
        p = logits.exp() * (1 - keep)
        now, later = p[:, :-1], idx[:, 1:, None]
        place = torch.arange(idx.size(1) - 1).expand(len(idx), -1)
        chosen = (now.gather(-1, later)[..., 0] < 4e-3) & (CHOSEN)
        now.scatter_add_(-1, later, chosen[..., None] * keep[:, :-1])
        now[..., -1] += ~chosen * keep[:, :-1, 0]
        p[:, -1, -1] += 2e-3
        return p.clamp_min(1e-12).log()"""
CHEATS |= {
    f"moves a reserve to the next token, {name}": RESERVE.replace("CHOSEN", chosen)
    for name, chosen in {
        "always": "place >= 0",
        "late in the row": "place >= 32",
        "in rows of one kind": "idx[:, :1] % 2 == 0",
        "where the text is natural": "(idx == 511).sum(1, keepdim=True) < 3",
    }.items()
}


@pytest.fixture(params=["warm", "sealed"])
def any_scorer(request: pytest.FixtureRequest) -> Warm:
    parent: Warm = request.getfixturevalue(request.param)
    return parent


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_model_that_is_no_model_of_the_past_gets_no_number(any_scorer: Warm, cheat: str) -> None:
    result = any_scorer.launch(BIGRAM.replace("        return self.table(idx)", CHEATS[cheat].lstrip("\n"))).wait()
    assert result["val_bpb"] is None
    assert (result["state"], result["failure"]["kind"]) == ("crashed", "invalid_model")
    assert (result["fault"], result["ended_in"]) == ("code", "scoring")  # which bars the commit


def test_a_refused_model_is_told_the_rule_and_its_owner_the_place(any_scorer: Warm) -> None:
    code = BIGRAM.replace("        return self.table(idx)", CHEATS["looks ahead everywhere"].lstrip("\n"))
    launched = any_scorer.launch(code)
    message = launched.wait()["failure"]["message"]
    assert "looks ahead" in message and not any(character.isdigit() for character in message)
    assert "nats apart" not in (launched.run / protocol.RESULT).read_text(encoding="utf-8") + launched.log
    assert "nats apart" in protocol.read_finding(launched.run) and launched.hidden is None


def test_a_model_that_knows_the_validation_rows_and_looks_ahead_in_others_gets_no_number(any_scorer: Warm, data: Path) -> None:
    profile = prepare.PROFILES["tiny"]
    rows = np.fromfile(data / "val.bin", dtype=np.uint16)[: 400 * (profile.seq_len + 1)].reshape(400, -1)[:, :6]
    body = f"""
        known = {{{", ".join(str(tuple(row)) for row in rows.tolist())}}}
        logits = self.table(idx).clone()
        other = torch.tensor([tuple(row[:6]) not in known for row in idx.tolist()]).view(-1, 1, 1)
        logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], other * torch.full_like(logits[:, :-1, :1], 5.0))
        return logits"""
    launched = any_scorer.launch(BIGRAM.replace("        return self.table(idx)", body.lstrip("\n")))
    failure = launched.wait()["failure"]
    assert failure is not None and "looks ahead" in failure["message"]


def test_equal_answers_are_one_model_whatever_else_the_weights_hold(warm: Warm) -> None:
    junk = BIGRAM.replace("# before submit", "model.register_buffer('junk', torch.rand(1))")
    junk = junk.replace('Bigram(config["vocab_size"])', 'with_junk(Bigram(config["vocab_size"]))')
    junk = junk.replace(
        "def build_model", "def with_junk(model):\n    model.register_buffer('junk', torch.zeros(1))\n    return model\n\ndef build_model"
    )
    first, second, other = (warm.launch(code, seed=seed).wait()["hashes"] for code, seed in ((BIGRAM, 0), (junk, 0), (BIGRAM, 1)))
    assert first["answers"] == second["answers"] != other["answers"]
    assert first["weights"] != second["weights"]


LENGTHS = {
    "whole rows only": "assert idx.size(1) == 64\n        return self.table(idx)",
    "numbers that depend on the length of rows": "return self.table(idx) * (1 + (64 - idx.size(1)) * 1e-3)",
    "rows of a multiple of 16": "return self.table(idx.view(len(idx), -1, 16).view(len(idx), -1))",
}


@pytest.mark.parametrize("taken", LENGTHS)
def test_a_model_need_not_take_shorter_rows_than_the_contract_has(any_scorer: Warm, data: Path, taken: str) -> None:
    result = any_scorer.launch(BIGRAM.replace("return self.table(idx)", LENGTHS[taken])).wait()
    assert result["val_bpb"] == round(bigram_bpb(data), 4), result["failure"]


def test_neither_time_nor_digits_tell_how_the_hidden_split_went(warm: Warm) -> None:
    result = warm.launch(BIGRAM).wait()
    assert result["timings"]["score_s"] % prepare.PROFILES["tiny"].score_grid_s == 0
    assert round(result["val_bpb"], 4) == result["val_bpb"]


def test_the_evaluation_text_cannot_be_printed(any_scorer: Warm) -> None:
    """A log is for all agents to read: it has what the model printed of random tokens, once, and nothing of the text."""
    launched = any_scorer.launch(
        BIGRAM.replace("        return self.table(idx)", "        print('SAW', idx.shape)\n        return self.table(idx)")
    )
    assert launched.wait()["state"] == "finished"
    assert launched.log.count("SAW") == 1


def test_the_evaluation_text_cannot_be_raised(any_scorer: Warm) -> None:
    body = """
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 1:
            raise type("Saw", (ValueError,), {})(f"SAW {idx[0].tolist()}")
        return self.table(idx)"""
    launched = any_scorer.launch(BIGRAM.replace("        return self.table(idx)", body.lstrip("\n")))
    failure = launched.wait()["failure"]
    assert failure["kind"] == "invalid_model" and "is not kept" in failure["message"]
    assert "saw" not in (str(failure) + launched.log).lower()


def test_logits_that_are_not_finite_are_classed_nan(warm: Warm) -> None:
    result = warm.launch(BIGRAM.replace("# before submit", "model.table.weight.data.fill_(float('nan'))")).wait()
    assert (result["val_bpb"], result["failure"]["kind"]) == (None, "nan")


def test_logits_of_a_wrong_shape_are_explained(warm: Warm) -> None:
    result = warm.launch(BIGRAM.replace("return self.table(idx)", "return self.table(idx)[:, :, :100]")).wait()
    assert result["failure"]["kind"] == "invalid_model"
    assert "expected (16, 64, 512)" in result["failure"]["message"]


def test_weights_that_do_not_fit_the_model_are_explained_with_a_frame(warm: Warm) -> None:
    broken = BIGRAM.replace('return Bigram(config["vocab_size"])', 'raise KeyError("no such model")')
    failure = warm.launch(broken).wait()["failure"]
    assert failure["kind"] == "invalid_model" and "no such model" in failure["message"]
    assert any(line.startswith("train.py:") for line in failure["lines"])


def test_a_model_that_kills_itself_while_scored_is_invalid(warm: Warm) -> None:
    result = warm.launch(BIGRAM.replace("return self.table(idx)", "import os; os._exit(0)")).wait()
    assert (result["val_bpb"], result["failure"]["kind"]) == (None, "invalid_model")


def test_weights_must_be_a_plain_file_of_limited_size(warm: Warm) -> None:
    link = "import os\n    from pathlib import Path\n    real = model.state_dict()\n"
    link += "    run._send = lambda **m: (os.remove('model.safetensors'), os.symlink('/etc/passwd', 'model.safetensors'), client.Run._send(run, **m))"
    assert warm.launch(BIGRAM.replace("# before submit", link)).wait()["failure"]["kind"] == "invalid_model"
    large = "model.register_buffer('ballast', torch.zeros(3 << 20))"
    failure = warm.launch(BIGRAM.replace("# before submit", large)).wait()["failure"]
    assert failure["kind"] == "invalid_model" and "at most 8 MB" in failure["message"]


# Where logits stay on the device


def test_what_a_server_says_without_its_logits_is_the_same_number(sealed: Warm, data: Path) -> None:
    launched = sealed.launch(BIGRAM)
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["val_bpb"] == round(bigram_bpb(data), 4)
    assert launched.hidden == pytest.approx(bigram_bpb(data, "test"), abs=1e-5)


LIES = {
    "certain of everything": "real(x, *a) * 0",
    "a little too certain of everything": "real(x, *a) + 0.1",
    "certain of one token in eight": "real(x, *a) * (torch.arange(x.size(1))[:, None] % 8 > 0)",
    "not finite": "real(x, *a) / 0",
}


@pytest.mark.parametrize("lie", LIES)
def test_log_probabilities_that_are_not_those_of_the_logits_are_refused(sealed: Warm, lie: str) -> None:
    patch = f"def build_model(config):\n    real = torch.log_softmax\n    torch.log_softmax = lambda x, *a: {LIES[lie]}\n"
    result = sealed.launch(BIGRAM.replace("def build_model(config):\n", patch)).wait()
    assert result["val_bpb"] is None and result["failure"]["kind"] in ("invalid_model", "nan"), result


def test_logits_made_up_to_fit_a_lie_are_refused(sealed: Warm) -> None:
    """It says that it is certain of each next token, and shows logits that agree: of a decoy's, the original knows nothing."""
    patch = """def build_model(config):
    real, original = torch.log_softmax, torch.Tensor.gather
    torch.log_softmax = lambda x, *a: torch.zeros_like(x)
    def gather(self, dim, index, *a):
        if dim == 1:
            tokens = torch.cat([build_model.tokens[:, 1:], build_model.tokens[:, :1]], 1)
            self = torch.zeros_like(self).scatter_(2, tokens[:, :, None], 100.0)
        return original(self, dim, index, *a)
    torch.Tensor.gather = gather
"""
    remember = "build_model.tokens = idx\n        return self.table(idx)"
    code = BIGRAM.replace("def build_model(config):\n", patch).replace("return self.table(idx)", remember)
    failure = sealed.launch(code).wait()["failure"]
    assert failure is not None and failure["kind"] == "invalid_model" and "come later" in failure["message"], failure
