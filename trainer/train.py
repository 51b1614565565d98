"""Trains a small GPT for a fixed budget, then submits it. This is the one file that you edit.

Everything in it is fair game: model, optimizer, hyperparameters, batch size, schedule. Fixed are the contract with the
launcher (`connect`, `start`, `submit`, see trainer/client.py), the data, the tokenizer and the metric. The metric is
validation bits per byte, val_bpb, lower is better. A scorer measures it with the model that `build_model` below rebuilds.
The model must map token ids (rows, seq_len) to logits (rows, seq_len, vocab_size), each position from its own row's past
alone.

Cherry-picked from nanochat, after karpathy/autoresearch.
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from autoresearch_mcp.trainer import client, device

# ---------------------------------------------------------------------------
# GPT model
# ---------------------------------------------------------------------------


@dataclass
class GPTConfig:
    seq_len: int
    vocab_size: int
    n_layer: int
    n_embd: int
    head_dim: int
    window_pattern: str  # a letter a layer, repeated: L sees the whole row, S half of it; the last layer is always L
    softcap: float  # logits are squashed into (-softcap, softcap); 0 leaves them alone
    dtype: str = "float32"  # of activations and matrix products; weights and logits are float32
    attention: str = "sdpa"  # or fa3, FlashAttention 3 on Hopper


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """Weights in float32, the product in the activations' dtype."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


def has_value_embedding(layer, n_layer):
    """Return whether a layer has one: every second layer does, the last one always."""
    return layer % 2 == (n_layer - 1) % 2


def apply_rotary(x, cos, sin):
    half = x.size(-1) // 2
    x1, x2 = x[..., :half], x[..., half:]
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


class CausalSelfAttention(nn.Module):
    GATE_CHANNELS = 32

    def __init__(self, config, layer):
        super().__init__()
        self.n_head = config.n_embd // config.head_dim
        self.head_dim = config.head_dim
        self.attend = device.attention(config.attention)
        self.c_q = Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = Linear(config.n_embd, config.n_embd, bias=False)
        self.c_v = Linear(config.n_embd, config.n_embd, bias=False)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=False)
        gated = has_value_embedding(layer, config.n_layer)
        self.ve_gate = Linear(self.GATE_CHANNELS, self.n_head, bias=False) if gated else None

    def forward(self, x, ve, cos, sin, window):
        B, T, C = x.size()
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim)
        k = self.c_k(x).view(B, T, self.n_head, self.head_dim)
        v = self.c_v(x).view(B, T, self.n_head, self.head_dim)
        if ve is not None:  # value residual: mix in the token's value embedding, with a gate for each head
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.GATE_CHANNELS]))
            v = v + gate.unsqueeze(-1) * ve.view(B, T, self.n_head, self.head_dim)
        q, k = norm(apply_rotary(q, cos, sin)), norm(apply_rotary(k, cos, sin))
        return self.c_proj(self.attend(q, k, v, window).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attn = CausalSelfAttention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, ve, cos, sin, window):
        x = x + self.attn(norm(x), ve, cos, sin, window)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        pattern = config.window_pattern
        self.windows = [config.seq_len if pattern[i % len(pattern)] == "L" else config.seq_len // 2 for i in range(config.n_layer)]
        self.windows[-1] = config.seq_len
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.n_layer)])
        self.value_embeds = nn.ModuleDict(
            {
                str(i): nn.Embedding(config.vocab_size, config.n_embd)
                for i in range(config.n_layer)
                if has_value_embedding(i, config.n_layer)
            }
        )
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.full((config.n_layer,), 0.1))
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        frequencies = 10000 ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
        angles = torch.outer(torch.arange(config.seq_len, dtype=torch.float32), frequencies)
        self.dtype = getattr(torch, config.dtype)
        self.register_buffer("cos", angles.cos()[None, :, None, :].to(self.dtype), persistent=False)
        self.register_buffer("sin", angles.sin()[None, :, None, :].to(self.dtype), persistent=False)

    @torch.no_grad()
    def init_weights(self):
        nn.init.normal_(self.wte.weight, std=1.0)
        nn.init.normal_(self.lm_head.weight, std=0.001)
        bound = (3 / self.config.n_embd) ** 0.5  # uniform with a standard deviation of 1/sqrt(n_embd)
        for block in self.blocks:
            for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
                nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
            if block.attn.ve_gate is not None:
                nn.init.zeros_(block.attn.ve_gate.weight)  # sigmoid(0) * 2 = 1: neutral
        for embedding in self.value_embeds.values():
            nn.init.uniform_(embedding.weight, -bound, bound)

    def forward(self, idx, targets=None):
        cos, sin = self.cos[:, : idx.size(1)], self.sin[:, : idx.size(1)]
        x = x0 = norm(self.wte(idx).to(self.dtype))
        for i, block in enumerate(self.blocks):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](idx).to(self.dtype) if str(i) in self.value_embeds else None
            x = block(x, ve, cos, sin, self.windows[i])
        x = norm(x)
        if targets is not None and x.is_cpu:
            return CappedCrossEntropy.apply(x.flatten(0, 1), self.lm_head.weight, targets.flatten(), self.config.softcap)
        logits, cap = self.lm_head(x).float(), self.config.softcap
        if cap:  # cap * tanh(logits / cap) but for a constant, see below
            logits = 2 * cap * torch.sigmoid(logits * (2 / cap))
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def num_flops_per_token(self):
        """Count the matrix products of a forward and a backward pass: 6 a weight, and attention's 12 a channel and position."""
        embeddings = self.wte.weight.numel() + sum(e.weight.numel() for e in self.value_embeds.values())
        weights = sum(p.numel() for p in self.parameters()) - embeddings
        return 6 * weights + 12 * self.config.n_embd * sum(self.windows)


class CappedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softcapped logits on a CPU, a few positions at a time.

    All logits never exist at once, and the gradient is taken on the way forward, in place, while a chunk is in the cache.
    c * tanh(z / c) is 2c * sigmoid(2z / c) but for a constant, which the softmax doesn't see, and a sigmoid costs a third.
    A GPU gets the formula in `GPT.forward`, compiled.
    """

    CHUNK = 128  # positions

    @staticmethod
    def forward(ctx, x, weight, targets, softcap):
        n = x.size(0)
        scale = 2 / softcap if softcap else 1.0
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        probs = x.new_empty(CappedCrossEntropy.CHUNK, weight.size(0))
        caps = torch.empty_like(probs) if softcap else None
        nats = []
        for i in range(0, n, CappedCrossEntropy.CHUNK):
            chunk, target = x[i : i + CappedCrossEntropy.CHUNK] * scale, targets[i : i + CappedCrossEntropy.CHUNK, None]
            p = torch.mm(chunk, weight.T, out=probs[: len(chunk)])
            if softcap:
                s = torch.sigmoid(p, out=caps[: len(chunk)])
                torch.mul(s, 2 * softcap, out=p)
            torch.softmax(p, -1, out=p)
            likelihood = p.gather(1, target)
            nats.append(likelihood.clamp_min(1e-38).log().sum())
            p.scatter_(1, target, likelihood - 1)
            if softcap:  # d/dz of 2c * sigmoid(2z / c) is 4 * s * (1 - s)
                torch.ops.aten.sigmoid_backward.grad_input(p, s, grad_input=p)
            torch.mm(p, weight, out=grad_x[i : i + len(chunk)])
            grad_weight.addmm_(p.T, chunk)
        slope = 4 if softcap else 1
        ctx.save_for_backward(grad_x.mul_(slope / n), grad_weight.mul_(slope / (n * scale)))
        return -torch.stack(nats).sum() / n

    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x.mul_(grad), grad_weight.mul_(grad), None, None


def build_model(config):
    """Build the model of a submitted config. The scorer calls this, then loads the submitted weights."""
    return GPT(GPTConfig(**config))


# ---------------------------------------------------------------------------
# Optimizer: Muon for matrices, AdamW for the rest
# ---------------------------------------------------------------------------

# Coefficients of Polar Express (https://arxiv.org/pdf/2505.16932), a Newton-Schulz iteration tuned step by step
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with a per-neuron second moment (NorMuon) and cautious weight decay. Matrices of one shape step as a stack."""

    def __init__(self, params, lr, momentum, beta2, weight_decay, dtype=torch.float32):
        self.dtype = dtype  # in which matrices are orthogonalised
        shapes = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        super().__init__(
            [{"params": group} for group in shapes.values()], {"lr": lr, "momentum": momentum, "beta2": beta2, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = group["params"]
            grads, weights = torch.stack([p.grad for p in params]), torch.stack(params)
            state = self.state[params[0]]
            wide = grads.size(-1) > grads.size(-2)
            if not state:
                state["momentum"] = torch.zeros_like(grads)
                state["second"] = torch.zeros_like(grads[:, :1] if wide else grads[:, :, :1])
            state["momentum"].lerp_(grads, 1 - group["momentum"])
            x = orthogonalize(grads.lerp(state["momentum"], group["momentum"]), wide, self.dtype)
            mean_square = x.square().mean(dim=-2 if wide else -1, keepdim=True)
            state["second"].lerp_(mean_square, 1 - group["beta2"])
            scaled = x * state["second"].clamp_min(1e-10).rsqrt()
            x = scaled * (x.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
            lr = group["lr"] * max(1.0, x.size(-2) / x.size(-1)) ** 0.5
            decay = weights * (x * weights >= 0)  # only where the step already shrinks the weight
            weights -= lr * x + lr * group["weight_decay"] * decay
            torch._foreach_copy_(params, list(weights.unbind(0)))


def orthogonalize(x, wide, compute_dtype):
    """Return the nearest matrix with singular values near 1, for each matrix of the stack."""
    dtype = x.dtype
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)).to(compute_dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT if wide else x.mT @ x
        poly = b * gram + c * (gram @ gram)
        x = a * x + (poly @ x if wide else x @ poly)
    return x.to(dtype)


def build_optimizers(model):
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and min(p.shape) > 4]
    gates = [p for p in model.blocks.parameters() if p.ndim == 2 and min(p.shape) <= 4]
    scale = (model.config.n_embd / 768) ** -0.5  # learning rates were tuned at width 768
    groups = [
        {"params": model.lm_head.parameters(), "lr": UNEMBEDDING_LR * scale},
        {"params": model.wte.parameters(), "lr": EMBEDDING_LR * scale},
        {"params": model.value_embeds.parameters(), "lr": EMBEDDING_LR * scale},
        {"params": gates, "lr": UNEMBEDDING_LR * scale},
        {"params": [model.resid_lambdas], "lr": SCALAR_LR * 0.01},
        {"params": [model.x0_lambdas], "lr": SCALAR_LR, "betas": (0.96, 0.95)},
    ]
    adamw = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=1e-10, weight_decay=0.0, fused=True)
    wide_range = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32  # float16 has too small a range
    muon = Muon(matrices, lr=MATRIX_LR, momentum=0.95, beta2=0.95, weight_decay=WEIGHT_DECAY, dtype=wide_range)
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return adamw, muon


# ---------------------------------------------------------------------------
# Hyperparameters: edit these, they are all that is read below
# ---------------------------------------------------------------------------

# Model
DEPTH = 2  # layers
WIDTH = 64  # channels of the residual stream
HEAD_DIM = 32  # channels a head
WINDOW_PATTERN = "L"  # a letter a layer: L whole row, S half of it
SOFTCAP = 15.0  # logits; 0 for none

# Optimization
BATCH_TOKENS = 1024  # tokens a step
DEVICE_ROWS = 128  # rows at once, at most; a step with more takes them in turns
EMBEDDING_LR = 0.6  # Adam, token and value embeddings
UNEMBEDDING_LR = 0.004  # Adam, lm_head
MATRIX_LR = 0.04  # Muon
SCALAR_LR = 0.5  # Adam, residual scalars
WEIGHT_DECAY = 0.2  # cautious, Muon only, falls to 0 over the run
ADAM_BETAS = (0.8, 0.95)
WARMUP_RATIO = 0.0  # share of the budget with a rising learning rate
WARMDOWN_RATIO = 0.5  # share of the budget with a falling learning rate
FINAL_LR_FRAC = 0.0  # of the initial learning rate, at the end

if client.profile() == "h100":  # the same, on a larger scale
    DEPTH, WIDTH, HEAD_DIM, WINDOW_PATTERN = 8, 512, 128, "SSSL"
    BATCH_TOKENS = 2**19
elif client.profile() in ("gpu", "mps"):  # on cards of 8 GB or more, and on Apple's
    DEPTH, WIDTH, HEAD_DIM, WINDOW_PATTERN = 6, 384, 64, "SSL"
    BATCH_TOKENS, DEVICE_ROWS = 2**16, 16

# ---------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------

PRINT_EVERY = 50  # steps


def lr_multiplier(progress):
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress < 1.0 - WARMDOWN_RATIO:
        return 1.0
    cooldown = max(0.0, 1.0 - progress) / WARMDOWN_RATIO
    return cooldown + (1 - cooldown) * FINAL_LR_FRAC


def batches(tokens, rows, seq_len, seed):
    """Yield inputs and targets (rows, seq_len) and the epoch, cut from the stream in a random order without repeats; then again."""
    random = np.random.default_rng(seed)
    epoch = 0
    while True:
        epoch += 1
        offset = random.integers(seq_len)
        starts = random.permutation(np.arange(offset, len(tokens) - seq_len - 1, seq_len))
        for i in range(0, len(starts) - rows + 1, rows):
            cut = np.stack([tokens[s : s + seq_len + 1] for s in starts[i : i + rows]]).astype(np.int64)
            cut = torch.from_numpy(cut)
            yield cut[:, :-1].contiguous(), cut[:, 1:].contiguous(), epoch


def main():
    t_start = time.time()
    run = client.connect()
    kind, seq_len, seed = run.config["device"], run.config["seq_len"], run.config["seed"]
    torch.manual_seed(seed)
    dtype, attention = device.choose(run.config)
    run.note(dtype=dtype, attention=attention)

    config = GPTConfig(seq_len, run.config["vocab_size"], DEPTH, WIDTH, HEAD_DIM, WINDOW_PATTERN, SOFTCAP, dtype, attention)
    model = GPT(config).to(kind)
    model.init_weights()
    optimizers = build_optimizers(model)
    muon = optimizers[1]
    scaler = torch.amp.GradScaler(kind, enabled=dtype == "float16")  # without it small gradients are 0 in float16
    rows = min(BATCH_TOKENS // seq_len, DEVICE_ROWS)
    turns = BATCH_TOKENS // (rows * seq_len)
    step_tokens = turns * rows * seq_len
    peak_flops, flops_per_token = device.peak_flops(kind), model.num_flops_per_token()
    num_params = sum(p.numel() for p in model.parameters())
    print(f"{config}\nparameters: {num_params:,} | flops a token: {flops_per_token:.3g} | rows a step: {turns} x {rows}")
    forward = torch.compile(model, dynamic=False) if kind == "cuda" else model

    # Warm up: the first pass through compiler, kernels and allocator is slow, and the clock doesn't run yet
    for _ in range(2):
        x, y = (torch.randint(config.vocab_size, (rows, seq_len), device=kind) for _ in range(2))
        forward(x, y).backward()
        model.zero_grad(set_to_none=True)
    device.freeze_garbage()

    loader = device.ahead(batches(run.start(), rows, seq_len, seed), kind)
    t_train = t_print = time.time()
    step, last_print, smooth_loss, longest = 0, 0, 0.0, 0.0
    hopeless = 2 * math.log(config.vocab_size)  # nats; half of it is the loss of knowing nothing
    progress = run.progress()
    while progress + longest < 1.0:  # never begin a step that the budget may not see the end of
        losses = []
        for _ in range(turns):
            x, y, epoch = next(loader)
            loss = forward(x, y) / turns
            scaler.scale(loss).backward()
            losses.append(loss.detach())
        lrm = lr_multiplier(progress)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * lrm
        for group in muon.param_groups:
            group["momentum"] = 0.85 + 0.10 * min(step / 300, 1)
            group["weight_decay"] = WEIGHT_DECAY * (1 - progress)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        model.zero_grad(set_to_none=True)

        step += 1
        train_loss = sum(losses).item()
        smooth_loss = 0.9 * smooth_loss + 0.1 * train_loss
        debiased_loss = smooth_loss / (1 - 0.9**step)
        run.log(step=step, loss=train_loss, tokens=step * step_tokens)
        if not math.isfinite(train_loss) or debiased_loss > hopeless:
            raise FloatingPointError(f"the loss is {train_loss:.4g} at step {step}")
        before, progress = progress, run.progress()
        longest = max(longest, progress - before)
        if step % PRINT_EVERY == 0 or progress + longest >= 1.0:
            dt = (time.time() - t_print) / (step - last_print)
            t_print, last_print = time.time(), step
            mfu = f"{100 * flops_per_token * step_tokens / dt / peak_flops:.1f}%" if peak_flops else "-"
            print(
                f"step {step:05d} ({100 * progress:.1f}%) | loss: {debiased_loss:.4f} | lrm: {lrm:.2f} | "
                f"dt: {1000 * dt:.0f}ms | tok/sec: {step_tokens / dt:,.0f} | mfu: {mfu} | epoch: {epoch}"
            )

    seconds = time.time() - t_train
    print("---")
    print(f"training_seconds: {seconds:.1f}")
    print(f"total_seconds:    {time.time() - t_start:.1f}")
    if kind == "cuda":
        print(f"peak_vram_mb:     {torch.cuda.max_memory_allocated() / 2**20:.1f}")
    if peak_flops:
        print(f"mfu_percent:      {100 * flops_per_token * step * step_tokens / seconds / peak_flops:.2f}")
    print(f"total_tokens_M:   {step * step_tokens / 1e6:.3f}")
    print(f"num_steps:        {step}")
    print(f"num_params_M:     {num_params / 1e6:.3f}")
    print(f"depth:            {DEPTH}")
    run.submit(model.state_dict(), asdict(config))


if __name__ == "__main__":
    main()
