"""The tokenizer of a GenAI folder: text to tokens, conversations to prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_backend.errors import InvalidInputError, ModelInvalidError
from gpu_backend.llm.engine import Message, Prompt
from gpu_backend.llm.genai_folder import GenAIFolder
from gpu_backend.llm.token_bytes import TextDecoder, TokenBytes, read_token_bytes

__all__ = ["FolderTokenizer", "TokenIds"]

TokenIds = NDArray[np.int32]


class FolderTokenizer:
    """GenAI's tokenizer, loaded without its model.

    Args:
        folder: Whose files are read.

    Raises:
        ModelInvalidError: They cannot be used.
    """

    def __init__(self, folder: GenAIFolder) -> None:
        import onnxruntime_genai as genai  # 34 MB: processes that serve no text never load it

        self._folder = folder
        try:
            self._tokenizer = genai.Tokenizer(str(folder.path))
        except RuntimeError as exc:
            raise ModelInvalidError(f"{folder.path}: the tokenizer cannot be used: {exc}") from exc
        self.tokens: TokenBytes = read_token_bytes(folder.path)

    def encode_input(self, content: tuple[Message, ...] | Prompt) -> TokenIds:
        """Tokens of a conversation under the folder's chat template, or of a text as it is.

        Raises:
            InvalidInputError: There is no template, it refuses the conversation, or nothing is
                left to start from.
        """
        if isinstance(content, Prompt) and (content.raw or not self._folder.chat_template):
            text = content.text if content.system is None else f"{content.system}\n{content.text}"
        elif isinstance(content, Prompt):
            system = () if content.system is None else (Message("system", content.system),)
            text = self.render((*system, Message("user", content.text)))
        else:
            text = self.render(content)
        tokens = self.encode(text)
        if not len(tokens):
            raise InvalidInputError("the prompt is empty", param="prompt")
        return tokens

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that the folder's chat template makes of `messages`.

        Raises:
            InvalidInputError: There is no template, or it refuses the conversation.
        """
        if not self._folder.chat_template:
            raise InvalidInputError(
                "the model has no chat template; send text to /v1/completions", param="messages"
            )
        written = json.dumps([_as_template_sees(message) for message in messages])
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    written, template_str=self._folder.chat_template
                )
            )
        except RuntimeError as exc:
            reason = str(exc).partition(" at row")[0]
            raise InvalidInputError(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from exc

    def encode(self, text: str) -> TokenIds:
        """Tokens of `text`; special tokens written out in it count as such."""
        tokens: TokenIds = self._tokenizer.encode(text)
        # A template writes the start token, and some tokenizers add it once more.
        bos = self._tokenizer.bos_token_id
        if len(tokens) > 1 and tokens[0] == tokens[1] == bos:
            return tokens[1:]
        return tokens

    def decoder(self) -> TextDecoder:
        """For one stream of tokens."""
        return TextDecoder(self.tokens)


def _as_template_sees(message: Message) -> dict[str, Any]:
    """As Hugging Face's templates expect a message."""
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        document["name"] = message.name
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        document["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments or "{}")},
            }
            for call in message.tool_calls
        ]
    return document
