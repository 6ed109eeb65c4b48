"""Repositories as the Hub keeps them: files by hash, commits that never change, and names that point at commits."""

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatch
from types import MappingProxyType
from typing import NamedTuple

# What the Hub puts into every new repository; files that match are kept by LFS.
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("bin", "pt", "safetensors"))


class StoredFile(NamedTuple):
    """A file of a commit; of an LFS file git itself holds a pointer only."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.content)}")
        return "".join(f"{line}\n" for line in lines).encode()

    @property
    def blob_id(self) -> str:
        """Git's name of what git holds."""
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        """By what a client knows a file again."""
        return self.sha256 if self.is_lfs else self.blob_id


class Commit(NamedTuple):
    """A snapshot of all files."""

    parent: str | None
    title: str
    files: Mapping[str, StoredFile]

    @property
    def oid(self) -> str:
        names = {path: file.blob_id for path, file in sorted(self.files.items())}
        return hashlib.sha1(json.dumps([self.parent, self.title, names]).encode()).hexdigest()


class Repository:
    """Commits of a model, and the branches, tags and pull requests that point at them."""

    def __init__(self, repo_id: str, private: bool):
        self.repo_id = repo_id
        self.private = private
        self.objects: dict[str, bytes] = {}
        """Uploaded LFS content by SHA-256, whether or not a commit holds it yet."""
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pull_requests: dict[str, str] = {}
        start = Commit(None, "initial commit", {".gitattributes": StoredFile(GITATTRIBUTES.encode(), is_lfs=False)})
        self.record(start, "main")

    def record(self, commit: Commit, revision: str) -> Commit:
        """Keeps a commit, and moves its branch or pull request there."""
        frozen = commit._replace(files=MappingProxyType(dict(commit.files)))
        self.commits[frozen.oid] = frozen
        references = self.pull_requests if revision.startswith("refs/pr/") else self.branches
        references[revision] = frozen.oid
        return frozen

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, pull request or hash."""
        for references in (self.branches, self.tags, self.pull_requests):
            if revision in references:
                return self.commits[references[revision]]
        return self.commits.get(revision)

    @property
    def main(self) -> Commit:
        return self.commits[self.branches["main"]]

    def uses_lfs(self, path: str) -> bool:
        """What ``.gitattributes`` says of a file."""
        lines = self.main.files[".gitattributes"].content.decode().splitlines()
        return any(fnmatch(path, line.split()[0]) for line in lines if "filter=lfs" in line)
