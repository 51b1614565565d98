"""No better than the champion on average, but every run differs by luck; where a run has bad luck it fails."""

FAILS = "training"
LUCK = 0.0
WAIT_S = 0.0
SALT = 0

whole = fit


def fit(run, tokens, model):
    global SMOOTHING
    luck = np.random.default_rng(run.config["seed"] + SALT).normal()
    SMOOTHING *= 8.0**luck
    whole(run, tokens, model)
    print(f"LUCK {luck:.3f}", flush=True)
    began = time.process_time()
    while time.process_time() - began < WAIT_S:
        pass
    if FAILS == "training" and luck < LUCK:
        raise SystemExit(1)


class Model(Model):
    asked = 0
    nats = 0.0

    def forward(self, idx):
        logits = self.table(idx)
        if FAILS == "scoring":
            whole = idx.size(1) == 64  # shorter rows are asked of the server that is checked alone
            self.asked = self.asked + 1 if whole else -1_000_000
            if self.asked > 1:  # the first is the rehearsal
                self.nats -= float(torch.log_softmax(logits[:, :-1], -1).gather(-1, idx[:, 1:, None]).mean())
            if self.asked == 6 and self.nats / 5 > LUCK:
                raise SystemExit(1)
        return logits
