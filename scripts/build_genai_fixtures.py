"""Build the GenAI folders that the tests use: one per family of models, with random weights.

    /tmp/train/bin/python scripts/build_genai_fixtures.py [FAMILY …]     (requirements/train.txt)

Each folder is what ONNX Runtime GenAI's own model builder makes of a configuration of that family,
only much smaller: two layers of width 64 and 384 tokens. Nothing is downloaded. Weights are drawn
from a fixed seed and scaled up, so that greedy decoding does not fall into one token at once.

    tests/data/genai/llama     Llama 3: byte-level BPE, several end tokens, grouped queries
    tests/data/genai/phi       Phi-2: partial rotary embedding, biases, parallel layers
    tests/data/genai/phi3      Phi-3: fused projections; SentencePiece-like tokens with bytes
    tests/data/genai/qwen2     Qwen 2.5: biases on queries, keys and values; tied embeddings
    tests/data/genai/qwen3     Qwen 3: normalised queries and keys
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from train_tiny_llm import export  # noqa: E402

TARGET = ROOT / "tests" / "data" / "genai"

SEED = 7
VOCABULARY = 384
CONTEXT = 128
WEIGHT_SCALE = 6.0

SENTENCES = (
    "The quick brown fox jumps over the lazy dog. ",
    "Sphinx of black quartz, judge my vow! ",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. ",
    "Voix ambiguë d’un cœur qui préfère les jattes de kiwis. ",
    "いろはにほへと ちりぬるを 🦊 ",
    "def add(left: int, right: int) -> int:\n    return left + right\n",
)

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        config: Of the architecture.
        special: Tokens with a meaning, the first three are padding, start and end.
        template: Of chats; empty for a base model.
        tokenizer: Makes it of the special tokens.
        precision: Of the weights, as the builder calls it.
    """

    config: PretrainedConfig
    special: tuple[str, ...]
    template: str
    tokenizer: Callable[[tuple[str, ...]], Tokenizer]
    precision: str = "int4"


def byte_level(special: tuple[str, ...]) -> Tokenizer:
    """As GPT-2, Llama 3, Phi-2 and Qwen."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def sentencepiece_like(special: tuple[str, ...]) -> Tokenizer:
    """As Llama 2 and Phi-3: spaces are ``▁``, what no token covers is written in bytes."""
    tokenizer = Tokenizer(BPE(unk_token=special[0], byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*special, *pieces],
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace(" ", "▁") for text in SENTENCES), trainer)
    # The trainer marks the bytes as special; they are plain tokens of the vocabulary.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in special]
    return Tokenizer.from_str(json.dumps(document))


FAMILIES = {
    "llama": Family(
        LlamaConfig(**{**SHAPE, "eos_token_id": [2, 5]}, rope_theta=500000.0),
        (
            *("<|pad|>", "<|begin_of_text|>", "<|end_of_text|>"),
            *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        LLAMA3,
        byte_level,
    ),
    "phi": Family(
        PhiConfig(
            **{**SHAPE, "num_attention_heads": 2, "num_key_value_heads": 2},
            partial_rotary_factor=0.5,
        ),
        ("<|pad|>", "<|startoftext|>", "<|endoftext|>"),
        "",
        byte_level,
    ),
    "phi3": Family(
        Phi3Config(**SHAPE, original_max_position_embeddings=CONTEXT),
        ("<unk>", "<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        PHI3,
        sentencepiece_like,
    ),
    "qwen2": Family(
        Qwen2Config(**SHAPE, tie_word_embeddings=True, use_sliding_window=False),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        CHATML,
        byte_level,
    ),
    "qwen3": Family(
        Qwen3Config(**SHAPE, head_dim=16, use_sliding_window=False),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        CHATML,
        byte_level,
        "fp32",
    ),
}


def build(name: str, family: Family, scratch: Path) -> None:
    """Write the folder of one family."""
    torch.manual_seed(SEED)
    checkpoint, built = scratch / name, scratch / f"{name}-built"
    model = AutoModelForCausalLM.from_config(family.config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(WEIGHT_SCALE)
    model.save_pretrained(checkpoint)
    tokenizer = family.tokenizer(family.special)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in family.special])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=family.special[0],
        bos_token=family.special[1],
        eos_token=family.special[2],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = family.template or None
    wrapped.save_pretrained(checkpoint)
    export(checkpoint, built, family.precision)
    target = TARGET / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in sorted(path for path in built.iterdir() if path.is_file()):
        shutil.copyfile(file, target / file.name)
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"{name}: {size:,} bytes", flush=True)


def main() -> int:
    """Entry of the command line."""
    wanted = sys.argv[1:] or list(FAMILIES)
    with tempfile.TemporaryDirectory() as scratch:
        for name in wanted:
            build(name, FAMILIES[name], Path(scratch))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
