"""A Hub on this machine: what huggingface_hub asks of https://huggingface.co for models, answered from memory.

The comments state facts of the protocol. Storage of large files is on another host (``localhost`` instead of
``127.0.0.1``), as with the real Hub. Xet storage is left out: clients set ``HF_HUB_DISABLE_XET``.
"""

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import uvicorn
from hub_card_rules import card_metadata, metadata_errors, page_tags
from hub_storage import Commit, Repository, StoredFile
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

PAGE_SIZE = 5
"""Files on a page of a listing; the Hub's 1000 would never make a client turn the page."""


class Account(NamedTuple):
    """Whose token it is, and what it allows: ``read`` or ``write``."""

    name: str
    role: str


ACCOUNTS = {"writer": Account("someone", "write"), "reader": Account("someone", "read")}
"""By token."""


class Fault(NamedTuple):
    """One request that goes wrong: its method, what its path contains, and the status that answers it.

    Without a status the connection is cut while the request is answered.
    """

    method: str
    path: str
    status: int | None = None

    def concerns(self, scope: Scope) -> bool:
        return self.method == scope["method"] and self.path in scope["path"]


class Refusal(HTTPException):
    """An error as the Hub words it: the client reads its kind and message from headers."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        kind = {} if code is None else {"X-Error-Code": code}
        super().__init__(status, message, {"X-Error-Message": message, **kind, **headers})


class Hub:
    """The server's state, which tests read and change, and its answers."""

    def __init__(self, host: str, storage: str):
        self.url, self.storage = host, storage
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Method and path of every request."""
        api, git = "/api/models/{owner}/{name}", "/{owner}/{name}.git/info/lfs"
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/validate-yaml", self.validate_card),
            ("POST", "/api/repos/create", self.create_repository),
            ("GET", api, self.model_info),
            ("GET", f"{api}/revision/{{revision}}", self.model_info),
            ("GET", f"{api}/refs", self.references),
            ("POST", f"{api}/branch/{{branch}}", self.create_branch),
            ("POST", f"{api}/tag/{{revision}}", self.create_tag),
            ("GET", f"{api}/tree/{{revision}}", self.tree),
            ("GET", f"{api}/tree/{{revision}}/{{folder:path}}", self.tree),
            ("POST", f"{api}/paths-info/{{revision}}", self.paths_info),
            ("POST", f"{api}/preupload/{{revision}}", self.preupload),
            ("POST", f"{api}/commit/{{revision}}", self.commit),
            ("POST", f"{git}/objects/batch", self.lfs_batch),
            ("POST", f"{git}/verify", self.lfs_verify),
            ("PUT", "/storage/{owner}/{name}/{sha256}", self.store),
            ("GET", "/storage/{owner}/{name}/{sha256}", self.fetch),
            ("GET", "/{owner}/{name}/resolve/{revision}/{path:path}", self.resolve),
        ]
        self.app = Starlette(
            routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes],
            exception_handlers={HTTPException: refuse},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A revision such as refs/pr/1 is quoted into one part of the path, which it stays until it is read.
        scope = {**scope, "path": scope["raw_path"].decode()}
        self.requests.append(f"{scope['method']} {scope['path']}")
        fault = next((each for each in self.faults if each.concerns(scope)), None)
        if fault is None:
            await self.app(scope, receive, send)
            return
        self.faults.remove(fault)
        if fault.status is None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        else:
            await refuse(Request(scope), Refusal(fault.status, "The server is told to fail."))(scope, receive, send)

    def account(self, request: Request) -> Account | None:
        """Whose token came along; a wrong one is refused even where none is needed."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        account = ACCOUNTS.get(header.removeprefix("Bearer "))
        if account is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account

    def repository(self, request: Request, writes: bool = False) -> Repository:
        """The repository of an address, for those who may read it, or write there."""
        account, repo_id = self.account(request), "{owner}/{name}".format(**request.path_params)
        repository = self.repositories.get(repo_id)
        owns = account is not None and account.name == repo_id.split("/")[0]
        if repository is None or (repository.private and not owns):
            # That a private repository exists is not told; without a token the answer is 401 all the same.
            if account is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if writes and (account is None or account.role != "write" or not owns):
            status = 401 if account is None else 403
            raise Refusal(status, "Forbidden: you must use a write token to upload to a repository.")
        return repository

    def revision(self, request: Request, repository: Repository) -> Commit:
        revision = unquote(request.path_params.get("revision", "main"))
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    async def whoami(self, request: Request) -> Response:
        account = self.account(request)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": account.role}
        return JSONResponse({"type": "user", "name": account.name, "orgs": [], "auth": {"accessToken": token}})

    async def validate_card(self, request: Request) -> Response:
        metadata = card_metadata((await request.json())["content"])
        if metadata is None:
            missing = {"message": "empty or missing yaml metadata in repo card"}
            return JSONResponse({"errors": [], "warnings": [missing]})
        errors = metadata_errors(metadata)
        status = 400 if errors else 200
        # ModelCard.validate asks for text, HfApi.create_commit for JSON.
        if request.headers["accept"] == "text/plain":
            return PlainTextResponse("\n".join(errors), status)
        return JSONResponse({"errors": [{"message": error} for error in errors], "warnings": []}, status)

    async def create_repository(self, request: Request) -> Response:
        account, body = self.account(request), await request.json()
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        owner = body.get("organization") or account.name
        repo_id = f"{owner}/{body['name']}"
        if owner != account.name or account.role != "write":
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise Refusal(400, str(error)) from error
        answer = {"url": f"{self.url}/{repo_id}", "name": repo_id}
        if repo_id in self.repositories:
            return JSONResponse({**answer, "error": "You already created this model repo"}, 409)
        # Clients before 2.0 send "private".
        private = body.get("visibility") == "private" or bool(body.get("private"))
        self.repositories[repo_id] = Repository(repo_id, private)
        return JSONResponse(answer)

    async def create_branch(self, request: Request) -> Response:
        repository, branch = self.repository(request, writes=True), unquote(request.path_params["branch"])
        if branch.startswith("refs/"):
            raise Refusal(400, f"Invalid reference for a branch: {branch}")
        if branch in repository.branches:
            raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
        start = repository.find((await request.json()).get("startingPoint", "main"))
        if start is None:
            raise Refusal(404, "Invalid rev id", "RevisionNotFound")
        repository.branches[branch] = start.oid
        return JSONResponse({}, 201)

    async def create_tag(self, request: Request) -> Response:
        repository, tag = self.repository(request, writes=True), (await request.json())["tag"]
        if tag in repository.tags:
            raise Refusal(409, f"Tag reference exists already: {tag}")
        repository.tags[tag] = self.revision(request, repository).oid
        return JSONResponse({})

    async def references(self, request: Request) -> Response:
        repository = self.repository(request)

        def listed(references: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in references.items()]

        answer = {"branches": listed(repository.branches, "refs/heads/"), "converts": []}
        answer |= {"tags": listed(repository.tags, "refs/tags/")}
        if "include_prs" in request.query_params:
            answer["pullRequests"] = listed(repository.pull_requests, "")
        return JSONResponse(answer)

    async def model_info(self, request: Request) -> Response:
        repository = self.repository(request)
        commit = self.revision(request, repository)
        readme = commit.files.get("README.md")
        metadata = (card_metadata(readme.content.decode()) if readme else None) or {}
        of_card = {name: metadata.get(name) for name in ("pipeline_tag", "library_name", "model-index")}
        return JSONResponse(
            {
                "id": repository.repo_id,
                "author": repository.repo_id.split("/")[0],
                "sha": commit.oid,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "tags": page_tags(metadata),
                **of_card,
                "cardData": metadata,
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            }
        )

    async def tree(self, request: Request) -> Response:
        """Files in and below a folder, page after page; the next page's address is in a header."""
        commit = self.revision(request, self.repository(request))
        folder = unquote(request.path_params.get("folder", ""))
        paths = [path for path in sorted(commit.files) if path.startswith(f"{folder}/" if folder else "")]
        if folder and not paths:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        start = int(request.query_params.get("cursor", "0"))
        end, headers = start + PAGE_SIZE, {}
        if end < len(paths):
            following = f"{self.url}{request.url.path}?{request.url.include_query_params(cursor=end).query}"
            headers["Link"] = f'<{following}>; rel="next"'
        return JSONResponse([entry(path, commit.files[path]) for path in paths[start:end]], headers=headers)

    async def paths_info(self, request: Request) -> Response:
        commit = self.revision(request, self.repository(request))
        paths = parse_qs((await request.body()).decode())["paths"]
        return JSONResponse([entry(path, commit.files[path]) for path in paths if path in commit.files])

    async def resolve(self, request: Request) -> Response:
        """A file: its content, or where its content is."""
        repository = self.repository(request)
        commit, path = self.revision(request, repository), unquote(request.path_params["path"])
        file = commit.files.get(path)
        if file is None:
            # The client remembers that this commit has no such file.
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
        if not file.is_lfs:
            return part_of(request, file.content, headers)
        # The redirection has an ETag and a size of its own; those of the file are "linked".
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        location = f"{self.storage}/storage/{repository.repo_id}/{file.sha256}?signature=valid"
        return Response(status_code=302, headers={**headers, **linked, "Location": location})

    async def preupload(self, request: Request) -> Response:
        """Which files of a commit are large ones, to be uploaded before it."""
        repository = self.repository(request, writes=True)
        files = self.revision(request, repository).files
        answers = []
        for file in (await request.json())["files"]:
            mode = "lfs" if repository.uses_lfs(file["path"]) else "regular"
            # By the hash of what is there the client leaves out files that have not changed.
            known = files[file["path"]].etag if file["path"] in files else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return JSONResponse({"files": answers})

    async def lfs_batch(self, request: Request) -> Response:
        repository, body = self.repository(request, writes=True), await request.json()
        answers: list[dict[str, Any]] = []
        for each in body["objects"]:
            # What is there already comes without actions: nothing is to be done.
            answers.append({"oid": each["oid"], "size": each["size"]})
            if each["oid"] not in repository.objects:
                href = f"{self.storage}/storage/{repository.repo_id}/{each['oid']}?signature=valid"
                verify = f"{self.url}/{repository.repo_id}.git/info/lfs/verify"
                answers[-1]["actions"] = {"upload": {"href": href}, "verify": {"href": verify}}
        return JSONResponse({"transfer": "basic", "objects": answers})

    async def store(self, request: Request) -> Response:
        """Takes a large file; it is of no commit yet."""
        content = await request.body()
        repository = self.stored_in(request)
        if StoredFile(content, is_lfs=True).sha256 != request.path_params["sha256"]:
            raise Refusal(400, "The content does not have this hash.")
        repository.objects[request.path_params["sha256"]] = content
        return Response()

    async def fetch(self, request: Request) -> Response:
        return part_of(request, self.stored_in(request).objects[request.path_params["sha256"]], {})

    def stored_in(self, request: Request) -> Repository:
        """Storage knows signed addresses and no tokens: a token that comes along has left the Hub."""
        if "authorization" in request.headers or request.query_params.get("signature") != "valid":
            raise Refusal(400, "Only one auth mechanism allowed")
        return self.repositories["{owner}/{name}".format(**request.path_params)]

    async def lfs_verify(self, request: Request) -> Response:
        repository, body = self.repository(request, writes=True), await request.json()
        if len(repository.objects.get(body["oid"], b"")) != body["size"]:
            raise Refusal(404, "The object has not been uploaded.")
        return Response()

    async def commit(self, request: Request) -> Response:
        """All of a commit or nothing: every line is read before anything is kept."""
        repository = self.repository(request, writes=True)
        parent = self.revision(request, repository)
        header: dict[str, Any] = {}
        files = dict(parent.files)
        for line in (await request.body()).decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    header = value
                case "file":
                    files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
                case "lfsFile":
                    if value["oid"] not in repository.objects:
                        raise Refusal(400, f"{value['path']} has not been uploaded.")
                    files[value["path"]] = StoredFile(repository.objects[value["oid"]], is_lfs=True)
                case key:
                    raise Refusal(400, f"Unknown operation: {key}")
        if header.get("parentCommit", parent.oid) != parent.oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        revision, page, answer = unquote(request.path_params["revision"]), f"{self.url}/{repository.repo_id}", {}
        if request.query_params.get("create_pr") == "1":
            number = len(repository.pull_requests) + 1
            revision, answer = f"refs/pr/{number}", {"pullRequestUrl": f"{page}/discussions/{number}"}
        commit = repository.record(Commit(parent.oid, header["summary"], files), revision)
        url = f"{page}/commit/{commit.oid}"
        return JSONResponse({"success": True, "commitOid": commit.oid, "commitUrl": url, **answer})


def refuse(request: Request, refusal: Exception) -> Response:
    """An error, in words in a header and in the body."""
    assert isinstance(refusal, HTTPException)
    return JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)


def entry(path: str, file: StoredFile) -> dict[str, Any]:
    """A file in a listing."""
    described = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
    lfs = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return {**described, "lfs": lfs} if file.is_lfs else described


def part_of(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """The whole content, or the bytes that a Range header asks for."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if match is None:
        return Response(content, headers=headers, media_type="application/octet-stream")
    start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    if start >= len(content):
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Response(content[start : end + 1], 206, headers, media_type="application/octet-stream")


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers on a free port until the ``with`` block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        hub = Hub(f"http://127.0.0.1:{port}", f"http://localhost:{port}")
        server = uvicorn.Server(uvicorn.Config(hub, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join()
