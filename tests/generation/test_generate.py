"""`generate` beside transformers, token for token, and what it compiles."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.stats
import torch
from generation.pairs import GENERATIVE, LLAMA, make_pair, prompts, torch_sequences
from models.tiny_configs import CASES, HEADS, some_cases
from transformers.generation import logits_process

from flaxmodels.execution.structure import structure_of
from flaxmodels.generation.runner import cast_parameters, compiled
from flaxmodels.generation.sampling import generate_tokens
from flaxmodels.models.gpt2 import GPT2DoubleHeadsModel, GPT2LMHeadModel
from flaxmodels.models.llama import LlamaForCausalLM
from flaxmodels.nn.leaves import iter_leaves

NEW = 9


CACHES = [case for case in GENERATIVE if case in HEADS or case.name.endswith("-windows")]
"""One of each class, and the variants whose caches differ; other variants decode with a cache in `models`."""


@pytest.fixture(scope="module", params=some_cases(CACHES, exhaustive=GENERATIVE))
def pair(request, tmp_path_factory):
    """The model and its torch counterpart with the same random parameters."""
    return make_pair(request.param, tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    return make_pair(LLAMA, tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def llama(llamas):
    return llamas[0]


def test_greedy_equals_torch(pair):
    model, reference = pair
    batch = prompts(model)
    expected = torch_sequences(reference, batch, max_new_tokens=NEW)
    sequences = model.generate(**batch, max_new_tokens=NEW).sequences
    assert sequences.dtype == np.int32
    np.testing.assert_array_equal(sequences, expected)


def test_rows_end_at_any_of_several_tokens(pair):
    model, reference = pair
    batch = prompts(model)
    free = torch_sequences(reference, batch, max_new_tokens=NEW)[:, 7:]
    ends = [int(free[0, 1]), int(free[1, 4]), int(free[2, 2])]
    expected = torch_sequences(reference, batch, max_new_tokens=NEW, eos_token_id=ends)
    assert expected.shape[1] < 7 + NEW, "the rows must end early"
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW, eos_token_id=ends).sequences, expected)


def test_one_row_ends_with_its_token(llamas):
    model, reference = llamas
    batch = prompts(model, rows=1)
    end = int(torch_sequences(reference, batch, max_new_tokens=NEW)[0, 10])
    expected = torch_sequences(reference, batch, max_new_tokens=NEW, eos_token_id=end)
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW, eos_token_id=end).sequences, expected)


def test_padding_is_inferred_from_the_pad_token(pair):
    model, reference = pair
    batch = {"input_ids": prompts(model)["input_ids"]}
    expected = torch_sequences(reference, batch, max_new_tokens=NEW)
    np.testing.assert_array_equal(model.generate(**batch, max_new_tokens=NEW).sequences, expected)


@pytest.mark.exhaustive  # a consequence of equality with torch, here and of the forward pass
def test_decoding_with_a_cache_equals_the_full_forward_pass(pair):
    model, _ = pair
    ids = prompts(model, rows=1)["input_ids"]
    sequences = model.generate(ids, max_new_tokens=NEW, forced_eos_token_id=None).sequences
    likeliest = model(sequences[:, :-1]).logits.argmax(-1)
    np.testing.assert_array_equal(sequences[:, 7:], likeliest[:, 6:])


def test_a_model_with_two_heads_generates_with_the_first():
    case = next(case for case in CASES if case.head == "GPT2DoubleHeadsModel")
    model = GPT2DoubleHeadsModel(dict(case.values))
    params = {name: value for name, value in model.params.items() if name != "multiple_choice_head"}
    batch, settings = prompts(model), {"max_new_tokens": NEW, "eos_token_id": None}
    expected = GPT2LMHeadModel(dict(case.values)).generate(**batch, **settings, params=params).sequences
    np.testing.assert_array_equal(model.generate(**batch, **settings).sequences, expected)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")
@pytest.mark.parametrize("settings", [{"max_length": 12}, {}, {"max_new_tokens": 1}, {"max_length": 3, "rows": 0}])
def test_lengths_equal_those_of_torch(llamas, settings):
    model, reference = llamas
    batch, settings = prompts(model), dict(settings)
    if "rows" in settings:
        del settings["rows"]
        model.generation_config.bos_token_id = reference.generation_config.bos_token_id = 5
        batch = {}
    expected = torch_sequences(reference, batch, **settings)
    np.testing.assert_array_equal(model.generate(**batch, **settings).sequences, expected)


def test_parameters_can_be_given(llama):
    batch = prompts(llama)
    own = llama.generate(**batch).sequences
    empty = LlamaForCausalLM(llama.config, _do_init=False)
    empty.generation_config = llama.generation_config
    np.testing.assert_array_equal(empty.generate(**batch, params=llama.params).sequences, own)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, llama.params)
    assert (llama.generate(**batch, params=doubled).sequences != own).any()


@pytest.fixture(params=[False, True], ids=["unrolled", "scanned"])
def half(request, llama, tmp_path):
    """The model in bfloat16, its parameters stored in float32."""
    llama.save_pretrained(tmp_path)
    return LlamaForCausalLM.from_pretrained(tmp_path, dtype="bfloat16", scan_layers=request.param)


def test_half_precision_takes_a_likely_token(half):
    """A cached step and the full pass round differently, so that the likeliest tokens may swap."""
    sequences = half.generate(prompts(half, rows=1)["input_ids"], max_new_tokens=NEW, eos_token_id=None).sequences
    logits = np.asarray(half(sequences[:, :-1]).logits[0, 6:], np.float32)
    taken = logits[np.arange(NEW), sequences[0, 7:]]
    assert (taken >= logits.max(-1) - 0.02 * np.abs(logits).max()).all()


def test_parameters_are_cast_once(half):
    """What layers cast in each step is cast before; not the scales of norms, which compute in float32."""
    prepared = structure_of(half).bind(structure_of(half).values())
    cast_parameters(prepared)
    dtypes = {type(leaf.owner).__name__: leaf.variable.get_value().dtype.name for leaf in iter_leaves(prepared)}
    assert dtypes == {"Embedding": "bfloat16", "Linear": "bfloat16", "RMSNorm": "float32"}
    args, kwargs = call_of(half, prompts(half))
    program = equations(compiled(half, program=generate_tokens).trace(*args, **kwargs).jaxpr)  # pyright: ignore[reportFunctionMemberAccess]  # of JAX
    (loop,) = [each for each in program if each.primitive.name == "while"]
    body = equations(loop.params["body_jaxpr"])
    casts = {each.invars[0].aval.shape for each in body if each.primitive.name == "convert_element_type"}
    matrices = [leaf.shape[-2:] for leaf in jax.tree.leaves(prepared.params) if leaf.ndim > 1]
    assert casts
    assert casts.isdisjoint(matrices)


def call_of(model, batch, **settings) -> tuple[tuple, dict]:
    """The arguments with which `generate` calls the compiled function."""
    calls, programs = [], structure_of(model).compiled
    function = compiled(model, program=generate_tokens)
    programs["generate_tokens",] = lambda *args, **kwargs: calls.append((args, kwargs)) or function(*args, **kwargs)
    model.generate(**batch, **settings)
    programs["generate_tokens",] = function
    (call,) = calls
    return call


def equations(jaxpr):
    """All equations of a jaxpr, those of inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "eqns"):
                yield from equations(value)


# ---- sampling


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """The probability of counts at least this far from the expected ones; rare tokens are taken together."""
    rare = expected < 5
    pooled = [np.append(values[~rare], values[rare].sum()) for values in (counts, expected)]
    kept = pooled[1] > 0
    return float(scipy.stats.chisquare(pooled[0][kept], pooled[1][kept]).pvalue)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 2.5, "top_k": 0, "top_p": 1.0},
        {"temperature": 1.0, "top_k": 6, "top_p": 1.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.8},
        {"temperature": 2.0, "top_k": 12, "top_p": 0.9},
    ],
    ids=str,
)
def test_samples_have_the_distribution_of_torch(llamas, settings):
    model, reference = llamas
    count, prompt = 800, prompts(model, rows=1)["input_ids"]
    sampled = model.generate(np.repeat(prompt, count, 0), max_new_tokens=1, do_sample=True, seed=1, **settings)
    with torch.no_grad():
        scores = reference(torch.tensor(prompt)).logits[:, -1]
    scores = logits_process.TemperatureLogitsWarper(settings["temperature"])(None, scores)
    if settings["top_k"]:
        scores = logits_process.TopKLogitsWarper(settings["top_k"])(None, scores)
    if settings["top_p"] < 1:
        scores = logits_process.TopPLogitsWarper(settings["top_p"])(None, scores)
    probabilities = scores.double().softmax(-1)[0].numpy()
    counts = np.bincount(sampled.sequences[:, -1], minlength=model.config.vocab_size)
    assert not counts[probabilities == 0].any()
    assert chi_square(counts, count * probabilities) > 1e-3


def test_each_step_draws_anew(llama):
    """The second token's distribution, given the first, is that of the model too."""
    prompt = prompts(llama, rows=1)["input_ids"]
    sampled = llama.generate(np.repeat(prompt, 800, 0), max_new_tokens=2, do_sample=True, top_k=3, seed=2).sequences
    first, second = np.asarray(sampled[:, 7:]).T
    token = np.bincount(first).argmax()
    scores = np.asarray(llama(np.append(prompt, [[token]], 1)).logits[0, -1], np.float64)
    scores[scores < np.sort(scores)[-3]] = -np.inf
    probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    counts = np.bincount(second[first == token], minlength=len(scores))
    assert chi_square(counts, counts.sum() * probabilities) > 1e-3


def test_samples_repeat_with_a_key_and_only_then(llama):
    def sample(**how):
        return np.asarray(llama.generate(**prompts(llama), max_new_tokens=NEW, do_sample=True, **how).sequences)

    np.testing.assert_array_equal(sample(seed=5), sample(seed=5))
    np.testing.assert_array_equal(sample(seed=5), sample(prng_key=jax.random.key(5)))
    np.testing.assert_array_equal(sample(seed=5), sample(prng_key=jax.random.PRNGKey(5)))
    assert (sample(seed=5) != sample(seed=6)).any()
    assert (sample() != sample()).any()


def test_a_row_is_drawn_alone_as_in_a_batch(llama):
    batch = prompts(llama)
    alone = {name: value[:1] for name, value in batch.items()}
    kwargs = {"max_new_tokens": NEW, "do_sample": True, "seed": 3}
    np.testing.assert_array_equal(
        llama.generate(**alone, **kwargs).sequences, llama.generate(**batch, **kwargs).sequences[:1]
    )


# ---- compilation


def test_ten_prompts_of_ten_lengths_compile_at_most_twice(llama):
    model = LlamaForCausalLM(llama.config, seed=3)
    model.config.max_position_embeddings = 400
    for length in range(10, 110, 10):
        model.generate(prompts(model, length=length)["input_ids"], max_new_tokens=length % 7 + 1)
    assert compiled(model, program=generate_tokens)._cache_size() <= 2  # pyright: ignore[reportFunctionMemberAccess]  # of JAX


def test_numbers_do_not_compile_anew(llama):
    model = LlamaForCausalLM(llama.config, seed=4)
    batch = prompts(model)
    for step, (temperature, top_k, top_p) in enumerate([(0.5, 3, 0.9), (0.6, 40, 0.5), (7.0, 50, 0.1)]):
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        model.generate(**batch, max_new_tokens=5 + step, eos_token_id=list(range(step)), **sampling)
        model.generate(**batch, max_new_tokens=5 + step, seed=step, **sampling)
    assert compiled(model, program=generate_tokens)._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]  # of JAX


@pytest.mark.parametrize(
    ("program", "settings"),
    [
        ("generate_tokens", {"do_sample": True, "top_p": 0.9}),
        ("search_beams", {"num_beams": 3, "num_return_sequences": 2}),
        ("look_up_tokens", {"prompt_lookup_num_tokens": 3}),
    ],
)
def test_a_call_is_one_dispatch(llama, caplog, program, settings):
    """One call of one program: whatever else ran on the device would be compiled too."""
    batch = {"input_ids": prompts(llama, rows=1)["input_ids"], "max_new_tokens": 30}
    llama.generate(**batch, **settings)
    jax.clear_caches()
    with caplog.at_level("WARNING"), jax.log_compiles():
        llama.generate(**batch, **settings)
    compilations = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]
    assert [message.split()[1] for message in compilations] == [f"jit({program})"]
