"""Reading a script's metric: out of what it prints, and out of the files that it leaves."""

import json
import struct
import time
from pathlib import Path

import pytest

from autoresearch_mcp.trainer import metric_files
from autoresearch_mcp.trainer.metrics import NamedMetric, OutputReader, Reading

TABLE = "| epoch | acc | x |\n|-------|-----|---|\n| 1 | 0.5 | 3 |\n| 2 | 0.6 | 4 |\n"


def read(text: str, name: str = "acc", unit: str = "", pattern: str = "") -> Reading | None:
    reader = OutputReader(NamedMetric(name, unit, pattern))
    data = text.encode()
    for first in range(0, len(data), 7):  # as a pipe may cut it
        reader.feed(data[first : first + 7])
    reader.end()
    return reader.metric.last


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("acc", "\r 100%|####|\racc: 0.88\n", 0.88),
        ("acc", "acc: 0.77\n" + "x" * 100_000, 0.77),
        ("acc", "acc: 0.1\nacc: 0.2", 0.2),
        ("acc", "\x1b[32macc\x1b[0m: \x1b[1m0.5\x1b[0m\n", 0.5),
        ("acc", "    acc = -1.5e-3", -0.0015),
        ("acc", "acc: \N{MINUS SIGN}0.5", -0.5),
        ("acc", "acc: +.5", 0.5),
        ("acc", "acc: 0.5.", 0.5),
        ("acc", "acc: 0.9 ± 0.1", 0.9),
        ("acc", "acc: 0.5, lr: 3", 0.5),
        ("loss", "INFO:root:loss: -0.5", -0.5),
        ("loss", "2024-01-01 12:00:00,123 - INFO - loss: 0.5", 0.5),
        ("val loss", "step 2000: train loss 1.7, val loss 1.8", 1.8),
        ("loss", "train loss 1.7, loss 1.9", 1.9),
        ("test_acc", "│         test_acc          │    0.9345   │", 0.9345),
        ("eval_loss", "{'eval_loss': 0.5, 'epoch': 1.0}", 0.5),
        ("acc", '{"acc": 0.88, "step": 3}', 0.88),
        ("acc", " 50%|##  | 3/6 [00:01, acc=0.5, loss=2]", 0.5),
        ("acc", "acc: tensor(0.5, device='cuda:0')", 0.5),
        ("acc", "acc: tensor([0.5])", 0.5),
        ("acc", "acc: np.float64(0.5)", 0.5),
        ("acc", TABLE, 0.6),
        ("acc", "epoch,acc\n1,0.5\n2,0.7", 0.7),
        ("acc", "epoch   acc\n    1  0.25\n", 0.25),
        ("acc", "best acc: 0.9\nmy_acc: 0.8\nval/acc: 0.7\naccuracy: 0.6\n--acc=0.5\nacc improved!", None),
        ("acc", "acc: 0.4\nacc improved to the best so far", 0.4),
        ("accuracy", "             precision  recall  f1-score  support\n   accuracy                          0.95      360", 0.95),
        ("Acc@1", "Test: [390/391]\tTime 0.01 (0.02)\tAcc@1  75.00 ( 76.13)\tAcc@5 92 (93)", 75.0),
        ("acc", "('acc', 0.5), ('lr', 3)", 0.5),
        ("val bpb", "val bpb is 1.234", 1.234),
        ("acc", "acc ........ 0.5", 0.5),
        ("acc", "acc -> 0.5", 0.5),
        ("acc", "acc：0.5，lr：3", 0.5),
        ("acc", "acc: 0.5! 🎉", 0.5),
        ("acc", "acc: 0.5↑ (before: 0.4)", 0.5),
        ("loss", "loss: <tf.Tensor: shape=(), dtype=float32, numpy=0.5>", 0.5),
        ("acc", "acc: 0.5\nbaseline acc: 0.9\nrandom acc: 0.1\nworst acc: 0.2", 0.5),
        ("accuracy", "Test Accuracy: 0.9\nAccuracy: 0.5", 0.5),
        ("val loss", "Val_Loss: 0.5\n", 0.5),
        ("loss", "LOSS: 0.7\nloss: 0.5\nLoss: 0.6", 0.5),
        ("acc", "epoch,acc\n1,0.5\nACC: 0.7", 0.5),
        ("acc", "**acc**: **0.5**", 0.5),
        ("acc", "[acc]: 0.5", 0.5),
        ("acc", "acc => 0.5", 0.5),
        ("acc", "acc ≈ 0.5", 0.5),
        ("acc", "acc: 0.5+-0.1", 0.5),
        ("acc", "mse;acc\n0.1;0.5\n", 0.5),
        ("acc", "   mse  acc\n0  0.1  0.4\n1  0.1  0.5\n", 0.5),
        ("acc", "mse acc\nepoch took 3\n", None),
        ("mAP@0.5", "mAP@0.5: 0.61, mAP@0.5:0.95: 0.4", 0.61),
        ("mAP@0.5:0.95", "mAP@0.5: 0.61, mAP@0.5:0.95: 0.4", 0.4),
        ("valid_0's auc", "[9]\tvalid_0's l2: 0.1\tvalid_0's auc: 0.9", 0.9),
        ("val_accuracy", "63/63 ━━━━ 0s 1ms/step - accuracy: 0.95 - val_accuracy: 0.9 - val_loss: 0.4", 0.9),
        ("test", "99:\tlearn: 0.1\ttest: 0.2\tbest: 0.19 (90)\ttotal: 10ms", 0.2),
        ("val_acc", "wandb:   val_acc 0.91\nwandb: val_acc ▁▃▅█", 0.91),
        ("ep_rew_mean", "| rollout/           |          |\n|    ep_rew_mean     | 2.19e+01 |", 21.9),
        ("loss", "loss: Array(0.5, dtype=float32)\nEpoch 3: loss did not improve from 0.4", 0.5),
        ("test_loss", "test_loss: array([[0.5]], dtype=float32)", 0.5),
    ],
)
def test_the_last_line_that_names_the_metric_decides(name: str, text: str, value: float | None) -> None:
    reading = read(text, name)
    assert (reading and reading.value) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("acc: 0.9\nacc: nan", "nan is not a finite number"),
        ("acc: -inf", "-inf is not a finite number"),
        ("acc: 1e400", "too large"),
        ('{"acc": null}', "null is not a finite number"),
        ("acc: 1,234", "another number"),
        ("acc: 1 234.5", "another number"),
        ("acc: 12 345", "another number"),
        ("acc: 1 000 000", "another number"),
        ("acc is nan", "nan is not a finite number"),
        ("acc -> 0.9 -> 0.8", "another number"),
        ("acc: 0.5 ‰", "another number"),
        ("ACC: 88%", 'unit = "%"'),
        ("acc: 3/10", "another number"),
        ("acc: 3 / 10", "another number"),
        ("acc: 88 of 100", "another number"),
        ("acc: 5 out of 10", "another number"),
        ("acc: 0,1234", "another number"),
        ("acc: 0.9 -> 0.8", "another number"),
        ("acc: 1.2.3", "another number"),
        ("acc: 0.5e", "another number"),
        ("acc: 5 e-3", "another number"),
        ("acc: 1.5 x 10^-3", "another number"),
        ("acc: 0x1F", "another number"),
        ("acc: 1_000", "another number"),
        ("acc: 12ms", "another number"),
        ("acc: (0.5+0.1j)", "another number"),
        ("acc: 5 M", "another number"),
        ("acc is 3 times better", "another number"),
        ("acc: (0.8, 0.9)", "list of numbers"),
        ("acc: 88%", 'unit = "%"'),
        ("acc: 88.5 percent", 'unit = "percent"'),
        ("acc: 1'234.5", "another number"),
        ("acc: 1’234’567", "another number"),
        ("acc: 1 234,5", "another number"),
        ("acc: 0.9\nacc: np.nan", "nan is not a finite number"),
        ("acc: 0.9\nacc: <nan>", "nan is not a finite number"),
        ("acc: 0.9\nacc: float('nan')", "nan is not a finite number"),
        ("acc: tensor([0.8, 0.9])", "list of numbers"),
    ],
)
def test_a_value_that_is_another_number_is_a_failure_that_says_so(text: str, fault: str) -> None:
    reading = read(text)
    assert reading is not None and reading.value is None and fault in reading.fault


def test_the_owner_names_a_unit_or_a_pattern_where_the_name_is_not_enough() -> None:
    percent, fraction = read("acc: 88.5%", unit="%"), read("Accuracy: 9423/10000 (94.2%)", pattern=r"Accuracy: \d+/\d+ \(([^)]+)%\)")
    assert percent is not None and percent.value == 88.5
    assert fraction is not None and fraction.value == 94.2
    wrong = read("Accuracy: 9423/10000", pattern=r"Accuracy: (\S+)")
    assert wrong is not None and wrong.value is None and "'9423/10000' is not a number" in wrong.fault


def test_further_numbers_are_kept_by_name_up_to_a_limit() -> None:
    reader = OutputReader(NamedMetric("acc"), {"ms a step": NamedMetric("ms a step")})
    reader.feed(b"params: 1200\nepoch 3: 12 ms a step 4.5 done\n{'loss': 0.25, 'bad': NaN}\n")
    reader.feed(b"".join(b"x%d: 1\n" % n for n in range(100)))
    scalars = reader.all_scalars()
    assert scalars["params"] == 1200 and scalars["loss"] == 0.25 and scalars["ms a step"] == 4.5
    assert "bad" not in scalars and len(scalars) <= 33


LINES = [
    "acc:" * 4_000,
    "acc, " * 3_000,
    "x" + " " * 1_900,
    "acc: " + "[(" * 8_000,
    "a" * 16_000,
    "acc " + "f(" * 8_000,
    '{"a": ' * 2_500,
    "acc" + "." * 16_000,
    "acc is " * 2_000,
]


@pytest.mark.parametrize("line", LINES, ids=[line[:8] for line in LINES])
def test_no_output_is_slow_to_read(line: str) -> None:
    reader = OutputReader(NamedMetric("acc"))
    began = time.process_time()
    for _ in range(2_000_000 // len(line)):
        reader.feed(f"{line}\n".encode())
    assert time.process_time() - began < 5  # for 2 MB, which take 0.2 s; what backtracks takes minutes


def test_files_are_read_where_the_owner_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text('{"test": {"acc": 0.5}, "loss": 2}', encoding="utf-8")
    lines = ['{"acc": 0.1}', '{"acc": 0.75, "lr": 1}', '{"lr": 2}', '{"acc": 0.9']
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    reading, scalars = metric_files.read(tmp_path, "out/metrics.json", "test.acc")
    assert reading is not None and reading.value == 0.5 and scalars == {"test.acc": 0.5, "loss": 2.0}
    reading, scalars = metric_files.read(tmp_path, "log.jsonl", "acc")
    assert reading is not None and reading.value == 0.75 and scalars["lr"] == 2
    (tmp_path / "log.jsonl").write_text('{"acc": NaN}', encoding="utf-8")
    reading, _ = metric_files.read(tmp_path, "log.jsonl", "acc")
    assert reading is not None and reading.value is None and "nan is not a finite number" in reading.fault


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe", "huge", "none"])
def test_no_file_leads_out_of_the_run(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret.json").write_text('{"acc": 1}', encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    match kind:
        case "link":
            (run / "metrics.json").symlink_to(tmp_path / "secret.json")
        case "folder link":
            (run / "metrics.json").symlink_to(tmp_path)
        case "pipe":
            import os

            os.mkfifo(run / "metrics.json")
        case "huge":
            with (run / "metrics.json").open("wb") as file:
                file.truncate(10 << 30)
    name = "metrics.json/secret.json" if kind == "folder link" else "metrics.json"
    assert metric_files.read(run, name, "acc") == (None, {})


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def event(time: float, tag: str, value: bytes) -> bytes:
    body = b"\x09" + struct.pack("<d", time) + b"\x10\x03" + field(5, field(1, field(1, tag.encode()) + value))
    return struct.pack("<Q", len(body)) + b"\0\0\0\0" + body + b"\0\0\0\0"


def test_tensorboard_files_are_read_without_tensorboard(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    simple = event(2.0, "acc", b"\x15" + struct.pack("<f", 0.5))
    tensor = event(1.0, "acc", field(8, b"\x08\x01" + field(4, struct.pack("<f", 0.25))))
    picture = struct.pack("<Q", 2 << 20) + bytes(4 + (2 << 20) + 4)
    (folder / "events.out.tfevents.1.host").write_bytes(picture + simple + tensor + event(3.0, "acc", b"\x15\0\0\0\0")[:-9])
    reading, scalars = metric_files.read(tmp_path, "tensorboard", "acc")
    assert reading is not None and reading.value == 0.5 and json.dumps(scalars) == '{"acc": 0.5}'
