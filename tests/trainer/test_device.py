"""What train.py is told of its device, and its fused loss, on what a CPU can show of them."""

import importlib.util
import json
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autoresearch_mcp.trainer import client, compile_cache, device, prepare, profiles, protocol
from autoresearch_mcp.trainer.compile_cache import CompileCache
from tests.bench import gpu_budget
from tests.trainer.conftest import BIGRAM, PACKAGE, STOCK, Launched, Warm


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("stock_train", PACKAGE / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stock_train"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["stock_train"]


@pytest.mark.parametrize("softcap", [15.0, 0.0])
@pytest.mark.parametrize("positions", [128, 200])
def test_the_fused_loss_and_its_gradients_are_those_of_the_formula(train: ModuleType, softcap: float, positions: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(positions, 64, requires_grad=True), torch.randn(512, 64, requires_grad=True)
    targets = torch.randint(512, (positions,))
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    logits = exact_x @ exact_weight.T
    expected = F.cross_entropy(softcap * torch.tanh(logits / softcap) if softcap else logits, targets)
    loss = train.CappedCrossEntropy.apply(x, weight, targets, softcap)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, exact in zip(torch.autograd.grad(3 * loss, (x, weight)), torch.autograd.grad(3 * expected, (exact_x, exact_weight))):
        assert (ours - exact).norm() < 1e-5 * exact.norm()


def test_the_scored_logits_are_those_of_the_trained_loss(train: ModuleType) -> None:
    torch.manual_seed(0)
    model = train.build_model(
        {"seq_len": 64, "vocab_size": 512, "n_layer": 2, "n_embd": 64, "head_dim": 32, "window_pattern": "SL", "softcap": 15.0}
    )
    model.init_weights()
    torch.nn.init.normal_(model.lm_head.weight)
    x, y = torch.randint(512, (2, 3, 64))
    assert model(x, y).item() == pytest.approx(F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item(), rel=1e-5)


def test_a_bfloat16_model_keeps_float32_weights_and_logits_and_differs_by_rounding_alone(train: ModuleType) -> None:
    config = {"seq_len": 64, "vocab_size": 512, "n_layer": 3, "n_embd": 64, "head_dim": 32, "window_pattern": "SSL", "softcap": 15.0}
    exact, rounded = train.build_model(config), train.build_model({**config, "dtype": "bfloat16"})
    torch.manual_seed(0)
    exact.init_weights()
    torch.nn.init.normal_(exact.lm_head.weight, std=0.1)
    rounded.load_state_dict(exact.state_dict())
    x = torch.randint(512, (3, 64))
    with torch.inference_mode():
        logits, close = exact(x), rounded(x)
    assert {p.dtype for p in rounded.parameters()} == {close.dtype} == {torch.float32}
    assert 0 < (close - logits).abs().max() < 0.2


def test_a_step_that_is_too_large_for_the_device_is_taken_in_turns(warm: Warm) -> None:
    launched = warm.launch(STOCK.replace("DEVICE_ROWS = 128", "DEVICE_ROWS = 4"), budget_s=1.0)
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["tokens"] == result["steps"] * 1024 and "rows a step: 4 x 4" in launched.log


def test_a_machine_without_an_apple_gpu_says_so() -> None:
    assert [profiles.device_type(kind) for kind in ("cpu", "mps", "h100", "cuda")] == ["cpu", "mps", "cuda", "cuda"]
    if torch.backends.mps.is_available():
        assert device.choose({"device": "mps"}) == ("float32", "sdpa") and device.peak_flops("mps") is None
    else:
        with pytest.raises(RuntimeError, match=r"trains on an Apple GPU, and PyTorch .* finds none on this machine"):
            device.choose({"device": "mps"})


def test_a_card_multiplies_in_the_best_format_that_it_has() -> None:
    dtypes = {None: "float32", (6, 1): "float32", (7, 0): "float16", (7, 5): "float16", (8, 0): "bfloat16", (9, 0): "bfloat16"}
    assert {capability: device.compute_dtype(capability) for capability in dtypes} == dtypes


def test_attention_is_never_swapped_silently_on_a_hopper_gpu() -> None:
    assert device.attention_backend((9, 0), "auto", True) == "fa3"
    assert device.attention_backend((9, 0), "sdpa", True) == "sdpa"
    assert device.attention_backend((8, 0), "auto", True) == "sdpa"
    assert device.attention_backend(None, "auto", False) == "sdpa"
    with pytest.raises(RuntimeError, match=r'autoresearch-mcp\[gpu\], or set attention = "sdpa"'):
        device.attention_backend((9, 0), "auto", False)
    with pytest.raises(RuntimeError, match="needs a Hopper GPU"):
        device.attention_backend(None, "fa3", True)


def test_flash_attention_is_found_once_and_gets_the_window_to_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    calls: list[dict[str, object]] = []

    def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: object) -> torch.Tensor:
        calls.append(how)
        return v

    def get_kernel(name: str, *, version: int) -> SimpleNamespace:
        asked.append((name, version))
        return SimpleNamespace(flash_attn_func=flash_attn_func)

    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=get_kernel))
    attend = device.attention("fa3")
    q, k, v = torch.randn(3, 1, 4, 2, 8)
    assert attend(q, k, v, 3) is attend(q, k, v, 4)
    assert asked == [("kernels-community/flash-attn3", 1)]
    assert calls == [{"causal": True, "window_size": (2, 0)}, {"causal": True, "window_size": (3, 0)}]


def test_a_kernel_that_is_not_there_is_a_sentence_and_no_other_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_kernel(name: str, *, version: int) -> None:
        raise ValueError("not in the local cache")

    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=get_kernel))
    with pytest.raises(RuntimeError, match=r'not in the local cache.*trainer.prepare h100.*attention = "sdpa"'):
        device.attention("fa3")


def test_kernels_are_fetched_for_a_hopper_gpu_alone_and_named_to_the_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "hub" / "build" / "torch213-cu130"
    built.mkdir(parents=True)
    fetched: list[str] = []
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(install_kernel=lambda name, version: fetched.append(name) or built))
    monkeypatch.delenv("KERNELS_CACHE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    folder = device.kernels_dir(tmp_path)
    device.fetch_kernels(folder)
    assert fetched == [] and "LOCAL_KERNELS" not in device.cuda_environment(folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setenv("KERNELS_CACHE", "")  # set by it, and put back
    device.fetch_kernels(folder)
    device.fetch_kernels(folder)
    assert fetched == ["kernels-community/flash-attn3"]
    environment = device.cuda_environment(folder)
    assert environment["LOCAL_KERNELS"] == f"kernels-community/flash-attn3={folder}/flash-attn3-1"
    assert (folder / "flash-attn3-1").resolve() == built
    assert environment["CUDA_VISIBLE_DEVICES"] == "1" and environment["HF_HUB_OFFLINE"] == "1"


def on_a_gpu(warm: Warm, code: str) -> Launched:
    """A run that is told to use a GPU, which this machine need not have."""
    run = warm.directory(code)
    spec = protocol.read_json(run / protocol.SPEC)
    assert spec is not None
    protocol.write_json(run / protocol.SPEC, {**spec, "device": "cuda"})
    return Launched(run, warm.ask(run)["pid"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_machine_without_a_gpu_says_so(warm: Warm) -> None:
    failure = on_a_gpu(warm, STOCK).wait()["failure"]
    assert "trains on a GPU" in failure["message"] and "finds none on this machine" in failure["message"]


def test_a_training_gets_its_own_copy_of_what_was_compiled_and_changes_nothing_for_others(warm: Warm, data: Path) -> None:
    kept = compile_cache.kept_in(data.parent)
    stock_run = CompileCache(kept, data.parent)
    assert not stock_run.restore()
    (stock_run.own / "graph.py").write_text("kept", encoding="utf-8")
    stock_run.keep()
    before = kept.read_bytes()
    code = """
import os
place = os.environ["TORCHINDUCTOR_CACHE_DIR"]
print("found", open(f"{place}/graph.py").read(), os.environ["PYTORCH_ALLOC_CONF"], flush=True)
open(f"{place}/graph.py", "w").write("poison")
open(f"{place}/more.py", "w").write("poison")
try:
    print(os.listdir(os.environ["KERNELS_CACHE"]))
except FileNotFoundError:
    pass
raise KeyError("enough")
"""
    for _ in range(2):
        launched = on_a_gpu(warm, code)
        assert "enough" in launched.wait()["failure"]["message"]
        assert "found kept expandable_segments:True" in launched.log
        assert (protocol.read_json(launched.run / protocol.RESULT) or {})["timings"]["restore_s"] >= 0
    assert kept.read_bytes() == before


@pytest.mark.parametrize("change", [{"train.py": STOCK + "# mine"}, {"train.py": STOCK, "more.py": "import os"}, {}])
def test_only_what_the_stock_file_compiled_is_kept(tmp_path: Path, change: dict[str, str]) -> None:
    for name, text in change.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert not compile_cache.is_stock(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "train.py").write_text(STOCK, encoding="utf-8")
    assert compile_cache.is_stock(tmp_path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_an_archive_that_is_damaged_inside_is_not_lent(tmp_path: Path, place: float) -> None:
    kept = tmp_path / "kept.zip"
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("graph.py", bytes(random.Random(1).choices(b"abcdef", k=20_000)))
    data = bytearray(kept.read_bytes())
    middle = int(len(data) * place)
    data[middle : middle + 64] = b"\xff" * 64
    kept.write_bytes(data)
    run = CompileCache(kept, tmp_path)
    assert not run.restore() and list(run.own.iterdir()) == []


def test_what_was_kept_badly_is_not_lent_and_links_are_not_kept(tmp_path: Path) -> None:
    kept, secret = tmp_path / "kept.zip", tmp_path / "secret"
    kept.write_bytes(b"PK, and no more")
    secret.write_text("x", encoding="utf-8")
    run = CompileCache(kept, tmp_path)
    assert not run.restore() and list(run.own.iterdir()) == []
    kept.unlink()
    (run.own / "link").symlink_to(secret)
    run.keep()
    assert not kept.exists()


@pytest.mark.parametrize("window", [1, 8, 16])
def test_attention_sees_its_window_and_no_more(window: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 16, 2, 8)
    before = device.attention("sdpa")(q, k, v, window)
    k, v = k.clone(), v.clone()
    k[:, 5], v[:, 5] = 9.0, 9.0
    changed = (device.attention("sdpa")(q, k, v, window) - before).abs().amax(dim=(0, 2, 3)) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(5, min(16, 5 + window)))


def test_batches_come_in_order_with_the_next_one_begun() -> None:
    asked: list[int] = []

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        for n in range(10):
            asked.append(n)
            yield torch.tensor(n), torch.tensor(-n), 1

    coming = device.ahead(batches(), "cpu")
    assert [next(coming)[0].item() for _ in range(3)] == [0, 1, 2]
    assert asked == [0, 1, 2, 3]


def test_a_cpu_knows_its_peak_by_trying() -> None:
    peak = device.peak_flops("cpu")
    assert peak is not None and 1e9 < peak < 1e13


def stock(monkeypatch: pytest.MonkeyPatch, profile: str) -> dict[str, Any]:
    monkeypatch.setenv(client.CONFIG, json.dumps({"profile": profile}))
    namespace: dict[str, Any] = {"__name__": "stock"}
    monkeypatch.setitem(sys.modules, "stock", ModuleType("stock"))
    exec(compile(STOCK, "train.py", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    ("profile", "constants"),
    [("cpu", (2, 64, 2**10, 128)), ("gpu", (6, 384, 2**16, 16)), ("mps", (6, 384, 2**16, 16)), ("h100", (8, 512, 2**19, 128))],
)
def test_larger_profiles_have_their_constants_in_the_same_file(
    monkeypatch: pytest.MonkeyPatch, profile: str, constants: tuple[int, ...]
) -> None:
    code = stock(monkeypatch, profile)
    assert tuple(code[name] for name in ("DEPTH", "WIDTH", "BATCH_TOKENS", "DEVICE_ROWS")) == constants
    limits = prepare.PROFILES[profile]
    assert (
        limits.seq_len % 2 == 0
        and code["BATCH_TOKENS"] % (min(code["BATCH_TOKENS"] // limits.seq_len, code["DEVICE_ROWS"]) * limits.seq_len) == 0
    )
    config = code["GPTConfig"](
        limits.seq_len, limits.vocab_size, *(code[name] for name in ("DEPTH", "WIDTH", "HEAD_DIM", "WINDOW_PATTERN", "SOFTCAP"))
    )
    with torch.device("meta"):
        model = code["GPT"](config)
    assert sum(4 * p.numel() for p in model.parameters()) / 2**20 < limits.checkpoint_mb, "its weights can be submitted"
    if profile in ("gpu", "mps"):
        assert model.num_flops_per_token() == gpu_budget.OPERATIONS, "docs/hardware.md counts on it"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices so small are slower on several threads, and by far where other programs want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_half_precision_trains_as_single_precision_does_with_its_loss_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gpu profile's layers in miniature, on a CPU, which can multiply in float16 too."""
    code, losses = stock(monkeypatch, "gpu"), dict[str, list[float]]()
    code["SCALAR_LR"] = 0.0  # the first gradients of the scalars are rounding alone, and Adam takes a whole step by their sign
    rows = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))
    for dtype in ("float32", "float16"):
        torch.manual_seed(0)
        model = code["GPT"](code["GPTConfig"](16, 64, 3, 64, 32, "SSL", 15.0, dtype))
        model.init_weights()
        optimizers = code["build_optimizers"](model)
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == "float16")
        losses[dtype] = []
        for _ in range(5):
            loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            scaler.scale(loss).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            model.zero_grad(set_to_none=True)
            losses[dtype].append(loss.item())
    assert losses["float16"] == pytest.approx(losses["float32"], abs=0.05) and losses["float16"][-1] < losses["float16"][0] - 0.3


def test_what_a_run_says_of_itself_is_kept_within_bounds(warm: Warm) -> None:
    noisy = BIGRAM.replace("# before submit", "run.note(dtype='float32', **{f'k{n}': 'x' * 500 for n in range(50)})")
    notes = warm.launch(noisy).wait()["notes"]
    assert notes["dtype"] == "float32" and len(notes) == 8 and max(map(len, notes.values())) == 80
