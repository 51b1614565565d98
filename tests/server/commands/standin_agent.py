"""A stand-in for a client without a terminal: does on its n-th start what the n-th line of `script` beside its folder says, then the last one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

here = Path.cwd()
assert os.environ["PWD"] == str(here), "opencode goes by $PWD"
starts = here / "starts"
with starts.open("a") as file:
    file.write(f"{os.getpid()}\n")
lines = (here.parent / "script").read_text().splitlines()
deed = lines[min(len(starts.read_text().splitlines()), len(lines)) - 1]
print(os.environ["AUTORESEARCH_AGENT"], os.environ["AUTORESEARCH_ROLE"], os.environ.get("AUTORESEARCH_TOKEN", "no token"))
print(sys.argv[-1], flush=True)
match deed.split(maxsplit=1):
    case ["wait"]:
        signal.pause()
    case ["stay"]:  # whatever is asked of it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    case ["fail", words]:
        sys.exit(words)
    case ["say", words]:
        print(words)
    case ["finish", words]:  # what it is at, once the campaign closes
        while not (here.parent / "closing").exists():
            time.sleep(0.02)
        print(words)
    case ["tools"]:
        server = json.loads((here / ".mcp.json").read_text())["mcpServers"]["autoresearch"]
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "stand-in", "version": "1"}}
        messages = [
            {"id": 0, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
            {"id": 1, "method": "tools/list"},
        ]
        pipe = subprocess.PIPE
        with subprocess.Popen([server["command"], *server["args"]], stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin and process.stdout
            for message in messages:
                process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
                process.stdin.flush()
            process.stdout.readline()
            tools = json.loads(process.stdout.readline())["result"]["tools"]
            (here / "tools").write_text(" ".join(tool["name"] for tool in tools))
            signal.pause()
