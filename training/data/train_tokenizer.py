"""Train the tokenizer with SentencePiece."""

import io
from collections.abc import Iterable

import sentencepiece

from model.errors import TokenizerError
from model.tokenizer import CONTROL_TOKENS, SPACE_MARK, Tokenizer


def train_tokenizer(lines: Iterable[str], size: int, threads: int = 2) -> Tokenizer:
    """Train a unigram tokenizer of *size* tokens, control and byte tokens included.

    In *lines*, U+2581 is read as a space. Another number of *threads* may give other tokens.

    Raises:
        TokenizerError: the text allows no tokenizer of this size.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.replace(SPACE_MARK, " ") for line in lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=0.9995,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            treat_whitespace_as_suffix=True,
            split_digits=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            control_symbols=",".join(CONTROL_TOKENS[3:]),
            max_sentence_length=1 << 16,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        # Its message, such as "set it to a value <= 412", follows its place in the library's
        # source.
        fault = str(error).splitlines()[0].rpartition("] ")[2]
        raise TokenizerError(f"no tokenizer of --vocabulary-size {size}: {fault}") from error
    return Tokenizer(model.getvalue())
