"""Train the language model that ships with the repository, from nothing, in one command.

    python -m venv /tmp/train && /tmp/train/bin/pip install -r requirements/train.txt
    /tmp/train/bin/python scripts/train_tiny_llm.py

Data: documentation strings of Python's standard library and the language reference (see
`docstring_corpus`); nothing is downloaded. Steps: a byte-level BPE of 2,048 tokens, a Llama of
about two million parameters that learns with the rounding of its 4-bit weights in the last part,
and the export by ONNX Runtime GenAI's model builder. Written are:

    gpu-backend/models/tiny-docs/1/            the GenAI folder: graph, tokenizer, chat template
    gpu-backend/models/tiny-docs/model.toml    with the digest of that folder

and the measured figures are printed; the model card quotes them. Seeds and the thread count are
fixed: the same machine and versions give the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from docstring_corpus import conversations, read_entries, read_topics

ROOT = Path(__file__).resolve().parent.parent
MODEL_FOLDER = ROOT / "gpu-backend" / "models" / "tiny-docs"

SEED = 20260101
VOCABULARY = 2048
CONTEXT = 512
BATCH_TOKENS = 1024
"""Small: at this size many steps teach more than large ones."""
SHORT_WINDOW = 256
LONG_PART = 0.15
"""Last part of the training in which windows are as long as the context; short ones cost less."""
PEAK_LEARNING_RATE = 2.5e-3
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 100
ROUNDED_PART = 0.4
"""Last part of the training in which weights are rounded to 4 bits on the way forward."""
BLOCK = 32
HELD_OUT_EVERY = 50

START, END = "<|start|>", "<|end|>"
SPECIAL = (START, END, "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ '<|start|>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts with their special tokens written out."""

    train: list[str]
    held_out: list[str]


def make_corpus() -> Corpus:
    """Documentation as pages and as conversations; every fiftieth text is held out."""
    entries = read_entries()
    kept = [entry for index, entry in enumerate(entries) if index % HELD_OUT_EVERY]
    pages = [_page(text) for text in (*(entry.document for entry in kept), *read_topics())]
    chats = [_chat(turns) for turns in conversations(kept, SEED)]
    return Corpus([*pages, *chats], [_page(entry.document) for entry in entries[::HELD_OUT_EVERY]])


def _page(text: str) -> str:
    return f"{START}{text}{END}"


def _chat(turns: list[tuple[str, str]]) -> str:
    """As the chat template writes it."""
    parts = [
        f"<|user|>\n{question}{END}\n<|assistant|>\n{answer}{END}\n" for question, answer in turns
    ]
    return START + "".join(parts)


# --- tokens -----------------------------------------------------------------------------------


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """A byte-level BPE: every text can be written, no token is unknown."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare = re.compile("|".join(map(re.escape, SPECIAL)))
    tokenizer.train_from_iterator((bare.sub(" ", text) for text in corpus.train), trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, texts: list[str]) -> Ids:
    """All texts one after the other, in an order drawn once."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = np.random.default_rng(SEED).permutation(len(encoded))
    return np.concatenate([np.asarray(encoded[index], np.int64) for index in order])


# --- training ---------------------------------------------------------------------------------


def make_model() -> LlamaForCausalLM:
    """About two million parameters; input and output embeddings are one matrix."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=SPECIAL.index(START),
        eos_token_id=SPECIAL.index(END),
        pad_token_id=SPECIAL.index(END),
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


class RoundToInt4(nn.Module):
    """Weights as the exported graph will have them; gradients pass as if nothing was rounded.

    Blocks of 32 weights share a scale: the largest magnitude becomes -8 or 7, as in ONNX Runtime's
    symmetric 4-bit quantisation.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` rounded, with the gradient of `weight`."""
        blocks = weight.detach().reshape(-1, BLOCK)
        largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
        scale = largest / -8
        steps = torch.where(scale == 0, 0.0, blocks / scale).round().clamp(-8, 7)
        return weight + ((steps * scale).reshape(weight.shape) - weight.detach())


def round_weights(model: LlamaForCausalLM) -> None:
    """From now on the model computes with rounded weights."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            parametrize.register_parametrization(module, "weight", RoundToInt4())


def keep_weights(model: LlamaForCausalLM) -> None:
    """Back to weights that are not rounded: the builder rounds them itself."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def train(model: LlamaForCausalLM, ids: Ids, steps: int) -> None:
    """AdamW with a cosine schedule over `steps` batches drawn from `ids`."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    random = np.random.default_rng(SEED)
    model.train()
    started = time.monotonic()
    mean = 0.0
    for step in range(steps):
        if step == int(steps * (1 - ROUNDED_PART)):
            round_weights(model)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps)
        size = CONTEXT if step >= steps * (1 - LONG_PART) else SHORT_WINDOW
        starts = random.integers(0, len(ids) - size - 1, BATCH_TOKENS // size)
        loss = _loss(model, torch.from_numpy(np.stack([ids[at : at + size + 1] for at in starts])))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0 or step == steps - 1:
            seconds = time.monotonic() - started
            print(f"step {step:5d} of {steps}  loss {mean:.3f}  {seconds:.0f} s", flush=True)


def _learning_rate(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    part = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * part)))


def _loss(model: LlamaForCausalLM, window: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    logits = model(input_ids=window[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: Ids) -> float:
    """Mean cross-entropy over `ids` in windows of the context, in nats."""
    model.eval()
    count = (len(ids) - 1) // CONTEXT
    windows = np.stack([ids[at * CONTEXT : (at + 1) * CONTEXT + 1] for at in range(count)])
    losses = [_loss(model, torch.from_numpy(part)) for part in np.array_split(windows, count)]
    return float(torch.stack(losses).mean())


# --- export -----------------------------------------------------------------------------------


def save_checkpoint(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """The model as Hugging Face's libraries read it, which is what the builder takes."""
    model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def export(checkpoint: Path, target: Path, precision: str, *options: str) -> None:
    """A GenAI folder in `target`, made by GenAI's own model builder. No network is used."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(checkpoint), "-o", str(target), "-p", precision, "-e", "cpu"]
    command += ["-c", str(checkpoint / "cache")]
    if options:
        command += ["--extra_options", *options]
    quiet = subprocess.run(command, check=False, capture_output=True, text=True)
    if quiet.returncode:
        raise RuntimeError(f"the model builder failed:\n{quiet.stderr[-2000:]}")


def digest_folder(folder: Path) -> str:
    """As the backend computes it: SHA-256 of `sha256sum`'s lines, ordered by name."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in sorted(path for path in folder.rglob("*") if path.is_file())
    ]
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def install(built: Path) -> None:
    """Put the folder where the backend finds it, and its digest into the manifest."""
    target = MODEL_FOLDER / "1"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(built.iterdir()):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    config = json.loads((target / "genai_config.json").read_text())
    config["search"].update(do_sample=False, max_length=CONTEXT, temperature=1.0, top_k=50)
    (target / "genai_config.json").write_text(json.dumps(config, indent=2) + "\n")
    manifest = MODEL_FOLDER / "model.toml"
    if manifest.is_file():
        text = manifest.read_text()
        digest = f'digest = "{digest_folder(target)}"'
        manifest.write_text(re.sub(r'digest = "sha256:[0-9a-f]+"', digest, text))


def main() -> int:
    """Entry of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1800, help="of 1,024 tokens each")
    parser.add_argument("--checkpoint", type=Path, help="keep the trained weights in this folder")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    corpus = make_corpus()
    tokenizer = train_tokenizer(corpus)
    ids = pack(tokenizer, corpus.train)
    model = make_model()
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{size:,} parameters, {len(ids):,} tokens, {sum(map(len, corpus.train)):,} characters")
    train(model, ids, arguments.steps)
    held_out = pack(tokenizer, corpus.held_out)
    rounded = held_out_loss(model, held_out)
    keep_weights(model)
    characters = sum(map(len, corpus.held_out))
    print(
        f"held out: {characters:,} characters, {len(held_out):,} tokens; with 4-bit weights "
        f"{rounded:.3f} nats per token, "
        f"{rounded * len(held_out) / characters / math.log(2):.3f} bits per character; "
        f"before rounding {held_out_loss(model, held_out):.3f} nats per token",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = arguments.checkpoint or Path(scratch) / "checkpoint"
        save_checkpoint(model, tokenizer, checkpoint)
        built = Path(scratch) / "built"
        export(checkpoint, built, "int4", "shared_embeddings=true")
        install(built)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
