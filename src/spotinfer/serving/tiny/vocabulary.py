"""A byte-level BPE vocabulary: every text can be written, common words are one token."""

from __future__ import annotations

from functools import lru_cache

SIZE = 512
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, START, END)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_WORDS = (
    "the of and to in is you that it for on are with as this be at one have from or had by but not what all were "
    "we when your can said there an each which she do how their if will up other about out many then them these so "
    "some her would make like him into time has look two more write go see number no way could people my than water "
    "call who its now find long down day did get come made may part hello world please say count answer question"
)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself where it can be seen, else the next free one from 256 on."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


ALPHABET = _byte_alphabet()
_PRINTABLE = frozenset(ALPHABET[32:127])


def _learn(room: int) -> list[tuple[str, str]]:
    """Merges that build each word from its leading space on, letter by letter, until ``room`` is used up."""
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS.split():
        piece = ALPHABET[32]
        for letter in word:
            merges[piece, letter] = None
            piece += letter
    return list(merges)[:room]


MERGES = _learn(SIZE - len(SPECIAL) - len(ALPHABET))
TOKENS = [*SPECIAL, *ALPHABET, *(left + right for left, right in MERGES)]
"""Every token in the order of its id. What is missing to ``SIZE`` is never spoken."""


def token_id(token: str) -> int:
    return _ids()[token]


@lru_cache(maxsize=1)
def _ids() -> dict[str, int]:
    return {token: number for number, token in enumerate(TOKENS)}


def speakable(number: int) -> bool:
    """Whether the model may say it: printable ASCII only."""
    return len(SPECIAL) <= number < len(TOKENS) and _PRINTABLE.issuperset(TOKENS[number])
