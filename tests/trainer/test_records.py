"""What a run may leave behind in its log."""

import os
from pathlib import Path

import pytest

from autoresearch_mcp.trainer.records import MEASURED_BYTES, Log


@pytest.mark.parametrize(("metric", "cut"), [("", True), ("val_loss", False)])
def test_the_log_of_a_measured_run_is_too_small_for_a_model(tmp_path: Path, metric: str, cut: bool) -> None:
    log = Log(tmp_path / "run.log", metric)
    for number in range(400):
        os.write(log.writer, b"%04d %s\n" % (number, b"x" * 994))
        log.pump()
    os.close(log.writer)
    log.close()
    text = (tmp_path / "run.log").read_bytes()
    assert text.startswith(b"0000 ") and b"\n0399 " in text
    assert (b"bytes left out" in text) == cut and (len(text) <= MEASURED_BYTES + 100) == cut
