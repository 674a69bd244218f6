"""Pushing to the Hub, over HTTP to a small one on the loopback interface."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub.conftest import TOKENIZER, environment, files_of
from hub.server import Commit
from models.comparisons import same_params

from flaxmodels import (
    AutoModelForCausalLM,
    FlaxModelsError,
    GenerationConfig,
    HubError,
    LlamaForCausalLM,
    PushToHubMixin,
    Tokenizer,
)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub itself


class Folder(PushToHubMixin):
    """Something that writes files, as a tokenizer does."""

    pushed_as = "tokenizer"

    def __init__(self, **files: str):
        self.files = files

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Write them."""
        with self.pushing(save_directory, push_to_hub, kwargs):
            save_directory.mkdir(exist_ok=True)
            for name, text in self.files.items():
                (save_directory / f"{name}.json").write_text(text)


def weights_of(files):
    """The files that hold weights, and the configuration."""
    return {path: data for path, data in files.items() if path not in (".gitattributes", "README.md")}


# ---- what arrives


def test_a_sharded_model_arrives_byte_by_byte_and_comes_back(hub, llama, saved, tmp_path):
    commit = llama.push_to_hub("org/name", max_shard_size=18_000)
    repo = hub.repos["org/name"]
    assert weights_of(repo.files()) == files_of(saved)
    assert (commit.oid, str(commit)) == (repo.refs["main"], f"{hub.endpoint}/org/name/commit/{commit.oid}")
    loaded = AutoModelForCausalLM.from_pretrained("org/name", cache_dir=tmp_path / "another")
    assert same_params(loaded.params, llama.params)
    snapshot = tmp_path / "another" / "models--org--name" / "snapshots" / commit.oid
    assert files_of(snapshot) == weights_of(repo.files())


def test_large_files_go_in_parts(hub, llama, saved):
    hub.part_size = 7_000
    llama.push_to_hub("org/name", max_shard_size=18_000)
    assert weights_of(hub.repos["org/name"].files()) == files_of(saved)
    assert sum(path.startswith("PUT /parts/") for path in hub.requests("PUT")) > 3


@pytest.mark.parametrize("format", ["flax", "flax-safetensors", "orbax"])
def test_formats(hub, llama, format, tmp_path):
    llama.push_to_hub("org/name", format=format)
    llama.save_pretrained(tmp_path / "saved", format=format)
    names = {name.split("/")[0] for name in files_of(tmp_path / "saved")}
    assert {name.split("/")[0] for name in weights_of(hub.repos["org/name"].files())} == names
    assert same_params(LlamaForCausalLM.from_pretrained("org/name").params, llama.params)


def test_options_of_saving_are_heard(hub, llama):
    llama.push_to_hub("org/name", safe_serialization=False, variant="bf16", params=llama.to_bf16())
    assert "flax_model.bf16.msgpack" in hub.repos["org/name"].files()
    assert LlamaForCausalLM.from_pretrained("org/name", variant="bf16").params["lm_head"]["kernel"].dtype == "bfloat16"


def test_configurations(hub, llama):
    llama.config.push_to_hub("name")
    assert hub.repos["org/name"].commits[hub.repos["org/name"].refs["main"]].message == "Upload config"
    assert weights_of(hub.repos["org/name"].files()) == {"config.json": llama.config.to_json_string().encode()}
    assert type(llama.config).from_pretrained("org/name").to_dict() == llama.config.to_dict()
    GenerationConfig(num_beams=4).push_to_hub("name")
    assert GenerationConfig.from_pretrained("org/name").num_beams == 4


def test_whatever_has_save_pretrained(hub, tmp_path):
    commit = Folder(tokenizer=TOKENIZER).push_to_hub("name", safe_serialization=False, max_shard_size="1GB")
    assert commit is not None
    assert commit.commit_message == "Upload tokenizer"
    assert Tokenizer.from_pretrained("org/name")("hello world")["input_ids"] == [0, 1]
    Folder(other="{}").save_pretrained(tmp_path / "name", push_to_hub=True)
    assert sorted(hub.repos["org/name"].files()) == [".gitattributes", "other.json", "tokenizer.json"]


def test_saving_pushes_what_it_has_written_and_nothing_else(hub, llama, tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "private.txt").write_text("mine")
    (folder / ".hidden").write_text("mine")
    llama.save_pretrained(folder, push_to_hub=True, commit_message="Epoch 1", token="hf_org")
    assert sorted(hub.repos["org/tuned"].files()) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    llama.save_pretrained(folder, push_to_hub=True, repo_id="org/other")
    assert files_of(folder)["model.safetensors"] == hub.repos["org/other"].files()["model.safetensors"]


def test_arguments_of_a_push_without_a_push(hub, llama, tmp_path):
    llama.save_pretrained(tmp_path / "a", push_to_hub=False, commit_message="Epoch 1", repo_id="org/a", tags="x")
    llama.config.save_pretrained(tmp_path / "a", commit_message="Epoch 1")
    assert hub.requests() == []


def test_a_folder_of_the_name_of_the_repository(hub, llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llama.push_to_hub("org/name")
    assert not (tmp_path / "name").exists()
    llama.push_to_hub("org/name", use_temp_dir=False)
    assert sorted(files_of(tmp_path / "name")) == ["config.json", "model.safetensors"]
    llama.push_to_hub("org/name", max_shard_size=18_000)  # into the folder, as there is one
    assert (tmp_path / "name" / "model.safetensors.index.json").exists()
    llama.push_to_hub("org/name", use_temp_dir=True)
    assert not (tmp_path / "name" / "model.safetensors").exists()


def test_two_processes_push_once(hub, saved, tmp_path):
    """Each has a half of the parameters; the folder is one that both see."""
    script, port = Path(__file__).with_name("one_of_two.py"), free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(number), str(port), saved],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(hub, tmp_path / "home"),
        )
        for number in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    repo = hub.repos["org/name"]
    commit = f"{hub.endpoint}/org/name/commit/{repo.refs['main']}"
    assert [json.loads(lines[-1]) for lines in outputs] == [commit, None]
    assert len(repo.commits) == 2  # with that which makes the repository
    assert weights_of(repo.files()) == files_of(saved) == files_of(tmp_path / "name")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- where to


def test_a_branch_is_made_and_main_stays(hub, llama):
    repo = hub.create("org/name", {"README.md": b"---\nlicense: mit\n---\nOld"})
    before = repo.refs["main"]
    llama.push_to_hub("org/name", revision="step-100")
    llama.push_to_hub("org/name", revision="step-100", max_shard_size=18_000)
    assert repo.refs["main"] == before
    assert "model.safetensors.index.json" in repo.files("step-100")
    assert same_params(LlamaForCausalLM.from_pretrained("org/name", revision="step-100").params, llama.params)


def test_a_pull_request(hub, llama, tmp_path):
    repo = hub.create("other/name")
    before = repo.refs["main"]
    commit = llama.push_to_hub("other/name", create_pr=True, commit_message="Add Flax", commit_description="Weights.")
    assert (repo.refs["main"], commit.pr_revision) == (before, "refs/pr/1")
    made = repo.commits[repo.refs["refs/pr/1"]]
    assert (made.parent, made.message, made.description) == (before, "Add Flax", "Weights.")
    assert same_params(LlamaForCausalLM.from_pretrained("other/name", revision="refs/pr/1").params, llama.params)
    llama.save_pretrained(tmp_path, push_to_hub=True, repo_id="other/name", create_pr=True, revision="main")
    assert "refs/pr/2" in repo.refs


def test_a_private_repository(hub, llama, monkeypatch):
    llama.push_to_hub("org/name", private=True)
    assert hub.repos["org/name"].private
    llama.push_to_hub("org/name", private=False)  # of one that is there, it stays as it is
    assert hub.repos["org/name"].private


@pytest.mark.parametrize(
    "options",
    [{"token": "hf_other"}, {"use_auth_token": "hf_other"}, {"token": "hf_other", "organization": "other"}],
    ids=" ".join,
)
def test_tokens_and_organizations(hub, llama, options, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    llama.config.push_to_hub("name", **options)
    assert list(hub.repos) == ["other/name"]


# ---- weights from before


def test_weights_that_would_be_loaded_in_place_of_the_new_ones_go(hub, llama, caplog):
    others = {"model.safetensors": b"old", "model.fp16.safetensors": b"old", "pytorch_model.bin": b"old"}
    repo = hub.create("org/name", others)
    llama.push_to_hub("org/name", max_shard_size=18_000)
    assert "org/name: deleted model.safetensors, which holds weights from before this push" in caplog.messages
    assert repo.files().keys() & others.keys() == {"model.fp16.safetensors", "pytorch_model.bin"}
    assert same_params(LlamaForCausalLM.from_pretrained("org/name").params, llama.params)


def test_weights_of_an_earlier_push_go_in_whatever_format(hub, llama):
    llama.push_to_hub("org/name", format="orbax")
    llama.push_to_hub("org/name", safe_serialization=False)
    assert sorted(weights_of(hub.repos["org/name"].files())) == ["config.json", "flax_model.msgpack"]
    llama.push_to_hub("org/name")
    assert sorted(weights_of(hub.repos["org/name"].files())) == ["config.json", "model.safetensors"]


def test_a_tree_is_replaced_as_a_whole(hub, llama):
    llama.push_to_hub("org/name", format="orbax")
    repo = hub.repos["org/name"]
    repo.commit(Commit(repo.files() | {"flax_model.orbax/stale": b""}, parent=repo.refs["main"]))
    llama.push_to_hub("org/name", format="orbax")
    assert "flax_model.orbax/stale" not in repo.files()


def test_nothing_new_is_no_commit(hub, llama):
    first = llama.push_to_hub("org/name")
    assert llama.push_to_hub("org/name").oid == first.oid
    assert sum(line.startswith("PUT") for line in hub.requests()) == 1


# ---- what goes wrong

STEPS = {
    "create": r"/api/repos/create",
    "look": r"/api/models/org/name",
    "metadata": r"/api/validate-yaml",
    "preupload": r"/api/models/org/name/preupload/main",
    "batch": r"/org/name.git/info/lfs/objects/batch",
    "upload": r"/objects/.*",
    "verify": r"/org/name.git/verify",
    "commit": r"/api/models/org/name/commit/main",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_push_that_breaks_off_leaves_the_repository_as_it_was(hub, llama, step):
    repo = hub.create("org/name", {"model.safetensors": b"old", "README.md": b"---\nlicense: mit\n---\nOld"})
    refs, files = dict(repo.refs), dict(repo.files())
    hub.drop = lambda method, path: method != "GET" and re.fullmatch(STEPS[step], path) is not None
    if step == "look":
        hub.drop = lambda method, path: path == STEPS["look"]
    with pytest.raises(HubError) as error:
        llama.push_to_hub("org/name", max_shard_size=18_000)
    assert str(error.value) == (
        "could not push to 'org/name': Server disconnected without sending a response. The repository holds what it "
        "held before, or all of the new files. Push again: what has been uploaded already is not uploaded twice."
    )
    assert (repo.refs, repo.files()) == (refs, files)
    hub.drop = lambda method, path: False
    uploaded = set(hub.objects)
    before = len(hub.log)
    llama.push_to_hub("org/name", max_shard_size=18_000)
    again = {path.removeprefix("/objects/") for method, path, *_ in hub.log[before:] if method == "PUT"}
    assert not again & uploaded
    assert same_params(LlamaForCausalLM.from_pretrained("org/name").params, llama.params)


def test_a_push_whose_answer_is_lost_has_all_files(hub, llama, saved):
    hub.lose = lambda method, path: "/commit/" in path
    with pytest.raises(HubError, match="holds what it held before, or all of the new files"):
        llama.push_to_hub("org/name", max_shard_size=18_000)
    assert weights_of(hub.repos["org/name"].files()) == files_of(saved)


def test_another_commit_in_between(hub, llama):
    repo = hub.create("org/name")

    def commit_first(method, path):
        if "preupload" in path:
            repo.commit(Commit({"README.md": b"Hand-written"}, "Edit", parent=repo.refs["main"]))
        return False

    hub.drop = commit_first
    with pytest.raises(HubError) as error:
        llama.push_to_hub("org/name")
    url = f"{hub.endpoint}/api/models/org/name/commit/main"
    assert str(error.value) == (
        f"could not push to 'org/name': Client error '412 Precondition Failed' for url '{url}' For more information "
        "check: https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/412 A commit has happened since. Please "
        "refresh and try again. The repository holds what it held before, or all of the new files. Another commit has "
        "come in between: push again."
    )
    assert repo.files() == {"README.md": b"Hand-written"}


def test_a_token_that_may_not_write_is_noticed_before_anything_is_saved(hub, llama, tmp_path, monkeypatch):
    for token, reason in (
        ("hf_other", "403 Forbidden: You don't have the rights to create a model under the namespace 'org'"),
        (False, f"Client error '401 Unauthorized' for url '{hub.endpoint}/api/repos/create'"),
    ):
        with pytest.raises(HubError) as error:
            llama.save_pretrained(tmp_path / "a", push_to_hub=True, repo_id="org/name", token=token)
        assert str(error.value).startswith(f"could not push to 'org/name': {reason}")
        assert str(error.value).endswith(
            "For a repository that you may write to, log in with `hf auth login`, or pass token= with permission to "
            "write."
        )
    assert not (tmp_path / "a").exists()
    assert hub.repos == {}


REFUSED = {
    "unknown": (
        {"commit_mesage": "x"},
        TypeError,
        "neither saving nor pushing takes commit_mesage: check the spelling",
    ),
    "retired": (
        {"repo_url": "x"},
        FlaxModelsError,
        "arguments that are not taken here: repo_url= (give repo_id=)",
    ),
    "tokens": (
        {"token": "a", "use_auth_token": "b"},
        FlaxModelsError,
        "use_auth_token is an older name of token, and both are given: leave it out",
    ),
    "organization": (
        {"repo_id": "org/name", "organization": "other"},
        FlaxModelsError,
        "repo_id='org/name' is not in organization='other': leave organization out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_are_refused(hub, llama, case, tmp_path):
    options, kind, message = REFUSED[case]
    for call in (
        lambda: llama.push_to_hub(**({"repo_id": "org/name"} | options)),
        lambda: llama.save_pretrained(tmp_path / "a", push_to_hub=True, **options),
        lambda: llama.config.save_pretrained(tmp_path / "a", **options),
    ):
        with pytest.raises(kind) as error:
            call()
        assert str(error.value) == message
    assert (hub.requests(), (tmp_path / "a").exists()) == ([], False)


def test_offline(hub, llama, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError) as error:
        llama.push_to_hub("org/name")
    assert str(error.value) == (
        f"could not push to 'org/name': Cannot reach {hub.endpoint}/api/repos/create: offline mode is enabled. To "
        "disable it, please unset the `HF_HUB_OFFLINE` environment variable. The repository holds what it held before, "
        "or all of the new files. Push again: what has been uploaded already is not uploaded twice."
    )


def test_the_record_of_what_was_saved_is_that_of_the_repository(hub, llama):
    llama.push_to_hub("org/name")
    config = json.loads(hub.repos["org/name"].files()["config.json"])
    assert config["flaxmodels_files"] == {"model.safetensors": len(hub.repos["org/name"].files()["model.safetensors"])}
