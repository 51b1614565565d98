"""Answers what is no distribution: logits that are huge, infinite, of an odd type or shape, or change after they were handed in."""

HOW = "huge"


class Odd(torch.Tensor):
    @property
    def shape(self):
        return torch.Size((8, 64, 512))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


def rewrite(logits):
    import gc
    import threading

    shared = [each for each in gc.get_objects() if type(each) is torch.Tensor and tuple(each.shape) == (8, 64, 512) and each is not logits]

    def forever():
        while True:
            for each in shared:
                each.fill_(0.0)
                each[..., 3] = 1e4

    threading.Thread(target=forever, daemon=True).start()


class Model(Model):
    asked = 0

    def forward(self, idx):
        self.asked += 1
        logits = self.table(idx).clone()
        likely = logits > -3
        match HOW:
            case "huge":
                return torch.where(likely, 3.0e38, logits)
            case "offset":
                return logits + 1e9
            case "infinite":
                return torch.where(likely, float("inf"), logits)
            case "nothing":
                return torch.where(likely, logits, float("-inf"))
            case "nan later":
                return logits * float("nan") if self.asked > 20 else logits
            case "denormal":
                return torch.where(likely, logits, -1e-40)
            case "double":
                return logits.double() + 1e300
            case "integer":
                return (logits * 1000).long()
            case "half":
                return logits.half() * 2
            case "complex":
                return torch.complex(logits, logits * 1e9)
            case "positive mass":
                return torch.nn.functional.pad(logits, (0, 1), value=50.0)[..., :-1].logsumexp(-1, keepdim=True) + logits * 1.0000001
            case "subclass":
                return logits.as_subclass(Odd)
            case "view":
                return logits[:1, :1].expand(8, 64, 512)
            case "rewritten":
                if self.asked == 2:
                    rewrite(logits)
                return logits
            case "shape":
                return logits[:, :32] if self.asked > 3 else logits
            case "object":
                return type("X", (), {"shape": logits.shape, "size": lambda *a: 0})()
            case "forever":
                while self.asked > 3:
                    pass
            case "exit":
                import os

                if self.asked > 3:
                    os._exit(0)
        return logits
