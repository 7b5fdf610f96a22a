"""wasi:random never gives the same bytes twice and never too many."""

from __future__ import annotations

import pytest

from edgehost.abi.guest import Guest
from edgehost.errors import GuestTrapError
from edgehost.wasi import random
from edgehost.wasi.random import BLOCK_BYTES, MAX_RANDOM_BYTES


def test_small_draws_come_from_one_block_without_repeating(guest: Guest) -> None:
    drawn = [random.random_bytes(guest, 256) for _ in range(40)]

    assert len(set(drawn)) == 40
    assert all(len(data) == 256 for data in drawn)
    assert len(guest.entropy) < BLOCK_BYTES


@pytest.mark.parametrize("length", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, MAX_RANDOM_BYTES])
def test_draw_has_the_length_asked_for(guest: Guest, length: int) -> None:
    assert len(random.random_bytes(guest, length)) == length


def test_draw_beyond_the_limit_traps(guest: Guest) -> None:
    with pytest.raises(GuestTrapError, match="random bytes per call"):
        random.random_bytes(guest, MAX_RANDOM_BYTES + 1)


def test_numbers_and_seeds_have_64_bits(guest: Guest) -> None:
    numbers = {random.random_u64(guest) for _ in range(100)}
    first, second = random.seed(guest)

    assert len(numbers) == 100
    assert max(numbers) >= 1 << 60
    assert 0 <= first < 1 << 64
    assert first != second
