"""Model cards: what they say, and what becomes of those that are there."""

from __future__ import annotations

import pytest
import yaml
from hub.conftest import LLAMA

from flaxmodels import CheckpointError, FlaxModelsError, LlamaForCausalLM
from flaxmodels.config import PreTrainedConfig

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub itself

CARD = """---
base_model: org/base
datasets:
- org/data
language: en
library_name: flaxmodels
license: mit
pipeline_tag: text-generation
tags:
- flax
- jax
- custom
---

# Tuned

| | |
|---|---|
| Class | `LlamaForCausalLM` |
| Model type | `llama` |
| Parameters | 10,434 |
| Stored as | bfloat16: 10,434 |
| `model.safetensors.index.json` | weights in the names and layout of torch |
| `flax_model.msgpack` | weights in the names and layout of Flax |
| Base model | [org/base](https://huggingface.co/org/base) |
| Training data | Some data (train) |

## How to load it

In JAX:

```python
from flaxmodels import LlamaForCausalLM

model = LlamaForCausalLM.from_pretrained("org/tuned")
```

In torch:

```python
from transformers import LlamaForCausalLM

model = LlamaForCausalLM.from_pretrained("org/tuned")
```
"""
ARGUMENTS = {
    "model_name": "Tuned",
    "language": "en",
    "license": "mit",
    "finetuned_from": "org/base",
    "tasks": "text-generation",
    "dataset_tags": ["org/data"],
    "dataset": "Some data",
    "dataset_args": "train",
}
WRITTEN = """---\r
# A comment.\r
license: apache-2.0\r
tags: nlp\r
model-index:\r
- name: tuned\r
  results:\r
  - task:\r
      type: text-generation\r
    dataset:\r
      name: data\r
      type: org/data\r
    metrics:\r
    - type: perplexity\r
      value: 7\r
---\r
Written   by hand.\r
\r
é\r
"""


@pytest.fixture
def model():
    """A tiny model, to which tags may be added."""
    return LlamaForCausalLM(LLAMA, seed=3)


def metadata(card):
    """The metadata of a card."""
    return yaml.safe_load(card.split("---")[1])


def test_a_new_card_says_what_the_files_say(hub, model):
    repo = hub.create("org/tuned", {"flax_model.msgpack": b"of somebody else"})
    model.add_model_tags("custom")
    model.push_to_hub("org/tuned", params=model.to_bf16(), max_shard_size=9_000, **ARGUMENTS)
    assert repo.files()["README.md"].decode() == CARD


def test_the_repository_that_a_model_was_loaded_from_is_its_base(hub, model):
    model.push_to_hub("org/base")
    tuned = LlamaForCausalLM.from_pretrained("org/base")
    tuned.push_to_hub("org/tuned")
    tuned.push_to_hub("org/base")
    assert metadata(hub.repos["org/tuned"].files()["README.md"].decode())["base_model"] == "org/base"
    assert "base_model" not in metadata(hub.repos["org/base"].files()["README.md"].decode())


def test_tags_are_added(model):
    model.add_model_tags(["a", "b"])
    model.add_model_tags("a")
    model.add_model_tags("c")
    assert model.model_tags == ("a", "b", "c")


def test_tags_compile_nothing_anew(model):
    tokens = [[1, 2]]
    model(tokens)
    before = len(compiled(model))
    model.add_model_tags("a")
    model(tokens)
    assert len(compiled(model)) == before == 1


def compiled(model):
    """The programs that were compiled for a model."""
    from flaxmodels.execution.structure import structure_of

    return structure_of(model).compiled


def test_a_card_that_is_there_keeps_its_text_and_gets_metadata(hub, model):
    repo = hub.create("org/tuned", {"README.md": WRITTEN.encode()})
    model.push_to_hub("org/tuned", tags=["nlp", "flax"], language="en")
    card = repo.files()["README.md"].decode()
    assert card.endswith("---\r\nWritten   by hand.\r\n\r\né\r\n")
    assert metadata(card) == metadata(WRITTEN) | {
        "library_name": "flaxmodels",
        "language": "en",
        "tags": ["nlp", "flax"],
        "model-index": [
            {
                "name": "tuned",
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"name": "data", "type": "org/data"},
                        "metrics": [{"type": "perplexity", "value": 7}],
                    }
                ],
            }
        ],
    }
    before = len(repo.commits)
    model.push_to_hub("org/tuned")
    assert (len(repo.commits), repo.files()["README.md"].decode()) == (before, card)
    model.push_to_hub("org/tuned", license="mit")  # what is said wins, what is measured does not
    assert metadata(repo.files()["README.md"].decode())["license"] == "mit"


BROKEN = {
    "yaml": ("---\nlicense: [\n---\n", "could not be read"),
    "list": ("---\n- a\n---\n", "repo card metadata block should be a dict"),
    "results": ("---\nmodel-index: {a: b}\n---\n", "Invalid `model_index` in metadata cannot be parsed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_metadata_that_cannot_be_read_is_refused(hub, model, case):
    card, reason = BROKEN[case]
    repo = hub.create("org/tuned", {"README.md": card.encode()})
    before = dict(repo.refs)
    with pytest.raises(FlaxModelsError) as error:
        model.push_to_hub("org/tuned")
    assert str(error.value).startswith("the metadata of the model card that is there cannot be read: ")
    assert str(error.value).endswith(
        "Correct README.md, or pass ignore_metadata_errors=True, which drops what of its results cannot be read"
    )
    assert case == "yaml" or reason in str(error.value)
    assert repo.refs == before
    if case == "results":
        model.push_to_hub("org/tuned", ignore_metadata_errors=True)
        assert "model-index" not in metadata(repo.files()["README.md"].decode())


def test_the_hub_refuses_metadata(hub, model):
    with pytest.raises(CheckpointError, match=r"Invalid metadata in README.md. - \"license\" must be a string"):
        model.push_to_hub("org/tuned", license=["mit"])
    assert "model.safetensors" not in hub.repos["org/tuned"].files()


def test_a_card_in_a_folder(hub, model, tmp_path):
    folder = tmp_path / "tuned"
    model.save_pretrained(folder, params=model.to_bf16(), max_shard_size=9_000)
    (folder / "flax_model.msgpack").touch()
    model.create_model_card(folder, tags="custom", **(ARGUMENTS | {"model_name": "org/tuned"}))
    text = (folder / "README.md").read_text()
    assert text == CARD.replace("# Tuned", "# tuned")
    (folder / "README.md").write_text(text.replace("# tuned", "# My own title"))
    model.create_model_card(folder, license="apache-2.0")
    text = (folder / "README.md").read_text()
    assert "# My own title" in text
    assert metadata(text)["license"] == "apache-2.0"
    # A save that is pushed takes it along, unless the repository has one.
    model.save_pretrained(folder, push_to_hub=True)
    assert hub.repos["org/tuned"].files()["README.md"].decode() == text


def test_a_card_of_a_folder_without_weights_says_less(model, tmp_path):
    model.create_model_card(tmp_path / "new", tasks=["text-generation", "summarization"])
    text = (tmp_path / "new" / "README.md").read_text()
    assert metadata(text)["pipeline_tag"] == "text-generation"
    assert metadata(text)["tags"] == ["flax", "jax", "summarization"]
    assert "| Class | `LlamaForCausalLM` |" in text
    assert "Parameters" not in text
    assert "In torch" not in text


def test_a_class_of_ones_own_is_imported_from_where_it_is(model, tmp_path):
    class Own(LlamaForCausalLM):
        """Of a user."""

    own = Own(LLAMA)
    own.save_pretrained(tmp_path)
    own.create_model_card(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"from {__name__} import Own" in text
    assert "transformers" not in text


def test_configurations_have_a_card_only_if_there_is_something_to_say(hub, model):
    config: PreTrainedConfig = model.config
    config.push_to_hub("org/plain")
    assert "README.md" not in hub.repos["org/plain"].files()
    config.push_to_hub("org/tagged", tags=["a"], license="mit")
    assert hub.repos["org/tagged"].files()["README.md"].decode() == (
        "---\nlibrary_name: flaxmodels\nlicense: mit\ntags:\n- a\n---\n\n# tagged\n"
    )
