"""Who is picked: by shares, by key, the same everywhere; and what a growing share moves."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models.table import Pick, Table, share_of

KEYS = [f"user-{n}" for n in range(20_000)]
HOUR_MS = 3_600_000


def canary(share: float, salt: str = "p/canary/1") -> Table:
    return Table("canary", salt, 1, (("new", share), ("old", 1.0 - share)))


def names(table: Table) -> list[str]:
    return [table.pick(key, "", 0).name for key in KEYS]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.01, 0.99), (0.2, 0.3, 0.5)])
def test_arms_get_their_shares_and_say_them(shares: tuple[float, ...]) -> None:
    table = Table("split", "s", 4, tuple((str(n), share) for n, share in enumerate(shares)))
    seen = Counter(names(table))
    for n, share in enumerate(shares):
        deviation = (len(KEYS) * share * (1 - share)) ** 0.5
        assert abs(seen[str(n)] - len(KEYS) * share) < 4 * deviation
    picks = {table.pick(key, "", 0) for key in KEYS}
    assert picks == {Pick(str(n), "split", 4, share) for n, share in enumerate(shares)}


def test_a_growing_share_keeps_the_keys_it_had() -> None:
    steps = [{key for key, name in zip(KEYS, names(canary(s)), strict=True) if name == "new"} for s in
             (0.01, 0.05, 0.25, 1.0)]  # fmt: skip
    assert steps == sorted(steps, key=len)
    assert all(less < more for less, more in pairwise(steps))
    assert len(steps[-1]) == len(KEYS)


def test_another_run_of_a_policy_takes_other_keys() -> None:
    first, second = names(canary(0.1)), names(canary(0.1, "p/canary/2"))
    both = sum(a == b == "new" for a, b in zip(first, second, strict=True))
    assert abs(both - 200) < 60


@given(st.text(), st.text(), st.integers(0, 1 << 45))
def test_a_key_has_one_arm_whatever_its_events(key: str, event_id: str, time: int) -> None:
    assert canary(0.3).pick(key, event_id, time) == canary(0.3).pick(key, "", 0)


@given(st.integers(0, 1 << 20))
def test_both_arms_have_one_block_of_each_pair(pair: int) -> None:
    table = Table("switchback", "s", 1, (("a", 0.5), ("b", 0.5)), "block", HOUR_MS)
    first, second = (table.pick("k", "e", (2 * pair + n) * HOUR_MS) for n in range(2))
    assert {first.name, second.name} == {"a", "b"}
    assert table.pick("other", "x", (2 * pair + 1) * HOUR_MS - 1) == first
    assert first.propensity == 0.5


def test_either_arm_comes_first_half_the_time() -> None:
    table = Table("switchback", "s", 1, (("a", 0.5), ("b", 0.5)), "block", HOUR_MS)
    firsts = Counter(table.pick("", "", 2 * pair * HOUR_MS).name for pair in range(4_000))
    assert abs(firsts["a"] - 2_000) < 130


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from operators.models.table import share_of; print(share_of('s', 'ü'))"
    told = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert float(told.stdout) == share_of("s", "ü")
