"""Makes tokenizers: one trained from scratch for the tiny world, or a model's own, checked for what is needed.

The scratch tokenizer is made like Qwen3's (byte-level BPE, same normaliser, ChatML template), so that the tiny profile
and the large ones go through the same code. One thing differs: up to two digits make one token, where Qwen3 has one
token a digit. The world's numbers have at most two digits; with one token each, its texts are a third shorter and a
model of two layers learns to add.
"""

from collections.abc import Iterable
from pathlib import Path
import re

from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sdpg.errors import UserError

PAD = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL = (PAD, START, END)
BYTES = 256

# This is how Qwen2 and Qwen3 cut text, except for the number of digits.
PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer with Qwen3's way of cutting text and a ChatML template.

    Special tokens in the texts cut them and are not learnt from. Equal texts give an equal tokenizer.

    Args:
        texts: what the model will read and write; without any, the tokenizer knows single bytes only.
        vocab_size: size of the vocabulary, special tokens included; smaller if the texts hold too little to merge.

    Raises:
        UserError: if the 256 bytes and the special tokens do not fit.
    """
    smallest = BYTES + len(SPECIAL)
    if vocab_size < smallest:
        raise UserError(
            f"base.model.vocab_size is {vocab_size}, but bytes and special tokens alone take {smallest}: use at least "
            f"{smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    special = re.compile("|".join(map(re.escape, SPECIAL)))
    tokenizer.train_from_iterator((piece for text in texts for piece in special.split(text) if piece), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def load_tokenizer(folder_or_id: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder, or from the hub by id and revision; code that comes with it is never run.

    A tokenizer without a padding token pads with its end-of-sequence token.

    Raises:
        UserError: if there is no tokenizer, no chat template or no end-of-sequence token.
    """
    folder = Path(folder_or_id)
    local = isinstance(folder_or_id, Path) or folder.is_dir()
    # transformers would build an *empty* tokenizer from config.json alone.
    if local and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)}): copy the tokenizer files of the model "
            "there, or correct base.model in params.yaml"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder_or_id), trust_remote_code=False, **({} if revision is None or local else {"revision": revision})
        )
    except (OSError, ValueError) as error:
        remedy = (
            "restore the tokenizer files"
            if local
            else "check base.model in params.yaml and the network, or put the model's files into a folder of "
            "that name below base.folder"
        )
        raise UserError(f"the tokenizer of {folder_or_id} does not load: {remedy}. {error}") from None
    # It says how this process was started (HF_HUB_OFFLINE), and would be saved with the tokenizer.
    tokenizer.init_kwargs.pop("local_files_only", None)
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {folder_or_id} has no chat template: add chat_template.jinja to its folder, or use the "
            "instruction-tuned model"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {folder_or_id} has no eos_token, so no response could end: set eos_token in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pad_and_eos(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Returns the ids of the padding and the end-of-sequence token of a tokenizer from :func:`load_tokenizer`."""
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert isinstance(pad, int) and isinstance(eos, int)
    return pad, eos


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns the id of the special token by which the chat template ends a turn of the assistant.

    It is ``None`` where there is no chat template, or it ends such a turn with ordinary text or with nothing.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    said = "ANSWER"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError:
        return None
    assert isinstance(rendered, str), "one conversation, not tokenized"
    ids: list[int] = tokenizer(rendered.rpartition(said)[2], add_special_tokens=False)["input_ids"]  # pyright: ignore
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return ids[0] if ids and ids[0] in special else None
