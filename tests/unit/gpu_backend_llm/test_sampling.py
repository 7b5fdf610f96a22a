"""Choosing tokens: greedy is the argmax, sampling keeps to its bounds and its seed."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from fakes.llm_folders import FAMILY_ROOT
from gpu_backend.llm.engine import Sampling
from gpu_backend.llm.genai_folder import read_genai_folder
from gpu_backend.llm.sampling import Choice, Logits, Sampler, resolve, score
from gpu_backend.llm.token_bytes import TokenBytes

NO_PROMPT = np.array([], np.int32)


def logits(*values: float) -> Logits:
    return np.array(values, np.float32)


def drawn(choice: Choice, values: Logits, times: int = 400) -> Counter[int]:
    sampler = Sampler(choice, NO_PROMPT)
    return Counter(sampler.choose(values) for _ in range(times))


def test_temperature_zero_takes_the_most_probable() -> None:
    assert Sampler(Choice(temperature=0), NO_PROMPT).choose(logits(1, 3, 2)) == 1


def test_top_k_one_is_greedy_at_any_temperature() -> None:
    assert set(drawn(Choice(temperature=2, top_k=1), logits(1, 3, 2))) == {1}


def test_top_k_bounds_the_tokens() -> None:
    assert set(drawn(Choice(temperature=5, top_k=2, seed=1), logits(1, 3, 2, 0))) == {1, 2}


def test_top_p_keeps_the_token_that_crosses_the_bound() -> None:
    values = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    assert set(drawn(Choice(temperature=1, top_p=0.6, seed=1), values)) == {0, 1}


def test_top_p_of_zero_still_leaves_one_token() -> None:
    assert set(drawn(Choice(temperature=1, top_p=0.0, seed=1), logits(1, 3, 2))) == {1}


def test_min_p_leaves_out_what_is_far_less_probable() -> None:
    values = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    assert set(drawn(Choice(temperature=1, min_p=0.4, seed=1), values)) == {0, 1}


def test_frequencies_follow_the_probabilities() -> None:
    values = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    counts = drawn(Choice(temperature=1, seed=3), values, 5000)
    assert counts[0] / 5000 == pytest.approx(0.7, abs=0.03)
    assert counts[2] / 5000 == pytest.approx(0.1, abs=0.02)


def test_equal_seeds_draw_equal_tokens() -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    texts = []
    for seed in (5, 5, 6):
        sampler = Sampler(Choice(temperature=1, seed=seed), NO_PROMPT)
        texts.append([sampler.choose(values) for _ in range(20)])
    assert texts[0] == texts[1] != texts[2]


def test_tiny_temperature_does_not_overflow() -> None:
    assert set(drawn(Choice(temperature=1e-9, seed=1), logits(500, -500, 499))) == {0}


def test_presence_and_frequency_count_generated_tokens_alone() -> None:
    choice = Choice(presence_penalty=1.0, frequency_penalty=0.5)
    sampler = Sampler(choice, np.array([0], np.int32))
    # Token 0 loses 1.5 after its first turn, so that token 1 follows.
    assert [sampler.choose(logits(3, 2, 0)) for _ in range(2)] == [0, 1]


def test_repetition_penalty_counts_the_prompt_as_well() -> None:
    sampler = Sampler(Choice(repetition_penalty=2.0), np.array([0], np.int32))
    assert sampler.choose(logits(3, 2, -1)) == 1


def test_logit_bias_decides() -> None:
    assert (
        Sampler(Choice(logit_bias=((2, 100.0), (99, 5.0))), NO_PROMPT).choose(logits(3, 2, 1)) == 2
    )


def test_logits_are_left_as_they_are() -> None:
    values = logits(3, 2, 1)
    Sampler(Choice(temperature=1, repetition_penalty=2.0, seed=1), NO_PROMPT).choose(values)
    assert values.tolist() == [3, 2, 1]


def test_plain_sampler_is_greedy_without_adjustment() -> None:
    assert Sampler(Choice(), NO_PROMPT).is_plain
    assert not Sampler(Choice(repetition_penalty=1.1), NO_PROMPT).is_plain
    assert not Sampler(Choice(temperature=1.0), NO_PROMPT).is_plain


def test_score_is_the_logarithm_of_the_probability() -> None:
    tokens = TokenBytes([b"a", b"b", b"\xe6"], strips_start=False)
    values = np.log(np.array([0.5, 0.25, 0.25], np.float32)) + 7
    scored = score(values, 1, 2, tokens)
    assert (scored.token, scored.raw) == ("b", b"b")
    assert scored.logprob == pytest.approx(math.log(0.25), abs=1e-6)
    assert scored.top[0][0] == "a"
    assert scored.top[0][1] == pytest.approx(math.log(0.5), abs=1e-6)
    assert len(scored.top) == 2


def test_request_is_completed_by_the_folder() -> None:
    folder = read_genai_folder(FAMILY_ROOT / "llama")
    assert not folder.does_sample
    assert resolve(Sampling(), folder).is_greedy
    choice = resolve(Sampling(temperature=0.5, seed=1), folder)
    assert (choice.temperature, choice.top_k, choice.seed) == (0.5, folder.search["top_k"], 1)


@pytest.mark.parametrize("seed", [-1, -(2**63)])
def test_negative_seed_is_a_seed(seed: int) -> None:
    choice = Choice(temperature=1.0, seed=seed)
    assert drawn(choice, logits(*range(50)), 20) == drawn(choice, logits(*range(50)), 20)


def test_negative_top_k_is_no_bound() -> None:
    folder = read_genai_folder(FAMILY_ROOT / "llama")
    assert resolve(Sampling(top_k=-1), folder).top_k == 0
