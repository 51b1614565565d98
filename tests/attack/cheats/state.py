"""Learns while it is tested, or from other rows of the batch."""

HOW = "rows"


class Model(Model):
    def __init__(self, config):
        super().__init__(config)
        self.seen = torch.zeros(config["vocab_size"])

    def forward(self, idx):
        logits = self.table(idx)
        size = logits.size(-1)
        if HOW == "rows":  # the frequencies of all rows so far
            logits = torch.logaddexp(logits, (self.seen + 1e-3).log() - (self.seen.sum() + 1).log() - 3)
            self.seen += torch.bincount(idx.flatten(), minlength=size)
        elif HOW == "gradient":  # a step of descent on what it was asked
            with torch.inference_mode(False), torch.enable_grad():
                table = self.table.weight.detach().clone().requires_grad_()
                loss = torch.nn.functional.cross_entropy(table[idx[:, :-1].clone()].flatten(0, 1), idx[:, 1:].clone().flatten())
                loss.backward()
                self.table.weight.data = table.detach() - 5.0 * table.grad
        elif HOW == "batch":  # the other rows of the batch
            counts = torch.bincount(idx.flatten(), minlength=size) + 1e-3
            logits = torch.logaddexp(logits, (counts / counts.sum()).log() - 3)
        elif HOW == "place":  # the number of the row in its batch
            logits = logits + torch.arange(idx.size(0))[:, None, None] * 1e-2 * (torch.arange(size) % 2)
        return logits
