"""Reading never writes: whatever a folder holds, no way of reading it changes, moves or removes anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from files.folders import snapshot
from test_registry import TINY_BERT

from flaxmodels import AutoConfig, BertConfig, BertModel, Tokenizer
from flaxmodels.cli.convert import convert
from flaxmodels.cli.embed import embed
from flaxmodels.cli.inspect import inspect
from flaxmodels.cli.verify import verify
from flaxmodels.errors import CheckpointError
from flaxmodels.files.committed import MANIFEST
from flaxmodels.files.location import resolve
from flaxmodels.files.reading import COMMITTED
from flaxmodels.files.weights import find_weights

WORDS = ["<pad>", *(f"w{number}" for number in range(1, 13))]


def make_tokenizer(folder: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')


def interrupt(model: BertModel, folder: Path) -> None:
    """Leave what a save over another model leaves when it is killed while it moves its files: every second is moved."""
    BertModel(model.config, seed=2).save_pretrained(folder, format="flax")
    model.save_pretrained(folder / COMMITTED, max_shard_size=1000)
    make_tokenizer(folder / COMMITTED)
    names = sorted(path.name for path in (folder / COMMITTED).iterdir())
    manifest = {"files": names, "removed": ["flax_model.msgpack"]}
    (folder / COMMITTED / MANIFEST).write_text(json.dumps(manifest))
    for name in names[::2]:
        (folder / COMMITTED / name).replace(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Read-only: a model with a tokenizer in `bert`, the same in other formats, and in `interrupted` half in place."""
    folder = tmp_path_factory.mktemp("models")
    model = BertModel(BertConfig.from_dict(TINY_BERT), seed=1)
    model.save_pretrained(folder / "bert")
    make_tokenizer(folder / "bert")
    model.save_pretrained(folder / "shards", max_shard_size=1000)
    model.save_pretrained(folder / "orbax", format="orbax")
    interrupt(model, folder / "interrupted")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


WRITING = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,chmod,fchmodat,chown,lchown,"
WRITING += "fchownat,truncate,ftruncate,link,linkat,symlink,symlinkat,utimensat,mknodat,setxattr,lsetxattr"


def test_reading_opens_nothing_for_writing(folder, tmp_path):
    """Of a read-only folder. Where permissions do not bind, and strace is there, its word counts beside Python's."""
    before = snapshot(folder)
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("reader.py"), folder, tmp_path / "converted"]
    trace = tmp_path / "trace"
    if traced := os.geteuid() == 0 and shutil.which("strace"):
        command = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={WRITING}", "-o", trace, *command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert snapshot(folder) == before
    if traced:
        calls = [line for line in trace.read_text().splitlines() if f'"{folder}/' in line or '"/proc/self/fd/' in line]
        assert len(calls) > 50
        flags = r"O_RDONLY(\|O_(CLOEXEC|NONBLOCK|DIRECTORY|LARGEFILE|NOFOLLOW))*"
        reads = re.compile(rf"\d+ +open(at)?\([^|]*{flags}(\).*| <unfinished \.\.\.>)")
        assert [line for line in calls if not reads.fullmatch(line)] == []


def test_a_save_that_was_not_moved_into_place_is_read(folder):
    first, second = (BertModel.from_pretrained(folder / name) for name in ("bert", "interrupted"))
    assert all((first.state_dict()[name] == value).all() for name, value in second.state_dict().items())
    assert Tokenizer.from_pretrained(folder / "interrupted").decode([1, 2]) == "w1 w2"
    index = resolve(folder / "interrupted" / "model.safetensors.index.json")
    assert find_weights(index).source.headers == find_weights(resolve(folder / "shards")).source.headers
    assert index.config()["hidden_size"] == 8
    with pytest.raises(CheckpointError, match=r"flax_model\.msgpack does not exist: check the path$"):
        resolve(folder / "interrupted" / "flax_model.msgpack")


# ---- what looks like an interrupted save and is none


def stale(*names: str):
    """What an earlier release took for the names of files to remove."""

    def make(folder: Path, victim: Path) -> None:
        (folder / COMMITTED).mkdir()
        named = [name.replace("VICTIM", str(victim)) for name in names]
        (folder / COMMITTED / ".stale.json").write_text(json.dumps(named))
        (folder / COMMITTED / MANIFEST).write_text(json.dumps({"files": [], "removed": named}))

    return make


def bad_json(folder: Path, victim: Path) -> None:
    stale()(folder, victim)
    for name in (".stale.json", MANIFEST):
        (folder / COMMITTED / name).write_text("{")


def linked(folder: Path, victim: Path) -> None:
    (folder / COMMITTED).symlink_to(victim)


def link_inside(folder: Path, victim: Path) -> None:
    (folder / COMMITTED).mkdir()
    (folder / COMMITTED / "config.json").symlink_to(victim / "precious.txt")
    (folder / COMMITTED / MANIFEST).write_text('{"files": ["config.json"], "removed": []}')


HOSTILE = {
    "an absolute path": stale("VICTIM/precious.txt"),
    "a relative path": stale("../victim"),
    "the folder itself": stale("."),
    "its parent": stale(".."),
    "bad JSON": bad_json,
    "a link": linked,
    "a link inside": link_inside,
}
WAYS = {
    "from_pretrained": lambda folder, good, out: BertModel.from_pretrained(folder),
    "AutoConfig": lambda folder, good, out: AutoConfig.from_pretrained(folder),
    "resolve": lambda folder, good, out: find_weights(resolve(folder)),
    "a file": lambda folder, good, out: find_weights(resolve(folder / "model.safetensors")),
    "tokenizer": lambda folder, good, out: Tokenizer.from_pretrained(folder),
    "inspect": lambda folder, good, out: inspect(str(folder)),
    "convert": lambda folder, good, out: convert(str(folder), out, "flax"),
    "verify": lambda folder, good, out: verify(str(good), str(folder)),
    "embed": lambda folder, good, out: embed(str(folder), ["w1"]),
    "save": lambda folder, good, out: BertModel.from_pretrained(good).save_pretrained(folder),
    "configuration": lambda folder, good, out: BertConfig.from_dict(TINY_BERT).save_pretrained(folder),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_save_left_is_refused_and_left_alone(folder, tmp_path, case):
    evil = shutil.copytree(folder / "bert", tmp_path / "evil")
    evil.chmod(0o755)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious.txt").write_text("theirs")
    HOSTILE[case](evil, tmp_path / "victim")
    before = snapshot(tmp_path)
    for act in WAYS.values():
        with pytest.raises(CheckpointError) as error:
            act(evil, folder / "bert", tmp_path / "out")
        assert str(error.value).startswith(f"{evil} has a {COMMITTED} that no save of flaxmodels left there: ")
        assert str(error.value).endswith(". Remove it, and try again.")
    assert snapshot(tmp_path) == before


def test_staging_folders_of_foreign_names_are_nothing(folder, tmp_path):
    evil = shutil.copytree(folder / "bert", tmp_path / "evil")
    evil.chmod(0o755)
    (tmp_path / "victim").mkdir()
    (evil / ".flaxmodels-staging-abc").mkdir()
    (evil / ".flaxmodels-staging-0123456789abcdef").symlink_to(tmp_path / "victim")
    before = snapshot(tmp_path)
    for name in ("from_pretrained", "AutoConfig", "resolve", "inspect", "verify", "embed"):
        WAYS[name](evil, folder / "bert", tmp_path / "out")
    assert snapshot(tmp_path) == before
    WAYS["save"](evil, folder / "bert", None)
    names = {path.name for path in evil.iterdir() if path.name.startswith(".")}
    assert names == {".flaxmodels-staging-abc", ".flaxmodels-staging-0123456789abcdef"}
