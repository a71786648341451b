from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinfer.core.errors import ConfigError
from spotinfer.core.money import NANO, for_time, money, per_million, split, usd

amounts = st.decimals(min_value=0, max_value=10_000, places=9)
weights = st.lists(st.one_of(st.integers(0, 10**6), st.floats(0, 10**6, allow_nan=False)), min_size=1, max_size=60)


@given(amounts, weights)
def test_parts_sum_to_the_total_exactly_and_none_is_negative(total: Decimal, shares: list[float]) -> None:
    parts = split(total, shares)
    assert sum(parts) == total
    assert len(parts) == len(shares)
    assert all(part >= 0 for part in parts)


@given(amounts, weights)
def test_no_part_is_further_than_one_quantum_from_its_exact_share(total: Decimal, shares: list[float]) -> None:
    exact = [Decimal(str(share)) for share in shares]
    whole = sum(exact)
    if whole == 0:
        return
    for part, share in zip(split(total, shares), exact, strict=True):
        assert abs(part - total * share / whole) <= NANO


@pytest.mark.parametrize("value", ["0.50", "$0.50", 0.5, Decimal("0.5"), " 0.5 "])
def test_what_callers_write(value: object) -> None:
    assert money(value) == Decimal("0.5")  # type: ignore[arg-type]


def test_a_float_enters_as_it_is_written() -> None:
    assert money(0.1) == Decimal("0.1")


@pytest.mark.parametrize("value", ["-1", -0.5, "nan", "inf", "a lot", True, None, ""])
def test_what_is_no_amount_is_refused_with_a_hint(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        money(value, what="budget")  # type: ignore[arg-type]
    assert "budget" in caught.value.message
    assert caught.value.hint is not None


def test_time_is_priced_to_the_nano_dollar() -> None:
    assert for_time(Decimal("0.36"), 10) == Decimal("0.001000000")
    assert for_time(Decimal("1"), 1) == Decimal("0.000277777")


def test_per_million_of_nothing_is_unknown_and_not_zero() -> None:
    assert per_million(Decimal("1"), 0) is None
    assert per_million(Decimal("0.5"), 250_000) == Decimal("2")


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("1.234", "$1.23"), ("1234.5", "$1,234.50"), ("0.000042", "$0.000042"), ("0.0123", "$0.0123")],
)
def test_amounts_are_shown_with_digits_that_say_something(amount: str, text: str) -> None:
    assert usd(Decimal(amount)) == text
