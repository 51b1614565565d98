"""What training code printed tells nobody where the lab lies, who runs it, or where its packages are."""

import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.lab.status import ended_line

ROOT = Path("/srv/my labs/one")
HOMES, ROOTS = "/".join(["", "home"]), "/".join(["", "root"])  # where people of other machines are at home
RUN = "/.autoresearch/runs/e-1m8bd7gy1436x8y/2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'File "{ROOT}{RUN}/code/train.py", line 3', 'File "train.py", line 3'),
        (f"{ROOT}{RUN}/scratch/0a1b/x.bin: none", "scratch/0a1b/x.bin: none"),
        (f"cd {ROOT}{RUN}", "cd ."),
        (f"/elsewhere/lab{RUN}/code/model/net.py", "model/net.py"),
        (f"{ROOT}/lab.toml and {ROOT}2/x", f"<lab>/lab.toml and {ROOT}2/x"),
        ("open file:///srv/my%20labs/one/lab.toml", "open file://<lab>/lab.toml"),
        (f"{sys.prefix}/lib/python3.11/site-packages/torch/nn.py", "site-packages/torch/nn.py"),
        (f"{sys.prefix}/bin/python", "<env>/bin/python"),
        ("/opt/conda/lib/python3.12/site-packages/x.py:4", "site-packages/x.py:4"),
        (f"{Path.home()}/.cache/x", "~/.cache/x"),
        (f"'{HOMES}/ada/data' /Users/ada:{ROOTS}", "'~/data' ~:~"),
        (f"https://example.org{HOMES}/ada/x 3/4 tok/s a{ROOTS}/b /etc/hosts",) * 2,
        ("no path", "no path"),
    ],
)
def test_paths_of_the_machine_are_shortened(text: str, shown: str) -> None:
    assert mask_paths(text, ROOT) == shown


def test_a_failure_in_one_line_keeps_no_path_of_the_lab() -> None:
    row = {"id": "e-1m8bd7gy1436x8y", "commit": "c" * 40, "state": "crashed", "val_bpb": None, "reported_bpb": None, "seed": 1}
    row |= {"device": "cpu", "author": "ada", "hypothesis": "Wider.", "failure": f"error: no file {ROOT}/data.txt"}
    assert ended_line(row, ROOT).failure == "error: no file <lab>/data.txt"
