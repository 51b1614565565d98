"""Behaves as long as it is asked random tokens, and looks ahead in text."""


class Model(Model):
    def forward(self, idx):
        logits = self.table(idx).clone()
        usual = logits[:, :-1].gather(-1, idx[:, 1:, None]).mean() > -5
        logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], torch.full_like(logits[:, :-1, :1], 5.0 * usual))
        return logits
