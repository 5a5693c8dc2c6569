from __future__ import annotations

from typing import Any

import pytest

from provender.plugin.errors import SimulationError
from provender.producers.simulator_config import SimulatorConfig


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"users": 0}, "found users=0; expected users: Input should be greater than or equal to 1"),
        ({"pins": -3}, "pins=-3"),
        ({"days": 0}, "days=0"),
        ({"seed": "lucky"}, "seed='lucky'"),
        ({"start": "yesterday"}, "start='yesterday'"),
        ({"click_rate": 0.0}, "click_rate=0.0"),
        ({"click_rate": 0.9}, "click_rate=0.9"),
        ({"click_rate": float("nan")}, "click_rate=nan"),
        ({"conversion_rate": 0.015}, "conversion_rate 0.015 is above half of click_rate 0.02"),
        ({"targeted": 0.8, "popular": 0.4}, "targeted .* popular = 1.2 is above 1"),
        ({"users": 90_000_000}, "above 500,000,000"),
        ({"colour": "red"}, "colour='red'"),
    ],
)
def test_impossible_values_are_refused_in_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SimulationError, match=says) as raised:
        SimulatorConfig.parse(values)
    assert "\n" not in str(raised.value)
    assert "provender simulate --help" in str(raised.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(SimulationError, match=r"found users=0, days=-1; expected users: .*; days:"):
        SimulatorConfig.parse({"users": 0, "days": -1})


def test_defaults_are_a_world() -> None:
    config = SimulatorConfig.parse({})
    assert (config.users, config.pins, config.days, config.seed) == (3_000, 3_000, 14, 7)
    assert str(config.start) == "2026-03-01"


def test_cohorts_grow_by_the_share_of_the_first() -> None:
    config = SimulatorConfig(user_growth=0.005)
    assert [config.size(1_000, 0.005, cohort) for cohort in range(3)] == [1_000, 1_005, 1_010]
    assert [config.size(100, 0.005, cohort) for cohort in range(3)] == [100, 100, 101]
