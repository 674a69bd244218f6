"""Beams, processors, speculation, streaming and caches of `generate`, beside transformers where it has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from generation.pairs import GENERATIVE, LLAMA, make_pair, prompts, torch_sequences
from generation.test_generate import chi_square
from models.tiny_configs import CASES, HEADS, some_cases

from flaxmodels.execution.structure import structure_of
from flaxmodels.generation import generate, prepare
from flaxmodels.models.llama import LlamaForCausalLM

NEW = 9


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    return make_pair(LLAMA, tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def llama(llamas):
    return llamas[0]


KINDS = ("Llama", "Mistral", "Gemma2", "GPT2", "Bloom", "GptOss", "Bart", "Whisper")
"""One architecture with each kind of cache and of positions."""
BEAMS = [case for case in GENERATIVE if case.name in {f"{kind}ForCausalLM" for kind in KINDS} | {"GPT2LMHeadModel"}]


@pytest.fixture(scope="module", params=some_cases(BEAMS, exhaustive=[case for case in GENERATIVE if case in HEADS]))
def pair(request, tmp_path_factory):
    return make_pair(request.param, tmp_path_factory.mktemp("torch"))


def plain(model, rows: int = 2, length: int = 8, seed: int = 3) -> dict[str, np.ndarray]:
    """Prompts without padding that repeat themselves."""
    batch = prompts(model, rows, length, seed)
    half = np.where(batch["input_ids"] == model.config.pad_token_id, 5, batch["input_ids"])[:, : length // 2]
    return {"input_ids": np.concatenate([half, half], 1), "attention_mask": np.ones((rows, length), np.int64)}


def assert_equal_to_torch(pair, batch, **settings) -> np.ndarray:
    model, reference = pair
    expected = torch_sequences(reference, batch, **settings)
    np.testing.assert_array_equal(model.generate(**batch, **settings).sequences, expected)
    return expected


# ---- beam search


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_beams_equal_torch(llamas, beams, penalty, early):
    batch = prompts(llamas[0])
    free = torch_sequences(llamas[1], batch, max_new_tokens=NEW)[:, 7:]
    ends = [int(free[0, 3]), int(free[1, 1])]
    settings = {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, "max_new_tokens": NEW}
    for end in (None, ends):
        assert_equal_to_torch(llamas, batch, eos_token_id=end, **settings)


def test_beams_of_every_decoder_equal_torch(pair):
    assert_equal_to_torch(pair, prompts(pair[0]), num_beams=3, max_new_tokens=6)


def test_several_answers_of_a_search_come_with_scores(llamas):
    model, reference = llamas
    batch = prompts(model)
    settings = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 5, "output_scores": True}
    found = model.generate(**batch, **settings)
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in batch.items()}
    kwargs = {"pad_token_id": model.config.pad_token_id, "return_dict_in_generate": True, "output_logits": True}
    expected = reference.generate(**tensors, **settings, **kwargs)
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    np.testing.assert_allclose(found.sequences_scores, expected.sequences_scores, rtol=1e-4)
    np.testing.assert_array_equal(found.beam_indices, expected.beam_indices)
    assert len(found.scores) == len(expected.scores)
    for ours, theirs in zip(found.scores, expected.scores, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_beam_sampling_samples_without_replacement(llama):
    """With one step, the beams of a row are the first two of a sample, the likelier one first."""
    prompt = np.repeat(prompts(llama, rows=1)["input_ids"], 400, 0)
    settings = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 1, "do_sample": True, "top_k": 0}
    sampled = np.asarray(llama.generate(prompt, seed=3, **settings).sequences[:, -1]).reshape(400, 2)
    assert (sampled[:, 0] != sampled[:, 1]).all()
    logits = np.asarray(llama(prompt[:1]).logits[0, -1], np.float64)
    likely = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.array([_chance_to_be_best(likely, token) for token in range(len(likely))])
    counts = np.bincount(sampled[:, 0], minlength=len(likely))
    assert chi_square(counts, 400 * best) > 1e-3


def _chance_to_be_best(likely: np.ndarray, token: int) -> float:
    """That `token` is the likelier of two tokens sampled without replacement."""
    others = (likely < likely[token]) | ((likely == likely[token]) & (np.arange(len(likely)) > token))
    p, q = likely[token], likely[others]
    return float((p * q / (1 - p) + q * p / (1 - q)).sum())


# ---- processors

ALONE = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[11], [24, 21], [26, 26]]},
    {"sequence_bias": [[[27], 1.5], [[35, 24], -9.0], [[26, 26], -4.0]]},
    {"min_length": 12, "eos_token_id": [24, 26]},
    {"min_new_tokens": 5, "eos_token_id": list(range(0, 35, 2))},
    {"forced_eos_token_id": 12},
    {"forced_eos_token_id": [12, 20]},
    {"suppress_tokens": [24, 26, 33]},
    {"begin_suppress_tokens": [35, 31]},
    {"exponential_decay_length_penalty": (2, 1.8), "eos_token_id": 9},
    {"remove_invalid_values": True},
    {"renormalize_logits": True},
]
TOGETHER = [
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": [[24]]},
    {"min_new_tokens": 4, "eos_token_id": [24, 26, 29], "repetition_penalty": 0.8},
    {"sequence_bias": [[[35], -5.0]], "suppress_tokens": [26], "forced_eos_token_id": 3},
    {"begin_suppress_tokens": [35, 31], "no_repeat_ngram_size": 3, "renormalize_logits": True},
    {"exponential_decay_length_penalty": (1, 1.5), "eos_token_id": [9, 12], "min_length": 11, "suppress_tokens": [5]},
]


def repeated(values):
    """Parameters of exhaustive tests."""
    return [pytest.param(*value, marks=pytest.mark.exhaustive) for value in values]


@pytest.mark.parametrize(
    ("settings", "beams"),
    [
        *((each, 1) for each in ALONE + TOGETHER),
        *((each, 3) for each in TOGETHER + ALONE[-2:]),
        *repeated((each, 3) for each in ALONE[:-2]),
    ],
    ids=str,
)
def test_processors_equal_torch(llamas, beams, settings):
    batch = plain(llamas[0])
    expected = assert_equal_to_torch(llamas, batch, num_beams=beams, max_new_tokens=NEW, **settings)
    free = torch_sequences(llamas[1], batch, num_beams=beams, max_new_tokens=NEW)
    neutral = settings.keys() <= {"remove_invalid_values", "renormalize_logits"}
    assert neutral or expected.shape != free.shape or (expected != free).any(), "the setting must change something"


def test_a_forced_first_token_equals_torch(llamas):
    batch = {"input_ids": np.array([[5], [8]]), "attention_mask": np.ones((2, 1), int)}
    sequences = assert_equal_to_torch(llamas, batch, forced_bos_token_id=17, max_new_tokens=4)
    assert (sequences[:, 1] == 17).all()
    assert_equal_to_torch(llamas, batch, forced_bos_token_id=17, begin_suppress_tokens=[35, 26], max_new_tokens=4)


def test_padding_is_no_part_of_a_sequence(llama):
    """A row's completion is the same alone and after padding, with processors of the whole sequence."""
    batch = prompts(llama)
    for settings in ({"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.5}, {"presence_penalty": 2.0}):
        together = llama.generate(**batch, max_new_tokens=NEW, **settings).sequences
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
            alone = llama.generate(ids[mask > 0][None], max_new_tokens=NEW, **settings).sequences
            np.testing.assert_array_equal(together[row, 7:], alone[0, mask.sum() :])


def test_counts_of_the_completion_are_penalised(llama):
    """Frequency and presence, as step by step with the scores of the model."""
    prompt, completion = plain(llama, rows=1)["input_ids"], []
    found = llama.generate(prompt, max_new_tokens=NEW, frequency_penalty=0.7, presence_penalty=0.4).sequences
    for _ in range(NEW):
        scores = np.array(llama(np.append(prompt, [completion], 1).astype(int)).logits[0, -1])
        counts = np.bincount(np.array(completion, int), minlength=len(scores))
        completion.append(int((scores - 0.7 * counts - 0.4 * (counts > 0)).argmax()))
    assert found[0, 8:].tolist() == completion


def test_biases_forced_tokens_and_own_processors(llama):
    prompt = plain(llama, rows=1)["input_ids"]
    found = llama.generate(
        prompt,
        max_new_tokens=6,
        logit_bias={21: 50.0},
        forced_decoder_ids=[(9, 13), (11, 2)],
        logits_processor=[lambda ids, scores, length: scores.at[:, 4].add(jax.numpy.where(length == 12, 99.0, 0.0))],
    )
    assert found.sequences[0, 8:].tolist() == [21, 13, 21, 2, 4, 21]


# ---- several completions, seeds


def test_completions_of_one_prompt_differ_and_repeat_with_seeds(llama):
    batch = prompts(llama)
    settings = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": NEW, "top_k": 0}
    sampled = np.asarray(llama.generate(**batch, seed=[1, 2, 3], **settings).sequences)
    assert sampled.shape == (9, 7 + NEW)
    assert len(np.unique(sampled[:3], axis=0)) == 3
    np.testing.assert_array_equal(sampled[:, :7], np.repeat(batch["input_ids"], 3, 0))
    second = {name: value[1:2] for name, value in batch.items()}
    np.testing.assert_array_equal(llama.generate(**second, seed=[2], **settings).sequences, sampled[3:6])


# ---- what else is returned


@pytest.mark.filterwarnings("ignore:.*output_attentions")
def test_outputs_of_every_token_equal_torch(llamas):
    model, reference = llamas
    batch = prompts(model)
    wanted = dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), True)
    found = model.generate(**batch, max_new_tokens=4, suppress_tokens=[24], **wanted)
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in batch.items()}
    pad = {"pad_token_id": model.config.pad_token_id, "return_dict_in_generate": True}
    expected = reference.generate(**tensors, max_new_tokens=4, suppress_tokens=[24], do_sample=False, **pad, **wanted)
    for name in ("scores", "logits"):
        for ours, theirs in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    real = batch["attention_mask"].astype(bool)
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(expected[name]) == 4
        for step, (ours, theirs) in enumerate(zip(found[name], expected[name], strict=True)):
            for mine, other in zip(ours, theirs, strict=True):
                assert mine.shape == other.shape
                mine, other = np.asarray(mine), other.numpy()
                if step == 0:  # of padding there is nothing to compare
                    mine, other = (
                        x[real] if name == "hidden_states" else x.swapaxes(1, 2)[real] for x in (mine, other)
                    )
                np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


# ---- embeddings in place of ids


def test_embeddings_are_continued_as_their_ids(llamas):
    model, reference = llamas
    batch = prompts(model)
    embeds = np.asarray(model.params["model"]["embed_tokens"]["embedding"])[batch["input_ids"]]
    mask = batch["attention_mask"]
    found = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=NEW).sequences
    np.testing.assert_array_equal(found, model.generate(**batch, max_new_tokens=NEW).sequences[:, 7:])
    expected = reference.generate(
        inputs_embeds=torch.tensor(embeds),
        attention_mask=torch.tensor(mask),
        max_new_tokens=NEW,
        pad_token_id=model.config.pad_token_id,
    )
    np.testing.assert_array_equal(found, expected)


# ---- speculation


@pytest.fixture(scope="module")
def draft(llama):
    """A draft model that is right sometimes: the same, a little shaken."""
    keys = iter(jax.random.split(jax.random.key(0), 99))
    shaken = jax.tree.map(lambda leaf: leaf * (1 + 0.2 * jax.random.normal(next(keys), leaf.shape)), llama.params)
    other = LlamaForCausalLM(llama.config, _do_init=False)
    other.params = shaken
    return other


DRAFTING = [{}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3}, {"eos_token_id": [12]}]


@pytest.mark.parametrize(
    ("settings", "count"),
    [*zip(DRAFTING, (5, 3, 1), strict=True), *repeated((each, count) for each in DRAFTING for count in (1, 3, 5))],
    ids=str,
)
def test_draft_tokens_change_nothing(llama, draft, count, settings):
    prompt = plain(llama, rows=1)["input_ids"]
    alone = llama.generate(prompt, max_new_tokens=40, **settings).sequences
    drafted = llama.generate(prompt, max_new_tokens=40, assistant_model=draft, num_assistant_tokens=count, **settings)
    found = llama.generate(prompt, max_new_tokens=40, prompt_lookup_num_tokens=count, **settings)
    np.testing.assert_array_equal(drafted.sequences, alone)
    np.testing.assert_array_equal(found.sequences, alone)
    new = alone.shape[1] - 8
    assert drafted.passes <= new
    assert settings or drafted.passes < 0.8 * new


def test_a_perfect_draft_needs_few_passes(llama):
    prompt = plain(llama, rows=1)["input_ids"]
    found = llama.generate(prompt, max_new_tokens=40, assistant_model=llama, num_assistant_tokens=5)
    assert found.passes == 1 + -(-39 // 6)


def test_a_sequence_that_repeats_itself_is_looked_up(llama):
    """With a completion that is forced to repeat itself, all draft tokens are right."""
    circle = [5, 9, 12, 20]
    forced = [(8 + number, circle[number % 4]) for number in range(40)]
    prompt = np.array([circle * 2])
    found = llama.generate(prompt, max_new_tokens=40, prompt_lookup_num_tokens=7, forced_decoder_ids=forced)
    assert found.sequences[0].tolist() == circle * 12
    assert found.passes <= 8


@pytest.mark.parametrize("way", ["draft", "lookup"])
def test_drafted_samples_have_the_distribution_of_the_model(llama, draft, way):
    """The second and third token, given those before, of 600 calls in one program."""
    prompt = plain(llama, rows=1)["input_ids"]
    how = {"assistant_model": draft, "num_assistant_tokens": 2} if way == "draft" else {"prompt_lookup_num_tokens": 2}
    settings = {"max_new_tokens": 3, "do_sample": True, "top_k": 3, "temperature": 2.0} | how
    sampled = np.concatenate([llama.generate(prompt, seed=seed, **settings).sequences for seed in range(600)])
    logits = np.asarray(llama.generate(prompt, max_new_tokens=1, output_logits=True).logits[0][0])
    for position in (8, 9):
        before, count = np.unique(sampled[:, :position], axis=0, return_counts=True)
        common = before[count.argmax()]
        logits = np.array(llama(common[None]).logits[0, -1], np.float64) / 2.0
        logits[logits < np.sort(logits)[-3]] = -np.inf
        likely = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        same = (sampled[:, :position] == common).all(1)
        counts = np.bincount(sampled[same, position], minlength=len(likely))
        assert chi_square(counts, same.sum() * likely) > 1e-3


# ---- caches


def test_a_second_turn_reads_only_what_is_new(llama, monkeypatch):
    first = llama.generate(plain(llama)["input_ids"], max_new_tokens=6, return_dict_in_generate=True)
    more = np.concatenate([first.sequences, plain(llama, seed=8)["input_ids"]], axis=1)
    programs = []
    original = prepare.compiled
    monkeypatch.setattr(prepare, "compiled", lambda *args, **kw: _recording(original(*args, **kw), programs))
    found = llama.generate(more, max_new_tokens=NEW, past_key_values=first.past_key_values)
    assert int(programs[-1].cached) == 13
    np.testing.assert_array_equal(found.sequences, llama.generate(more, max_new_tokens=NEW).sequences)


def _recording(function, calls):
    def call(values, inputs, **kwargs):
        calls.append(inputs)
        return function(values, inputs, **kwargs)

    return call


def test_a_cache_serves_texts_that_begin_alike(llama):
    """Other sequences too: what they have in common is kept. Several conversations may go on from one cache."""
    ids = plain(llama, length=100)["input_ids"]
    cache = llama.generate(ids, max_new_tokens=30, return_dict_in_generate=True).past_key_values
    for common in (100, 60, 1, 0):
        other = np.concatenate([ids[:, :common], ids[:, common:][:, ::-1]], axis=1)
        found = llama.generate(other, max_new_tokens=NEW, past_key_values=cache)
        np.testing.assert_array_equal(found.sequences, llama.generate(other, max_new_tokens=NEW).sequences)


def test_a_half_precision_cache_is_close(llama):
    prompt = plain(llama)["input_ids"]
    settings = {"max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    found = llama.generate(prompt, cache_dtype="bfloat16", **settings)
    exact = llama.generate(prompt, **settings)
    assert found.past_key_values.layers[0].key.dtype == "bfloat16"
    np.testing.assert_allclose(found.logits[1], exact.logits[1], atol=0.02 * np.abs(exact.logits[1]).max())


# ---- streaming


class Recorder:
    """A streamer as those of transformers are."""

    def __init__(self):
        self.values, self.ended = [], False

    def put(self, value):
        self.values.append(np.array(value))

    def end(self):
        self.ended = True


def test_streamed_tokens_are_those_of_one_call(llama):
    batch = prompts(llama)
    expected = np.asarray(llama.generate(**batch, max_new_tokens=30).sequences)
    blocks = list(llama.stream(**batch, max_new_tokens=30))
    assert [block.shape[1] for block in blocks] == [1, 8, 8, 8, 5]
    np.testing.assert_array_equal(np.concatenate(blocks, 1), expected[:, 7:])
    recorder = Recorder()
    found = llama.generate(**batch, max_new_tokens=30, streamer=recorder)
    np.testing.assert_array_equal(found.sequences, expected)
    np.testing.assert_array_equal(recorder.values[0], batch["input_ids"])
    np.testing.assert_array_equal(np.stack(recorder.values[1:], 1), expected[:, 7:])
    assert recorder.ended


def test_streamed_samples_are_those_of_one_call(llama):
    batch, settings = prompts(llama), {"max_new_tokens": 20, "do_sample": True, "seed": 4, "num_return_sequences": 2}
    expected = np.asarray(llama.generate(**batch, **settings).sequences)
    np.testing.assert_array_equal(np.concatenate(list(llama.stream(**batch, **settings)), 1), expected[:, 7:])


def test_half_precision_streams_what_one_call_gives(llama):
    half = LlamaForCausalLM(llama.config, _do_init=False, dtype="bfloat16")
    half.params = llama.params
    prompt = plain(half, rows=1)["input_ids"]
    expected = half.generate(prompt, max_new_tokens=20).sequences
    np.testing.assert_array_equal(np.concatenate(list(half.stream(prompt, max_new_tokens=20)), 1), expected[:, 8:])


class Letters:
    """A tokenizer of which token n is letter n."""

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(ord("a") + token) for token in ids)


def test_a_completion_ends_at_a_stop_string(llama):
    batch = prompts(llama)
    free = np.asarray(llama.generate(**batch, max_new_tokens=30).sequences[:, 7:])
    strings = [Letters().decode(free[0, 11:13], False), Letters().decode(free[1, 3:5], False)]
    ends = [min(_end(Letters().decode(row, False), strings)) for row in free]
    found = np.asarray(llama.generate(**batch, max_new_tokens=30, stop_strings=strings, tokenizer=Letters()).sequences)
    assert found.shape[1] <= 7 + 30
    for row, (completion, end) in enumerate(zip(found[:, 7:], ends, strict=True)):
        np.testing.assert_array_equal(completion[:end], free[row, :end])
        assert (completion[end:] == llama.config.pad_token_id).all()


def _end(completion: str, strings: list[str]) -> list[int]:
    return [completion.find(string) + len(string) for string in strings if string in completion] or [len(completion)]


def test_time_runs_out(llama):
    prompt = plain(llama, rows=1)["input_ids"]
    llama.generate(prompt, max_new_tokens=200, max_time=1000.0)
    found = llama.generate(prompt, max_new_tokens=200, max_time=1e-9)
    assert found.sequences.shape == (1, 9)


# ---- programs and synchronisations


def test_a_stream_is_one_dispatch_and_one_synchronisation_a_block(llama, monkeypatch):
    gets, puts = [], []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: gets.append(tree) or get(tree))
    original = generate.compiled
    monkeypatch.setattr(generate, "compiled", lambda *args, **kw: _recording_any(original(*args, **kw), puts))
    blocks = list(llama.stream(**prompts(llama), max_new_tokens=30))
    assert len(gets) == len(puts) == len(blocks) == 5


def _recording_any(function, calls):
    return lambda *args, **kwargs: calls.append(args) or function(*args, **kwargs)


def test_one_synchronisation_a_call(llama, monkeypatch):
    gets = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: gets.append(tree) or get(tree))
    for conversion in ("__int__", "__float__", "__bool__", "__index__"):  # each waits for the device too
        monkeypatch.delattr(type(jnp.zeros(())), conversion)
    for settings in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 1}, {"prompt_lookup_num_tokens": 3}):
        llama.generate(plain(llama, rows=1)["input_ids"], max_new_tokens=30, **settings)
    assert len(gets) == 4


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"prompt_lookup_num_tokens": 4}, {"no_repeat_ngram_size": 2}])
def test_ten_lengths_compile_at_most_twice_whatever_the_strategy(llama, settings):
    model = LlamaForCausalLM(llama.config, seed=3)
    model.config.max_position_embeddings = 400
    for number, length in enumerate(range(10, 110, 10)):
        model.generate(prompts(model, rows=1, length=length)["input_ids"], max_new_tokens=number % 7 + 1, **settings)
    (program,) = structure_of(model).compiled.values()
    assert program._cache_size() <= 2  # pyright: ignore[reportFunctionMemberAccess]  # of JAX


def test_warmup_compiles_what_calls_run(llama):
    model = LlamaForCausalLM(llama.config, seed=5)
    model.warmup(batch_size=2, prompt_len=60, max_new_tokens=60)
    (program,) = structure_of(model).compiled.values()
    model.generate(**plain(model, length=50), max_new_tokens=33)
    assert program._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]  # of JAX


def test_warmup_for_streaming_compiles_what_streams_run(llama):
    model = LlamaForCausalLM(llama.config, seed=6)
    first = int(model.generate(np.zeros((1, 60), int), max_new_tokens=1).sequences[0, -1])
    structure_of(model).compiled.clear()
    model.warmup(prompt_len=60, max_new_tokens=60, streaming=True, eos_token_id=first)  # ends completions only
    programs = list(structure_of(model).compiled.values())
    assert len(programs) == 2
    list(model.stream(**plain(model, rows=1, length=50), max_new_tokens=33, eos_token_id=(first + 1) % 37))
    assert list(structure_of(model).compiled.values()) == programs
    assert [program._cache_size() for program in programs] == [1, 1]  # pyright: ignore[reportFunctionMemberAccess]  # of JAX


# ---- windows


@pytest.fixture(scope="module", params=["MistralForCausalLM", "Qwen2ForCausalLM-windows"])
def windowed(request, tmp_path_factory):
    """Windows in all layers, and in the last ones only."""
    case = next(case for case in CASES if case.name == request.param)
    return make_pair(case, tmp_path_factory.mktemp("torch"))


def test_a_ring_cache_equals_a_windowed_mask(windowed):
    """Prompts and completions that go round the ring, beside torch and beside the full pass with a mask."""
    model, _ = windowed
    batch = prompts(model, length=90)
    sequences = assert_equal_to_torch(windowed, batch, max_new_tokens=80)
    found = model.generate(**batch, max_new_tokens=80, return_dict_in_generate=True)
    ring = found.past_key_values.layers[-1]
    assert (type(ring).__name__, ring.key.shape[1]) == ("RingCache", 3 + 64)
    mask = np.append(batch["attention_mask"], np.ones((3, 80), int), 1)
    likeliest = model(sequences, mask, np.maximum(mask.cumsum(1) - 1, 0)).logits.argmax(-1)
    np.testing.assert_array_equal(likeliest[:, 89:-1], sequences[:, 90:])


def test_a_ring_cache_can_be_taken_back_and_goes_on(windowed):
    model, _ = windowed
    prompt = prompts(model, rows=1, length=90)["input_ids"]
    alone = model.generate(prompt, max_new_tokens=60, return_dict_in_generate=True)
    found = model.generate(prompt, max_new_tokens=60, prompt_lookup_num_tokens=6)
    np.testing.assert_array_equal(found.sequences, alone.sequences)
    for kept in (150, 120, 60):  # as far as it remembers, and farther
        longer = np.append(alone.sequences[:, :kept], prompt[:, :9], 1)
        again = model.generate(longer, max_new_tokens=NEW, past_key_values=alone.past_key_values)
        np.testing.assert_array_equal(again.sequences, model.generate(longer, max_new_tokens=NEW).sequences)
