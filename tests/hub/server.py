"""A small Hub on the loopback interface: the HTTP API of the Hugging Face Hub for the calls that are made here.

Repositories have commits, branches and pull requests; large files go through Git LFS, in one part or several, and are
given out by a second server, as the Hub's are by a content network. What the real one answers to each call is in the
client's source, and in https://huggingface.co/docs/hub/api.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".msgpack", ".bin", ".h5", ".gguf")
"""Files of these names, and those of more than 10 MB, go through LFS."""
Files = dict[str, bytes]


def git_hash(content: bytes) -> str:
    """The name that Git has for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    files: Files
    message: str = "initial commit"
    description: str = ""
    parent: str | None = None

    @property
    def oid(self) -> str:
        """Its hash."""
        state = [sorted((path, git_hash(data)) for path, data in self.files.items()), self.message, self.parent]
        return hashlib.sha1(json.dumps(state).encode()).hexdigest()


@dataclass
class Repo:
    """A repository: its commits by hash, and which of them branches and pull requests point to."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, commit: Commit, ref: str = "main") -> str:
        """Add a commit and let a reference point to it."""
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit.oid

    def resolve(self, revision: str) -> str | None:
        """The hash of the commit that a reference or a hash names."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Files:
        """The files at a revision."""
        return self.commits[self.refs.get(revision, revision)].files


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        endpoint, storage: addresses of the API, and of what gives out large files.
        tokens: the user of each token; users write to repositories of their own name.
        repos: by id.
        objects: large files by SHA-256.
        part_size: bytes from which large files are uploaded in parts, of that size.
        log: method, path and status of each request, and the bytes that were asked for ("Range") if not all.
        sent: bytes of contents that were given out, by path.
        cut: paths of downloads that break off, and after how many bytes: each does once.
        drop: called with method and path of each request before it is handled; true closes the connection.
        lose: called with method and path of each request after it is handled; true closes the connection unanswered.
    """

    endpoint: str = ""
    storage: str = ""
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_org": "org", "hf_other": "other"})
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    part_size: int = 1 << 30
    log: list[tuple[str, str, int, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens_at_storage: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    drop: Callable[[str, str], bool] = lambda method, path: False
    lose: Callable[[str, str], bool] = lambda method, path: False

    def create(self, repo_id: str, files: Files | None = None, **options: Any) -> Repo:
        """A repository with one commit."""
        repo = self.repos[repo_id] = Repo(repo_id.split("/")[0], **options)
        repo.commit(Commit({".gitattributes": b""} | (files or {})))
        return repo

    def requests(self, *methods: str) -> list[str]:
        """The log in short, of all methods or of some."""
        found = [each for each in self.log if each[0] in methods or not methods]
        return [f"{method} {path} {status}" for method, path, status, _ in found if path != "/api/agent-harnesses"]


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) for _ in range(2)]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class HubError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The class that answers for `hub`."""
    return type("Handler", (Handler,), {"hub": hub})


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    routes: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""

    def answer(self) -> None:
        """Find the route of a request and run it."""
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self.chunks())
        path = unquote(url.path)
        if self.hub.drop(self.command, path):
            self.hang_up()
            return
        for method, pattern, route in self.routes:
            match = pattern.fullmatch(url.path)
            if match and self.command in method.split():
                try:
                    route(self, *(unquote(group) for group in match.groups() if group is not None))
                except HubError as error:
                    headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
                    self.json(
                        {"error": str(error)}, error.status, {name: text for name, text in headers.items() if text}
                    )
                return
        self.json({"error": f"no route for {self.command} {path}"}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def chunks(self) -> Iterator[bytes]:
        """The parts of a body of unknown length."""
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def hang_up(self) -> None:
        """Close the connection in the middle of whatever is going on."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(SHUT_RDWR)

    def reply(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        """Send an answer, and note it."""
        path = unquote(urlsplit(self.path).path)
        if self.hub.lose(self.command, path):
            self.hang_up()
            return
        self.hub.log.append((self.command, path, status, self.headers.get("Range", "")))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.hub.cut.pop(path, None) if content and self.command == "GET" else None
        self.hub.sent[path] += len(content[:end])
        self.wfile.write(content[:end])
        if end is not None:
            self.wfile.flush()
            self.hang_up()

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self.reply(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    # ---- who may do what

    @property
    def user(self) -> str | None:
        """Whose token came with the request."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def readable(self, repo_id: str) -> Repo:
        """The repository, if the user may see it."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.user != repo.owner):
            raise HubError(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, repo_id: str) -> Repo:
        """The repository, if the user may write to it."""
        repo = self.readable(repo_id)
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if self.user != repo.owner and "create_pr" not in self.query:
            raise HubError(403, f"{self.user} has no permission to write to {repo_id}")
        return repo

    def commit_of(self, repo: Repo, revision: str) -> str:
        """The hash of the commit that a revision names."""
        if (oid := repo.resolve(revision)) is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a method of `Handler` answer requests for paths of that pattern."""

    def add(answer: Callable[..., None]) -> Callable[..., None]:
        Handler.routes.append((method, re.compile(pattern.replace("{id}", "([^/]+/[^/]+)")), answer))
        return answer

    return add


@route("GET", "/api/agent-harnesses")
def harnesses(self: Handler) -> None:
    """What the client asks once a process and keeps for a day: for its own name."""
    self.json({"standardEnvVars": [], "harnesses": {}})


@route("GET", "/api/whoami-v2")
def whoami(self: Handler) -> None:
    """Whose token it is."""
    if self.user is None:
        raise HubError(401, "Invalid username or password.")
    self.json({"type": "user", "name": self.user, "orgs": []})


@route("POST", "/api/repos/create")
def create(self: Handler) -> None:
    """Make a repository."""
    wanted = json.loads(self.body)
    if self.user is None:
        raise HubError(401, "Invalid username or password.")
    owner = wanted.get("organization") or self.user
    repo_id = f"{owner}/{wanted['name']}"
    if owner != self.user:
        raise HubError(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    exists = repo_id in self.hub.repos
    if not exists:
        self.hub.create(repo_id, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
    self.json({"url": f"{self.hub.endpoint}/{repo_id}"}, 409 if exists else 200)


@route("GET", "/api/models/{id}(?:/revision/([^/]+))?")
def info(self: Handler, repo_id: str, revision: str = "main") -> None:
    """The commit of a revision, and its files."""
    repo = self.readable(repo_id)
    oid = self.commit_of(repo, revision)
    files = [{"rfilename": path, "size": len(data)} for path, data in repo.files(oid).items()]
    self.json({"id": repo_id, "sha": oid, "private": repo.private, "siblings": files})


@route("GET", "/api/models/{id}/tree/([^/]+)")
def tree(self: Handler, repo_id: str, revision: str) -> None:
    """The files of a revision."""
    repo = self.readable(repo_id)
    files = repo.files(self.commit_of(repo, revision)).items()
    self.json([{"type": "file", "path": path, "size": len(data), "oid": git_hash(data)} for path, data in files])


@route("GET", "/api/models/{id}/refs")
def refs(self: Handler, repo_id: str) -> None:
    """Branches."""
    repo = self.readable(repo_id)
    branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in repo.refs.items()]
    self.json(
        {"branches": [each for each in branches if not each["name"].startswith("refs/")], "converts": [], "tags": []}
    )


@route("POST", "/api/models/{id}/branch/([^/]+)")
def branch(self: Handler, repo_id: str, name: str) -> None:
    """Make a branch."""
    repo = self.writable(repo_id)
    if name in repo.refs:
        raise HubError(409, f"Reference already exists: refs/heads/{name}")
    repo.refs[name] = repo.refs["main"]
    self.json({})


@route("POST", "/api/validate-yaml")
def validate(self: Handler) -> None:
    """Check the metadata of a model card."""
    content = json.loads(self.body)["content"]
    errors: list[dict[str, str]] = []
    try:
        values = yaml.safe_load(content.split("---")[1])
        if not isinstance(values.get("license", ""), str):
            errors.append({"message": '"license" must be a string'})
    except yaml.YAMLError as error:
        errors.append({"message": str(error)})
    self.json({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", "/api/models/{id}/preupload/([^/]+)")
def preupload(self: Handler, repo_id: str, revision: str) -> None:
    """Which files go through LFS, and what is there of them."""
    repo = self.writable(repo_id)
    present = repo.files(self.commit_of(repo, revision))
    answers = []
    for file in json.loads(self.body)["files"]:
        is_large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
        there = present.get(file["path"])
        oid = {} if there is None else {"oid": hashlib.sha256(there).hexdigest() if is_large else git_hash(there)}
        mode = "lfs" if is_large else "regular"
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | oid)
    self.json({"files": answers})


@route("POST", r"/{id}\.git/info/lfs/objects/batch")
def batch(self: Handler, repo_id: str) -> None:
    """Where large files are uploaded to that are not there yet."""
    if self.user is None:
        raise HubError(401, "Invalid username or password.")
    answers: list[dict[str, Any]] = []
    for wanted in json.loads(self.body)["objects"]:
        answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.hub.objects:
            upload = upload_action(self.hub, wanted["oid"], wanted["size"])
            answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.endpoint}/{repo_id}.git/verify"}}
        answers.append(answer)
    self.json({"transfer": "basic", "objects": answers})


def upload_action(hub: Hub, oid: str, size: int) -> dict[str, Any]:
    """How one large file is uploaded."""
    if size <= hub.part_size:
        return {"href": f"{hub.storage}/objects/{oid}"}
    count = -(-size // hub.part_size)
    parts = {str(number): f"{hub.storage}/parts/{oid}/{number}" for number in range(1, count + 1)}
    return {"href": f"{hub.endpoint}/complete/{oid}", "header": {"chunk_size": str(hub.part_size)} | parts}


@route("PUT", "/objects/([0-9a-f]{64})")
def put(self: Handler, oid: str) -> None:
    """Store a large file."""
    store(self, oid, self.body)
    self.reply(b"", 200, {})


@route("PUT", r"/parts/([0-9a-f]{64})/(\d+)")
def put_part(self: Handler, oid: str, number: str) -> None:
    """Store a part of one."""
    self.hub.parts[oid][int(number)] = self.body
    self.reply(b"", 200, {"ETag": f'"{number}"'})


@route("POST", "/complete/([0-9a-f]{64})")
def complete(self: Handler, oid: str) -> None:
    """Join the parts of one."""
    parts = self.hub.parts.pop(oid)
    numbers = [part["partNumber"] for part in json.loads(self.body)["parts"]]
    store(self, oid, b"".join(parts[number] for number in numbers))
    self.json({})


def store(self: Handler, oid: str, content: bytes) -> None:
    """Keep a large file, if it is the one that was announced."""
    if hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, "the content does not have the hash that was announced")
    self.hub.objects[oid] = content


@route("POST", r"/{id}\.git/verify")
def verify(self: Handler, repo_id: str) -> None:
    """Whether a large file is there."""
    wanted = json.loads(self.body)
    if len(self.hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise HubError(404, "the object is not there")
    self.json({})


@route("POST", "/api/models/{id}/commit/([^/]+)")
def commit(self: Handler, repo_id: str, revision: str) -> None:
    """Make a commit of lines of JSON, or a pull request."""
    repo = self.writable(repo_id)
    header, *operations = map(json.loads, self.body.splitlines())
    parent = self.commit_of(repo, revision)
    if header["value"].get("parentCommit", parent) != parent:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.files(parent))
    for operation in operations:
        change(self, files, operation["key"], operation["value"])
    value = header["value"]
    made = Commit(files, value["summary"], value.get("description", ""), parent)
    number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
    is_pr = "create_pr" in self.query
    oid = repo.commit(made, f"refs/pr/{number}" if is_pr else revision)
    url = f"{self.hub.endpoint}/{repo_id}"
    pull_request = {"pullRequestUrl": f"{url}/discussions/{number}"} if is_pr else {}
    self.json({"success": True, "commitUrl": f"{url}/commit/{oid}", "commitOid": oid, **pull_request})


def change(self: Handler, files: Files, kind: str, value: dict[str, Any]) -> None:
    """Apply one operation of a commit."""
    path = value["path"]
    if kind == "file":
        files[path] = base64.b64decode(value["content"])
    elif kind == "lfsFile":
        if value["oid"] not in self.hub.objects:
            raise HubError(400, f"the LFS object of {path} is not there")
        files[path] = self.hub.objects[value["oid"]]
    elif not (found := [each for each in files if each == path or each.startswith(f"{path.removesuffix('/')}/")]):
        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    else:
        for each in found:
            del files[each]


@route("GET HEAD", "/{id}/resolve/([^/]+)/(.+)")
def resolve(self: Handler, repo_id: str, revision: str, path: str) -> None:
    """A file, or where it is if it is a large one."""
    repo = self.readable(repo_id)
    if repo.gated and self.user != repo.owner:
        message = f"Access to model {repo_id} is restricted and you are not in the authorized list."
        raise HubError(403, message, "GatedRepo")
    oid = self.commit_of(repo, revision)
    headers = {"X-Repo-Commit": oid}
    content = repo.files(oid).get(path)
    if content is None:
        error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        self.json({"error": "Entry not found"}, 404, headers | error)
    elif path.endswith(LARGE):
        sha = hashlib.sha256(content).hexdigest()
        self.hub.objects[sha] = content
        linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        self.reply(b"", 302, headers | linked | {"Location": f"{self.hub.storage}/objects/{sha}"})
    else:
        send(self, content, headers | {"ETag": f'"{git_hash(content)}"'})


@route("GET HEAD", "/objects/([0-9a-f]{64})")
def get(self: Handler, oid: str) -> None:
    """A large file."""
    if token := self.headers.get("Authorization"):
        self.hub.tokens_at_storage.append(token)
    send(self, self.hub.objects[oid], {"ETag": f'"{oid}"'})


def send(self: Handler, content: bytes, headers: dict[str, str]) -> None:
    """A file, or the rest of it that is asked for."""
    headers |= {"Accept-Ranges": "bytes"}
    if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
        start = int(match[1])
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.reply(content[start:], 206, headers | span)
    else:
        self.reply(content, 200, headers)
