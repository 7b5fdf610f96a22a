"""The vocabularies that the component was built with, by the digest of their file.

The component's build puts the vocabulary files of the models in `.models/` beside this module
(`scripts/build_components.py`). They are read while the component is built and become part of its
memory image, so a request pays nothing for them. Without any, `/v1/embeddings` takes token ids
only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edgekit.processing.wordpiece import Vocabulary

__all__ = ["VOCABULARIES", "read_vocabularies"]


def read_vocabularies(folder: Path) -> dict[str, Vocabulary]:
    """The vocabularies in `folder`, each by `sha256:…`; none where there is no such folder.

    Raises:
        ValueError: A file is no vocabulary of WordPiece.
    """
    contents = [path.read_bytes() for path in sorted(folder.glob("*.txt"))]
    return {
        f"sha256:{hashlib.sha256(content).hexdigest()}": Vocabulary.from_pieces(
            content.decode().splitlines()
        )
        for content in contents
    }


VOCABULARIES: Mapping[str, Vocabulary] = read_vocabularies(
    Path(__file__).with_name("vocabulary_files")
)
