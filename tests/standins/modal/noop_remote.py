"""`autoresearch_mcp.trainer.remote` with nothing in it: keeps its protocol, trains nothing, and does what the mounted train.py says.

`hold`: waits until its output folder holds a file `go`. `vanish`: ends without a result. `submit`: leaves the scoring to another sandbox, whose
image is of an earlier version if it is `submit old`, and whose volume is slow with the hidden score if it is `submit late`. `submit unreadable`:
its score makes no sense.
Each start leaves a line in the file `starts`, each end one in `ends`: what really ran can be counted.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import protocol, remote

HASHES = {"fixed": "", "data": "", "tokenizer": "", "code": ""}


def result(state: str, **values: Any) -> dict[str, Any]:
    return asdict(protocol.Result(state, hashes=HASHES, versions={"torch": ""}, device="cpu", **values))


def train(spec: dict[str, Any], code: Path, out: Path) -> None:
    if (out / protocol.ABANDONED).exists():
        return
    orders = (code / "train.py").read_text(encoding="utf-8")
    account = remote.begin(protocol.BEGUN, [out])
    with (out / "starts").open("a", encoding="utf-8") as file:
        file.write("started\n")
    remote.say(**{protocol.LOG: "no training here\n"}, progress=asdict(protocol.Progress("running", 0.1)))
    while "hold" in orders and not (out / "go").exists():
        time.sleep(0.02)
    if "vanish" in orders:
        return
    made = result("submitted") if "submit" in orders else result("finished", val_bpb=1.5, seed=spec["seed"])
    protocol.write_json(out / protocol.SPEC, spec)
    (out / "orders").write_text(orders, encoding="utf-8")
    protocol.write_json(out / protocol.BEGUN, {**account, "ended": time.time()})
    protocol.write_json(out / protocol.RESULT, made)
    with (out / "ends").open("a", encoding="utf-8") as file:
        file.write("ended\n")
    remote.say(result=made, ended=time.time())


def score(outs: list[Path]) -> None:
    account = remote.begin(remote.SCORER, outs)
    for out in outs:
        scored = result("finished", val_bpb=1.25, seed=(protocol.read_json(out / protocol.SPEC) or {})["seed"])
        protocol.write_json(out / remote.SCORER, {**account, "seconds": 0.01})
        orders = (out / "orders").read_text(encoding="utf-8")
        if "old" in orders:
            scored |= {protocol.HIDDEN_SCORE: 1.75}
        elif "unreadable" in orders:
            scored |= {"val_bpb": "low"}
        elif "late" not in orders:
            protocol.write_hidden(out, 1.75)
        protocol.write_json(out / remote.SCORED, scored)
        remote.say(scored=f"{out.parent.name}/{out.name}", result=scored, seconds=0.01)
        if "late" in orders:
            time.sleep(0.5)
            protocol.write_hidden(out, 1.75)
    remote.say(ended=time.time())


if sys.argv[1] == "train":
    train(json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
else:
    score([Path(out) for out in sys.argv[3:]])
