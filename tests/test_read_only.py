"""Dicts and lists of configurations: read as any others, and never changed in place."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from flaxmodels.errors import ConfigError
from flaxmodels.models.llama import LlamaConfig
from flaxmodels.read_only import read_only

VALUES = {"factor": 2.0, "short": [1.0, 2.0], "nested": {"list": [{"deep": 1}], "tuple": ({"deep": 2},)}}

OF_DICTS = {
    "item": lambda value: value.__setitem__("factor", 3.0),
    "del": lambda value: value.__delitem__("factor"),
    "update": lambda value: value.update(factor=3.0),
    "setdefault": lambda value: value.setdefault("new", 1),
    "pop": lambda value: value.pop("factor"),
    "popitem": lambda value: value.popitem(),
    "clear": lambda value: value.clear(),
    "or": lambda value: value.__ior__({"factor": 3.0}),
}
OF_LISTS = {
    "item": lambda value: value.__setitem__(0, 3.0),
    "slice": lambda value: value.__setitem__(slice(0, 1), [3.0]),
    "del": lambda value: value.__delitem__(0),
    "append": lambda value: value.append(3.0),
    "extend": lambda value: value.extend([3.0]),
    "insert": lambda value: value.insert(0, 3.0),
    "remove": lambda value: value.remove(1.0),
    "pop": lambda value: value.pop(),
    "clear": lambda value: value.clear(),
    "sort": lambda value: value.sort(),
    "reverse": lambda value: value.reverse(),
    "add": lambda value: value.__iadd__([3.0]),
    "multiply": lambda value: value.__imul__(2),
}
WHOLE = "config.x cannot be changed in place: set it whole, as in config.x = "
NESTED = (
    "config.x cannot be changed in place, nor can what is in it: change a copy, as copy.deepcopy(config.x) makes one, "
    "and set config.x to it"
)


@pytest.mark.parametrize(
    ("value", "edit", "message"),
    [
        *((VALUES, edit, WHOLE + "{**config.x, ...}") for edit in OF_DICTS.values()),
        *(([1.0, 2.0], edit, WHOLE + "[*config.x, ...]") for edit in OF_LISTS.values()),
        (VALUES, lambda value: value["short"].append(3.0), NESTED),
        (VALUES, lambda value: value["nested"]["list"][0].update(deep=3), NESTED),
        (VALUES, lambda value: value["nested"]["tuple"][0].clear(), NESTED),
        (({"a": 1},), lambda value: value[0].clear(), NESTED),
        (np.ones((2, 2)), lambda value: value[0].clear(), NESTED),
        ({"a": np.ones(2)}, lambda value: value["a"].clear(), NESTED),
    ],
)
def test_edits_in_place_are_refused(value, edit, message):
    before = copy.deepcopy(value)
    held = read_only(value, "x")
    with pytest.raises(ConfigError) as error:
        edit(held)
    assert str(error.value) == message
    np.testing.assert_equal(held, before)


def test_they_are_read_as_any_others():
    held = read_only(VALUES, "x")
    assert held == VALUES
    assert dict(held) == {**held} == VALUES
    assert list(held) == list(VALUES)
    assert json.loads(json.dumps(held)) == json.loads(json.dumps(VALUES))
    assert repr(held) == repr(VALUES)
    assert isinstance(held, dict)
    assert isinstance(held["short"], list)
    assert held | {"factor": 3.0} == {**VALUES, "factor": 3.0}
    assert {"other": 1} | held == {"other": 1, **VALUES}
    assert held["short"] + [3.0] == [1.0, 2.0, 3.0]
    assert held["short"][:1] == [1.0]
    assert sorted(held["short"], reverse=True) == [2.0, 1.0]


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda value: value.copy(), lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "method", "pickle"],
)
def test_copies_can_be_changed(duplicate):
    for value, kind in ((VALUES, dict), ([1.0, 2.0], list)):
        twin = duplicate(read_only(value, "x"))
        assert type(twin) is kind
        assert twin == value
        twin.clear()


def test_deep_copies_can_be_changed_deeply():
    for duplicate in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        twin = duplicate(read_only(VALUES, "x"))
        twin["nested"]["list"][0]["deep"] = twin["nested"]["tuple"][0]["deep"] = 7
        twin["short"].append(3.0)
        assert twin != VALUES


def test_a_configuration_holds_its_own():
    ropes, ends = {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}, [1, 2]
    config: Any = LlamaConfig(rope_parameters=ropes, eos_token_id=ends)
    read = LlamaConfig.from_dict({"model_type": "llama", "rope_parameters": ropes, "further": {"a": [1]}})
    ropes["factor"] = 3.0
    ends.append(3)
    assert (config.rope_parameters["factor"], config.eos_token_id) == (2.0, [1, 2])
    with pytest.raises(ConfigError) as error:
        config.rope_parameters["rope_theta"] = 5.0
    assert str(error.value) == (
        "config.rope_parameters cannot be changed in place: set it whole, as in config.rope_parameters = "
        "{**config.rope_parameters, ...}"
    )
    for twin in (config, copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        with pytest.raises(ConfigError):
            twin.eos_token_id.append(3)
        twin.eos_token_id = [*twin.eos_token_id, 3]
        assert twin.eos_token_id == [1, 2, 3]
    with pytest.raises(ConfigError):
        read.further["a"].append(2)
    values = read.to_dict()
    values["further"]["a"].append(2)
    assert read.further == {"a": [1]}


def test_every_change_gives_a_configuration_another_version():
    config = LlamaConfig()
    versions = {config.state_version: config}
    for change in (
        lambda: setattr(config, "hidden_act", "gelu"),
        lambda: setattr(config, "hidden_act", "gelu"),
        lambda: setattr(config, "new", 1),
        lambda: delattr(config, "new"),
        lambda: config.update({"mlp_bias": True}),
        lambda: setattr(config, "num_labels", 3),
    ):
        change()
        assert config.state_version not in versions
        versions[config.state_version] = config
