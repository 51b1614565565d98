"""What training code printed tells nobody where the lab lies, who runs it, or where its packages are."""

import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab.masking import mask_paths

ROOT = Path("/srv/my labs/one")
RUN = "/.autoresearch/runs/e-1m8bd7gy1436x8y/2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'File "{ROOT}{RUN}/code/train.py", line 3', 'File "train.py", line 3'),
        (f"{ROOT}{RUN}/scratch/0a1b/x.bin: none", "scratch/0a1b/x.bin: none"),
        (f"cd {ROOT}{RUN}", "cd ."),
        (f"/elsewhere/lab{RUN}/code/model/net.py", "model/net.py"),
        (f"{ROOT}/lab.toml and {ROOT}2/x", f"<lab>/lab.toml and {ROOT}2/x"),
        (f"{sys.prefix}/lib/python3.11/site-packages/torch/nn.py", "site-packages/torch/nn.py"),
        (f"{sys.prefix}/bin/python", "<env>/bin/python"),
        ("/opt/conda/lib/python3.12/site-packages/x.py:4", "site-packages/x.py:4"),
        (f"{Path.home()}/.cache/x", "~/.cache/x"),
        ("'/home/ada/data' /Users/ada:/root", "'~/data' ~:~"),
        ("https://example.org/home/ada/x 3/4 tok/s a/root/b /etc/hosts", "https://example.org/home/ada/x 3/4 tok/s a/root/b /etc/hosts"),
        ("no path", "no path"),
    ],
)
def test_paths_of_the_machine_are_shortened(text: str, shown: str) -> None:
    assert mask_paths(text, ROOT) == shown
