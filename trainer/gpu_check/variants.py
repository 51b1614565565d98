"""Makes the train.py of each question from the stock one, by replacing text. It fails where the stock one no longer has that text."""

from pathlib import Path

from autoresearch_mcp.trainer import compile_cache
from autoresearch_mcp.trainer.gpu_check.machine import CheckError

INSIDE = "gpu-check: "  # begins the line on which code in the sandbox says what it could do


def stock() -> str:
    """Return the stock train.py."""
    return compile_cache.STOCK.read_text(encoding="utf-8")


def _replaced(code: str, old: str, new: str) -> str:
    if code.count(old) != 1:
        raise CheckError(f"the stock train.py no longer holds the line {old.strip()!r} once: adapt trainer/gpu_check/variants.py.")
    return code.replace(old, new)


def with_flex_attention() -> str:
    """Return a train.py whose windows are FlexAttention's.

    On a CPU, where that has no backward pass, it trains with SDPA and checks on the way that FlexAttention says the same.
    """
    return _replaced(
        _replaced(stock(), "    model = GPT(config).to(kind)\n", "    model = GPT(config).to(kind)\n    use_flex(model, kind)\n"),
        "def main():\n",
        _FLEX + "\n\ndef main():\n",
    )


_FLEX = """\
def use_flex(model, kind):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = model.config.seq_len

    def block_mask(window):
        return create_block_mask(lambda b, h, q, k: (q >= k) & (q - k < window), None, None, length, length, device=kind)

    masks = {window: block_mask(window) for window in set(model.windows) | {length // 2}}

    def attend(q, k, v, window):
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return flex_attention(q, k, v, block_mask=masks[window]).transpose(1, 2)

    def attend_and_compare(q, k, v, window):
        sdpa, detached = device.attention("sdpa"), (q.detach(), k.detach(), v.detach())
        for each in (window, length // 2):
            torch.testing.assert_close(attend(*detached, each), sdpa(*detached, each), atol=1e-4, rtol=1e-4)
        return sdpa(q, k, v, window)

    for block in model.blocks:
        block.attn.attend = attend if kind == "cuda" else attend_and_compare
"""


def with_a_look_ahead(share: float) -> str:
    """Return a train.py that submits an honest model, and looks at the next token at this share of the positions when it is scored."""
    return _replaced(
        stock(),
        "    return GPT(GPTConfig(**config))\n",
        f"    return LookAhead(GPT(GPTConfig(**config)), {round(1 / share)})\n\n\n{_LOOK_AHEAD}",
    )


_LOOK_AHEAD = """\
class LookAhead(nn.Module):
    def __init__(self, model, every):
        super().__init__()
        self.model, self.every = model, every

    def load_state_dict(self, weights):
        return self.model.load_state_dict(weights)

    def forward(self, idx):
        logits = self.model(idx)
        at = torch.arange(self.every // 2, idx.size(1) - 1, self.every, device=idx.device)
        logits[:, at] += 20.0 * F.one_hot(idx[:, at + 1], logits.size(-1))
        return logits
"""


def from_inside(data: Path, forbidden: Path) -> str:
    """Return a train.py that tries out its sandbox before start(), says what it could do, and then trains as the stock one.

    Args:
        data: directory of the prepared data, which it must not read.
        forbidden: a directory that it must not write.
    """
    report = f"    from_inside(kind, {str(data)!r}, {str(forbidden)!r})\n    device.freeze_garbage()\n"
    return _replaced(
        _replaced(stock(), "    device.freeze_garbage()\n", report),
        "def main():\n",
        _FROM_INSIDE.replace("PREFIX", repr(INSIDE)) + "\n\ndef main():\n",
    )


_FROM_INSIDE = """\
def from_inside(kind, data, forbidden):
    import json
    import os
    import socket

    def connect():
        with socket.socket() as s:
            s.settimeout(2)
            s.connect(("127.0.0.1", 9))

    def write():
        with open(os.path.join(forbidden, "written"), "w") as file:
            file.write("x")

    def read(path):
        with open(path, "rb") as file:
            file.read(1)

    def needed():
        x = torch.randn(256, 256, device=kind)
        if kind == "cuda":
            x.cpu().pin_memory().to(kind, non_blocking=True)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                x @ x
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                x @ x
            graph.replay()
            torch.cuda.synchronize()
            torch.cuda.mem_get_info()
        else:
            x @ x

    tries = {
        "read validation text": lambda: read(os.path.join(data, "val.bin")),
        "read the hidden split": lambda: read(os.path.join(data, "test.bin")),
        "read the memory of its launcher": lambda: read(f"/proc/{os.getppid()}/mem"),
        "list other processes' files": lambda: os.listdir(f"/proc/{os.getppid()}/fd"),
        "write outside of its scratch directory": write,
        "connect over TCP": connect,
        "signal its launcher": lambda: os.kill(os.getppid(), 0),
    }
    could = {}
    for name, attempt in {**tries, "what a training needs": needed}.items():
        try:
            attempt()
            could[name] = "yes"
        except ConnectionRefusedError:
            could[name] = "yes"
        except OSError as error:
            could[name] = f"no: {type(error).__name__}"
        except Exception as error:
            could[name] = f"no: {error!r}"[:300]
    opened = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            opened.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    with open("/proc/self/maps") as maps:
        mapped = {line.split(None, 5)[5].strip() for line in maps if "/dev/" in line}
    devices = sorted(path for path in opened | mapped if path.startswith("/dev/"))
    print(PREFIX + json.dumps({"could": could, "devices": devices}), flush=True)
"""
