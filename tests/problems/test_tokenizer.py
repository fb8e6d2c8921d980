"""Tests the scratch tokenizer and the checks on a model's own."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest
from transformers import Qwen3Config
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from sdpg.errors import UserError
from sdpg.problems.tokenizer import END, PAD, PRETOKENIZE, START, load_tokenizer, train_tokenizer

TEXTS = [f"{START}user\nSolve step by step: {n} a+5 b*2\nBox the answer.{END}\n\\boxed{{{n}}}" for n in range(10, 60)]
TOKENIZER = train_tokenizer(TEXTS, 300)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(ids(text)) == text


def test_bytes_stand_for_what_was_never_seen() -> None:
    assert TOKENIZER.decode(ids("∫ é 数")) == "∫ é 数"


def test_up_to_two_digits_make_a_token() -> None:
    tokenizer = train_tokenizer(["27 20 26"] * 50, 300)
    assert tokenizer.convert_ids_to_tokens(tokenizer("27 2026", add_special_tokens=False)["input_ids"]) == [
        "27", "Ġ", "20", "26"
    ]  # fmt: skip


def test_words_of_the_texts_are_merged_and_special_tokens_are_not_learnt_from() -> None:
    # 50 equal sentences: their frequent words become single tokens behind a space.
    assert len(ids(" step by step")) == 3
    learnt = set(TOKENIZER.get_vocab()) - {PAD, START, END}
    assert not [token for token in learnt if "<" in token and len(token) > 1]


def test_special_tokens() -> None:
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token) == (PAD, END)
    assert [TOKENIZER.convert_tokens_to_ids(token) for token in (PAD, START, END)] == [0, 1, 2]
    assert ids(f"{START}x{END}")[0::2] == [1, 2]
    assert len(TOKENIZER) <= 300


def test_same_texts_same_tokenizer() -> None:
    assert train_tokenizer(iter(TEXTS), 300).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_a_saved_tokenizer_does_not_tell_how_its_process_was_started(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path / "trained")
    load_tokenizer(tmp_path / "trained").save_pretrained(tmp_path / "again")
    assert "local_files_only" not in json.loads((tmp_path / "again/tokenizer_config.json").read_text())


def test_without_texts_there_are_bytes_only() -> None:
    assert len(train_tokenizer([], 259)) == 259


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"base\.model\.vocab_size is 100, .* at least 259"):
        train_tokenizer(TEXTS, 100)


def test_chat_template() -> None:
    render = TOKENIZER.apply_chat_template
    turns = f"{START}system\nBe brief.{END}\n{START}user\n1+1{END}\n"
    assert render(MESSAGES, tokenize=False) == turns
    assert render(MESSAGES, tokenize=False, add_generation_prompt=True) == f"{turns}{START}assistant\n"


@pytest.mark.parametrize(("thinking", "block"), [(True, ""), (False, "<think>\n\n</think>\n\n")])
def test_thinking_is_switched_off_by_an_empty_block(thinking: bool, block: str) -> None:
    rendered = TOKENIZER.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert str(rendered).endswith(f"{START}assistant\n{block}")


def test_text_is_cut_as_qwen_cuts_it_but_for_digits() -> None:
    assert PRETOKENIZE.replace("{1,2}", "") == PRETOKENIZE_REGEX


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_a_saved_tokenizer_loads_unchanged(tmp_path: Path, beside_a_model: bool) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    if beside_a_model:
        Qwen3Config().save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded(TEXTS[0])["input_ids"] == ids(TEXTS[0])
    assert (loaded.pad_token, loaded.eos_token) == (PAD, END)
    assert loaded.chat_template == TOKENIZER.chat_template


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    # transformers alone would make an empty tokenizer from this configuration.
    Qwen3Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path} has no tokenizer .*copy the tokenizer files"):
        load_tokenizer(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere has no tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_tokenizer_without_chat_template_is_named(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=rf"{tmp_path} has no chat template: add chat_template\.jinja"):
        load_tokenizer(tmp_path)


def without(folder: Path, key: str) -> Path:
    TOKENIZER.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config))
    return folder


def test_a_tokenizer_without_eos_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path} has no eos_token"):
        load_tokenizer(without(tmp_path, "eos_token"))


def test_padding_falls_back_to_eos(tmp_path: Path) -> None:
    assert load_tokenizer(without(tmp_path, "pad_token")).pad_token_id == TOKENIZER.eos_token_id


def test_a_broken_tokenizer_file_is_named(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model":')
    with pytest.raises(UserError, match=rf"{tmp_path} does not load: restore the tokenizer files"):
        load_tokenizer(tmp_path)


def test_a_model_that_the_hub_does_not_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing does not load: .*base\.folder"):
        load_tokenizer("nobody/nothing", "0123abc")
