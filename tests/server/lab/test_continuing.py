"""When a campaign that goes on by itself is over: exactly when no training can start any more, whatever one usually takes."""

import pytest

from autoresearch_mcp.server.answers import Money
from autoresearch_mcp.server.lab.continuing import USED_UP, end
from tests.server.measured import MeasuredLab


@pytest.mark.parametrize(
    ("left", "held", "over"),
    [
        (1.0, 0.0, False),
        (0.9, 0.0, True),  # though a typical training takes a tenth of that: none starts
        (0.0, 1.0, False),  # one runs, which may return most of what it holds
    ],
)
def test_the_budget_ends_it_where_no_training_can_start(left: float, held: float, over: bool, measured: MeasuredLab) -> None:
    settings, status = measured.lab.settings, measured.lab.status()
    each = settings.longest_s()
    assert status.training is not None
    training = status.training.model_copy(update={"typical_s": each / 10})
    budget = status.budget.model_copy(update={"left_s": left * each, "reserved_s": held * each})
    seen = status.model_copy(update={"budget": budget, "training": training})
    assert end(seen, settings, None, False) == (USED_UP if over else "")


@pytest.mark.parametrize(("left", "over"), [(1.1, False), (0.9, True)])
def test_the_money_for_rented_devices_ends_it_too(left: float, over: bool, measured: MeasuredLab) -> None:
    settings, status = measured.lab.settings, measured.lab.status()
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"backend": "modal"})})
    most = settings.longest_s() * settings.usd_per_s(settings.devices[0])
    money = Money(total=9.0, spent=0.0, running=0.0, reserved=0.0, left=left * most, last_hour=0.0, by_agent={})
    seen = status.model_copy(update={"budget": status.budget.model_copy(update={"usd": money})})
    assert end(seen, settings, None, False) == (USED_UP if over else "")
