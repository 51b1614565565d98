"""A short soak: clients of every kind on one server that is killed twice meanwhile. `make soak` is the long one."""

from pathlib import Path

from tests.soak import READS, soak


def test_clients_of_every_kind_go_on_over_kills_of_their_server_without_error_or_loss(tmp_path: Path) -> None:
    soaked = soak(tmp_path / "lab", clients=16, seconds=8, kills=2, bare_s=1, breaks=1)
    heard = soaked.heard
    assert (heard.errors, soaked.lost, soaked.kills) == ([], [], 2)
    assert heard.commits and heard.experiments and heard.reads and heard.bare and heard.mirrored and heard.beside
    assert {"wait_for_experiments", "propose_patch", "launch_training"} <= {*heard.calls} and {*READS} & {*heard.calls}
    assert heard.events and any(name.startswith("/") for name in heard.calls)
    assert [name for name, _ in soaked.rows()][2] == "errors"
