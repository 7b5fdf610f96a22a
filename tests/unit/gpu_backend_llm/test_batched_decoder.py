"""Continuous batching: the same tokens as GenAI, whoever joins or leaves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fakes.llm_folders import FAMILIES, FAMILY_ROOT, genai_greedy
from gpu_backend.errors import RequestCancelledError
from gpu_backend.llm.batched import BatchedDecoder, BatchedOptions, why_not_batched
from gpu_backend.llm.genai_folder import read_genai_folder
from gpu_backend.llm.kv_cache import CachePlan, KVCache, plan_cache
from gpu_backend.llm.sampling import Choice
from gpu_backend.llm.sequence import Sequence, Task
from gpu_backend.llm.tokenizer import FolderTokenizer

PROMPTS = ["The quick", "def add(left", "いろは and then a longer one: Viktor quer über", "a"]

COUNT = 24


class Bench:
    """A decoder with texts for it."""

    def __init__(self, family: str, **options: int) -> None:
        self.path = FAMILY_ROOT / family
        self.folder = read_genai_folder(self.path)
        self.tokenizer = FolderTokenizer(self.folder)
        values = {"max_streams": 4, "intra_op_threads": 1, **options}
        self.decoder = BatchedDecoder(self.folder, self.tokenizer.tokens, BatchedOptions(**values))
        self.drawn: dict[Sequence, list[int]] = {}

    def text(self, prompt: str, choice: Choice | None = None) -> Sequence:
        tokens = self.tokenizer.encode(prompt)
        task = Task(tokens, COUNT, choice or Choice(), self.folder.eos_tokens)
        return Sequence(task, self.tokenizer.decoder())

    def join(self, text: Sequence) -> Sequence:
        """Read the whole prompt of `text`."""
        token = self.decoder.prefill(text)
        while token is None:
            token = self.decoder.prefill(text)
        self.drawn[text] = [token.token]
        return text

    def step(self, *texts: Sequence) -> None:
        for text, token in zip(texts, self.decoder.decode(texts), strict=True):
            assert token is not None
            self.drawn[text].append(token.token)


@pytest.mark.parametrize("prefill_tokens", [256, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_join_one_by_one_equal_those_of_genai(family: str, prefill_tokens: int) -> None:
    bench = Bench(family, prefill_tokens=prefill_tokens)
    texts: list[Sequence] = []
    for prompt in PROMPTS:
        texts.append(bench.join(bench.text(prompt)))
        bench.step(*texts)
        bench.step(*texts)
    for _ in range(COUNT):
        bench.step(*texts)
    expected = genai_greedy(bench.path, PROMPTS, COUNT)
    for text, tokens in zip(texts, expected, strict=True):
        assert bench.drawn[text][: len(tokens)] == tokens


@pytest.mark.parametrize("leaver", range(4))
def test_text_that_leaves_changes_no_other(leaver: int) -> None:
    bench = Bench("llama")
    texts = [bench.join(bench.text(prompt)) for prompt in PROMPTS]
    for _ in range(4):
        bench.step(*texts)
    bench.decoder.release(texts.pop(leaver))
    newcomer = bench.join(bench.text("Sphinx of black"))
    for _ in range(8):
        bench.step(*texts, newcomer)
    prompts = [p for index, p in enumerate(PROMPTS) if index != leaver]
    expected = genai_greedy(bench.path, [*prompts, "Sphinx of black"], COUNT)
    for text, tokens in zip((*texts, newcomer), expected, strict=True):
        length = len(bench.drawn[text])
        assert bench.drawn[text] == tokens[:length]


def test_text_that_leaves_while_a_prompt_is_read_does_not_disturb_it() -> None:
    bench = Bench("qwen2", prefill_tokens=4)
    first, second = (bench.join(bench.text(prompt)) for prompt in PROMPTS[:2])
    bench.step(first, second)
    reader = bench.text(PROMPTS[2])
    assert bench.decoder.prefill(reader) is None
    bench.decoder.release(first)
    bench.step(second)
    bench.join(reader)
    for _ in range(6):
        bench.step(second, reader)
    expected = genai_greedy(bench.path, PROMPTS[1:3], COUNT)
    for text, tokens in zip((second, reader), expected, strict=True):
        assert bench.drawn[text] == tokens[: len(bench.drawn[text])]


def test_prompt_that_is_given_up_leaves_its_row_free() -> None:
    bench = Bench("llama", prefill_tokens=4, max_streams=1)
    given_up = bench.text(PROMPTS[2])
    assert bench.decoder.prefill(given_up) is None
    bench.decoder.release(given_up)
    text = bench.join(bench.text(PROMPTS[0]))
    bench.step(text)
    assert bench.drawn[text] == genai_greedy(bench.path, PROMPTS[:1], COUNT)[0][:2]


def test_interrupt_without_a_prompt_being_read_does_nothing() -> None:
    bench = Bench("llama")
    bench.decoder.interrupt()
    text = bench.join(bench.text("The quick"))
    assert len(bench.drawn[text]) == 1


def test_interrupted_execution_raises_that_the_text_is_not_wanted() -> None:
    bench = Bench("llama")
    session = bench.decoder._session

    class Interrupting:
        """Interrupts as soon as the execution runs, as another thread would."""

        def run_with_iobinding(self, binding: object, options: object) -> None:
            bench.decoder.interrupt()
            session.run_with_iobinding(binding, options)

        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

    bench.decoder._session = Interrupting()
    with pytest.raises(RequestCancelledError):
        bench.join(bench.text("The quick"))


def test_sampled_text_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    choice = Choice(temperature=1.0, seed=11)
    alone, crowd = Bench("llama"), Bench("llama")
    single = alone.join(alone.text("The quick", choice))
    others = [crowd.join(crowd.text(prompt)) for prompt in PROMPTS[1:]]
    among = crowd.join(crowd.text("The quick", choice))
    for _ in range(10):
        alone.step(single)
        crowd.step(*others, among)
    assert alone.drawn[single] == crowd.drawn[among]


def test_scores_tell_the_greedy_token_first() -> None:
    bench = Bench("phi")
    tokens = bench.tokenizer.encode("The quick")
    task = Task(tokens, 5, Choice(), frozenset(), top_logprobs=3)
    text = Sequence(task, bench.tokenizer.decoder())
    drawn = bench.decoder.prefill(text)
    assert drawn is not None
    assert drawn.score is not None
    assert drawn.score.logprob == drawn.score.top[0][1]
    logprobs = [entry[1] for entry in drawn.score.top]
    assert all(left >= right for left, right in pairwise(logprobs))
    assert sum(np.exp(logprobs)) <= 1.0 + 1e-6


def test_folder_of_an_unknown_kind_is_not_batched() -> None:
    folder = read_genai_folder(FAMILY_ROOT / "llama")
    assert why_not_batched(folder) == ""
    assert "mamba" in why_not_batched(replace(folder, family="mamba"))
    assert "share" in why_not_batched(replace(folder, search={}))
    assert "paged" in why_not_batched(replace(folder, paged=True))


def test_cache_plan_takes_rows_before_it_shortens_the_context() -> None:
    assert plan_cache(8, 100, 10, 1 << 20) == CachePlan(8, 100)
    assert plan_cache(8, 100, 10, 3500) == CachePlan(3, 100)
    assert plan_cache(8, 100, 10, 500) == CachePlan(1, 50)


def test_cache_move_copies_what_is_used() -> None:
    cache = KVCache(["k"], CachePlan(2, 4), 1, 2, np.float32)
    cache.buffers["k"][1] = 7
    cache.move(1, 0, 3)
    assert cache.buffers["k"][0, 0, :, 0].tolist() == [7, 7, 7, 0]


def test_text_that_cannot_begin_leaves_its_row_free(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("llama", max_streams=1)

    def fail(*_: object) -> None:
        raise ValueError("no sampler")

    bad = bench.text(PROMPTS[1])
    with monkeypatch.context() as patched:
        patched.setattr("gpu_backend.llm.batched.Sampler", fail)
        with pytest.raises(ValueError, match="no sampler"):
            bench.decoder.prefill(bad)
        bench.decoder.release(bad)
    text = bench.join(bench.text(PROMPTS[0]))
    bench.step(text)
    assert bench.drawn[text] == genai_greedy(bench.path, PROMPTS[:1], COUNT)[0][:2]
