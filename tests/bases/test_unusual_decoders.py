"""The skeleton of decoders takes parts that no architecture of the library has yet, without a line of its own."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases.unusual import MODELS, DecompressedAttention, make
from models.comparisons import assert_close

from flaxmodels.checkpoint.mapping import check_mapping
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.nn.cache import max_rewind

MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]])
IDS = np.random.default_rng(0).integers(4, 31, MASK.shape)
STACKED = sorted(MODELS.keys() - {"hybrid"})
"""Those whose layers are equal, or equal after the first."""


@pytest.fixture(scope="module")
def model(request):
    return make(request.param)


@pytest.mark.parametrize("model", sorted(MODELS), indirect=True)
def test_chunks_with_a_cache_are_the_whole_sequence(model):
    whole = model(IDS, attention_mask=MASK).logits
    cache, found = model.init_cache(2, 9), []
    for start, stop in ((0, 4), (4, 6), (6, 7)):
        outputs = model(IDS[:, start:stop], attention_mask=MASK, past_key_values=cache)
        cache = outputs.past_key_values
        found.append(outputs.logits)
    assert_close(np.concatenate(found, axis=1)[MASK == 1], np.asarray(whole)[MASK == 1], 1e-5)


@pytest.mark.parametrize("model", ["latent", "state-space", "hybrid"], indirect=True)
def test_generated_tokens_are_the_likeliest_ones(model):
    """The prompt is filled up to a bucket: padding after it must not change what a recurrence knows."""
    prompt, mask = IDS[:, :5], MASK[:, :5]
    tokens = np.asarray(model.generate(prompt, attention_mask=mask, max_new_tokens=3, eos_token_id=None).sequences)
    mask = np.pad(mask, ((0, 0), (0, 2)), constant_values=1)
    logits = np.asarray(model(tokens[:, :-1], attention_mask=mask).logits)
    np.testing.assert_array_equal(tokens[:, 5:], logits[:, 4:].argmax(-1))


@pytest.mark.parametrize("model", ["latent", "state-space"], indirect=True)
def test_a_sequence_goes_on_where_its_cache_ends(model):
    first = model.generate(IDS[:1, :4], max_new_tokens=3, eos_token_id=None, return_dict_in_generate=True)
    cache, longer = first.past_key_values, np.concatenate([np.asarray(first.sequences), IDS[:1, 4:6]], axis=1)
    settings = {"max_new_tokens": 3, "eos_token_id": None}
    expected = model.generate(longer, **settings).sequences
    np.testing.assert_array_equal(model.generate(longer, past_key_values=cache, **settings).sequences, expected)


@pytest.mark.parametrize("name", STACKED)
def test_scanned_equals_unrolled(name):
    unrolled, scanned = make(name), make(name, scan_layers=True)
    assert unrolled.num_parameters() == scanned.num_parameters()
    options = {"attention_mask": MASK, "output_hidden_states": True}
    for ours, theirs in zip(*(jax.tree.leaves(model(IDS, **options)) for model in (scanned, unrolled)), strict=True):
        assert_close(ours, theirs, 1e-5)
    cached = scanned(IDS[:, :4], attention_mask=MASK, past_key_values=scanned.init_cache(2, 9))
    more = scanned(IDS[:, 4:], attention_mask=MASK, past_key_values=cached.past_key_values).logits
    whole = np.asarray(unrolled(IDS, attention_mask=MASK).logits)[:, 4:]
    assert_close(more, whole, 1e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_dense_layers_come_before_sparse_ones(scan_layers):
    model = make("latent", scan_layers=scan_layers)
    stack = model.model.layers
    kinds = [type(block).__name__ for block in stack.blocks()]
    assert kinds == ["LatentDenseLayer", "LatentDenseLayer", "LatentSparseLayer"]
    assert (stack.num_unstacked, stack.num_stacked) == (2, int(scan_layers))
    assert len(model(IDS, output_router_logits=True).router_logits) == 1


def test_no_layer_is_sparse_if_all_come_first():
    model_class = MODELS["latent"]
    config = copy.copy(make("latent").config)
    config.first_k_dense_replace = 9
    for scan_layers in (False, True):
        model = model_class(config, scan_layers=scan_layers)
        assert len(model.model.layers) == 3
        assert model(IDS, output_router_logits=True).router_logits is None


def test_layers_of_several_kinds_are_not_scanned():
    with pytest.raises(ConfigError, match=r"^scan_layers=True stacks equal layers, and this model has several kinds: "):
        make("hybrid", scan_layers=True)


def test_latent_attention_with_and_without_keys_of_all_heads():
    model = make("latent")
    absorbed = model(IDS, attention_mask=MASK).logits
    for layer in model.model.layers:
        attention = DecompressedAttention(model.config, model.policy)
        for name, value in vars(layer.self_attn).items():
            setattr(attention, name, value)
        layer.self_attn = attention
    assert_close(model(IDS, attention_mask=MASK).logits, absorbed, 1e-5)


def test_caches_are_those_of_the_mixers():
    kinds = jax.tree.map(lambda part: type(part).__name__, make("hybrid").init_cache(2, 9), is_leaf=_is_cache)
    assert kinds == ("StateCache", ("StateCache", "KeyValueCache"), "StateCache")
    latent = make("latent").init_cache(2, 9, "bfloat16")[0]
    assert (latent.key.shape, latent.value.shape, latent.key.dtype) == ((2, 9, 1, 10), (2, 9, 1, 4), jnp.bfloat16)
    assert [max_rewind(make(name).init_cache(1, 9)) for name in ("latent", "hybrid")] == [float("inf"), 0]


def _is_cache(part):
    return hasattr(part, "max_rewind")


def test_what_cannot_forget_drafts_no_tokens():
    message = (
        r"^draft tokens \(assistant_model, prompt_lookup_num_tokens\) need a cache that can forget wrong ones; that "
        "of StateSpaceForCausalLM cannot$"
    )
    with pytest.raises(FlaxModelsError, match=message):
        make("state-space").generate(IDS[:1], prompt_lookup_num_tokens=2, max_new_tokens=3)
    settings = {"max_new_tokens": 3, "eos_token_id": None}
    latent = make("latent")
    drafted = latent.generate(IDS[:1], prompt_lookup_num_tokens=2, **settings).sequences
    np.testing.assert_array_equal(drafted, latent.generate(IDS[:1], **settings).sequences)


def test_a_cache_that_cannot_forget_serves_no_other_sequence():
    """A sequence that differs from what was read before its end is read anew."""
    model = make("state-space")
    first = model.generate(IDS[:1, :6], max_new_tokens=2, eos_token_id=None, return_dict_in_generate=True)
    other = np.concatenate([IDS[:1, :3], IDS[:1, :5]], axis=1)
    settings = {"max_new_tokens": 3, "eos_token_id": None}
    expected = model.generate(other, **settings).sequences
    found = model.generate(other, past_key_values=first.past_key_values, **settings).sequences
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", STACKED)
def test_every_parameter_has_a_name_of_its_own(name):
    for scan_layers in (False, True):
        check_mapping(make(name, scan_layers=scan_layers, _do_init=False))


def test_router_noise_and_dropout_have_keys_of_their_own():
    """One key was used for both, so that noise and dropout of a token were not independent."""
    from flaxmodels.bases.decoder_layer import Branch, SparseFeedForward

    keys = []

    class Layer:
        def mlp(self, hidden_states, dropout_rng):
            keys.append(dropout_rng)
            return hidden_states, None

    layer, key, x = Layer(), jax.random.key(0), jnp.ones((1, 2, 3))
    branch = Branch(layer, SparseFeedForward("mlp", dropout_rate=0.5), None, {}, key)
    dropped = branch(x).hidden_states
    expected = [jax.random.bernoulli(split, 0.5, x.shape) * 2.0 for split in (key, keys[0])]
    assert all((dropped != other).any() for other in expected)
