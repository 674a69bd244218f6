"""Calling a tokenizer: texts to what a model takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.batch import BatchEncoding
from flaxmodels.tokenizer.encoder import Encoder
from flaxmodels.tokenizer.inputs import Inputs, read_inputs
from flaxmodels.tokenizer.lengths import Lengths, choose_lengths
from flaxmodels.tokenizer.tensors import tensor_kind
from flaxmodels.tokenizer.vocabulary import VocabularyMixin

if TYPE_CHECKING:
    import tokenizers


logger = logging.getLogger("flaxmodels")

_FIELDS: Mapping[str, Callable[[tokenizers.Encoding], Any]] = {
    "input_ids": lambda row: row.ids,
    "token_type_ids": lambda row: row.type_ids,
    "attention_mask": lambda row: row.attention_mask,
    "special_tokens_mask": lambda row: row.special_tokens_mask,
    "offset_mapping": lambda row: row.offsets,
    "length": lambda row: len(row.ids),
}


class EncodingMixin(VocabularyMixin):
    """The call, and what is made of it."""

    model_max_length: int
    padding_side: str
    truncation_side: str
    model_input_names: list[str]
    split_special_tokens: bool
    settings: dict[str, Any]
    pad_token_type_id = 0
    """The token type of padding."""
    _encoder: Encoder
    _logged: set[str]

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        max_target_length: int | None = None,
        split_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """The tokens of a text, or of several, with what a model needs to know of them.

        The names, defaults and results are those of transformers' fast tokenizers; arrays of integers are int32.

        Args:
            text: a text, or a batch of them; a pair of texts may take the place of one in a batch.
            text_pair: the second text of each, for a model that takes two.
            text_target: texts whose ids are returned as "labels", beside `text` or alone.
            text_pair_target: the second texts of these.
            add_special_tokens: whether to add those that the model expects around a text. A prompt made by a
                chat template has them already.
            padding: True or "longest" pads to the longest row, "max_length" to `max_length`; False pads nothing.
            truncation: True or "longest_first" cuts the longer text of a pair token by token; "only_first" and
                "only_second" cut that one; False cuts nothing.
            max_length: tokens of a row, special ones included. Alone, it cuts. None stands for `model_max_length`.
            stride: tokens that overflowing rows repeat of the row before.
            is_split_into_words: whether each text is a list of words.
            pad_to_multiple_of: what padded lengths are multiples of.
            padding_side: "right" or "left"; None stands for the attribute of this name. Decoders generate from rows
                that are padded on the left.
            return_tensors: "np" or "jax" for arrays `[batch, q_len]`; None for lists, without a batch for one text.
            return_token_type_ids: whether to return which of two texts each token is of, 0 or 1; None for those
                models that take it.
            return_attention_mask: whether to return 1 for tokens and 0 for padding; None for those models that take it.
            return_overflowing_tokens: whether to return what was cut off as further rows, with the number of the text
                of each row as "overflow_to_sample_mapping".
            return_special_tokens_mask: whether to return 1 for special tokens and 0 for others.
            return_offsets_mapping: whether to return the first character of each token and the one after its last, as
                "offset_mapping" `[batch, q_len, 2]`.
            return_length: whether to return the tokens of each row, padding included, as "length" `[batch]`.
            verbose: whether to log that a row is longer than the model takes.
            max_target_length: `max_length` of the targets.
            split_special_tokens: whether special tokens in a text are read as any other text; None stands for the
                attribute of this name.

        Raises:
            FlaxModelsError: an argument is not one of these, or the tokenizer fails on a text or takes more than 10
                seconds and one for each 20,000 characters.
        """
        if text is None and text_target is None:
            raise FlaxModelsError("text: expected a str or several, or text_target, got neither.")
        if text_target is not None:
            self._check_target()
        kind = tensor_kind(return_tensors)
        names = self._names(
            return_token_type_ids,
            return_attention_mask,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
        )
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens

        def encode(inputs: Inputs, limit: int | None) -> BatchEncoding:
            lengths = self._lengths(padding, truncation, limit, stride, pad_to_multiple_of, padding_side)
            rows = self._encoder(inputs, lengths, self._padding(lengths), add_special_tokens, split)
            if verbose and max_length is None:
                self._warn_of_long(rows)
            return _batch(inputs, rows, names, return_overflowing_tokens, kind)

        target_length = max_length if max_target_length is None else max_target_length
        if text is None:
            targets = read_inputs(text_target, text_pair_target, is_split_into_words, "text_target")
            return encode(targets, target_length)
        batch = encode(read_inputs(text, text_pair, is_split_into_words), max_length)
        if text_target is not None:
            targets = read_inputs(text_target, text_pair_target, is_split_into_words, "text_target")
            batch["labels"] = encode(targets, target_length)["input_ids"]
        return batch

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """The ids of a text `[q_len]`; arguments and errors are those of a call."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **kwargs)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> BatchEncoding:
        """As a call, by its name of transformers 4."""
        return self(text, text_pair, **kwargs)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **kwargs: Any) -> BatchEncoding:
        """As a call with several texts, or pairs of texts, by its name of transformers 4."""
        return self(list(batch_text_or_text_pairs), **kwargs)

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """The texts of a text's tokens; further arguments and errors are those of a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **kwargs).tokens()

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens of a text that the model takes beside special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens of two texts together that the model takes beside special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _lengths(
        self,
        padding: Any,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
    ) -> Lengths:
        side = self.padding_side if padding_side is None else padding_side
        limits = (self.model_max_length, side, self.truncation_side)
        return choose_lengths(*limits, self._log_once, padding, truncation, max_length, stride, pad_to_multiple_of)

    def _padding(self, lengths: Lengths) -> dict[str, Any]:
        """What the backend pads with, if it does."""
        if lengths.padding is None:
            return {}
        if self.pad_token is None or self.pad_token_id is None:
            absent = "it has no pad_token" if self.pad_token is None else f"its pad_token {self.pad_token!r} has no id"
            raise FlaxModelsError(
                f"padding: this tokenizer cannot pad, {absent}. Set pad_token, as in tokenizer.pad_token = "
                'tokenizer.eos_token, or add one by add_special_tokens({"pad_token": "[PAD]"}).'
            )
        return {"pad_id": self.pad_token_id, "pad_token": self.pad_token, "pad_type_id": self.pad_token_type_id}

    def _names(self, types: bool | None, mask: bool | None, special: bool, offsets: bool, length: bool) -> list[str]:
        wanted = {
            "input_ids": True,
            "token_type_ids": "token_type_ids" in self.model_input_names if types is None else types,
            "attention_mask": "attention_mask" in self.model_input_names if mask is None else mask,
            "special_tokens_mask": special,
            "offset_mapping": offsets,
            "length": length,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]

    def _check_target(self) -> None:
        """Refuse targets in another language than the one that texts are marked with, as mBART's are."""
        source, target = self.settings.get("src_lang"), self.settings.get("tgt_lang")
        if target not in (None, source):
            raise FlaxModelsError(
                f"text_target: this tokenizer marks texts as {source!r}, and its tgt_lang is {target!r}. Call another "
                f"one on the targets, which from_pretrained(..., src_lang={target!r}) gives."
            )

    def _warn_of_long(self, rows: list[tokenizers.Encoding]) -> None:
        longest = max((len(row.ids) for row in rows), default=0)
        if longest > (limit := self.model_max_length):
            self._log_once(
                f"a row is longer than the {limit} tokens that the model takes: say truncation=True to cut it"
            )

    def _log_once(self, message: str) -> None:
        """Logs a message, if this tokenizer has not logged it before: data sets have many rows."""
        if message not in self._logged:
            self._logged.add(message)
            logger.warning(message)


def _batch(
    inputs: Inputs, rows: list[tokenizers.Encoding], names: list[str], overflows: bool, kind: str | None
) -> BatchEncoding:
    samples = list(range(len(rows)))
    if overflows:
        further = [[row, *row.overflowing] for row in rows]
        samples = [index for index, group in enumerate(further) for _ in group]
        rows = [row for group in further for row in group]
    data: dict[str, Any] = {name: [_FIELDS[name](row) for row in rows] for name in names}
    if overflows:
        data["overflow_to_sample_mapping"] = samples
    elif not inputs.is_batched and kind is None:
        data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
    return BatchEncoding(data, rows, kind)
