"""Publishing a finished folder on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ..modeling.hub_repository import HTTPClientError, upload_repository

REQUIRED_FILES = (
    "config.json",
    "model.safetensors",
    "README.md",
    "preprocessor_config.json",
    "modeling_fatr_vit.py",
)


def check_access(repo_id: str | None) -> None:
    """Checks before a long training that its result can be published.

    Raises:
        ValueError: no repository was named, or a name that the Hub does not allow.
        PermissionError: nobody is logged in, the Hub does not know the token, or the token may not write there.
        ConnectionError: the Hub cannot be reached.
    """
    if not repo_id:
        raise ValueError("--push_to_hub needs --hub_model_id: the repository to publish to, as user/name.")
    validate_repo_id(repo_id)
    try:
        account = HfApi().whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise PermissionError(f"Cannot publish to {repo_id}: {error}. Log in with `hf auth login`.") from error
    except (HTTPClientError, OSError) as error:
        raise ConnectionError(f"Cannot publish to {repo_id}: the Hub cannot be reached. {error}") from error
    if account["auth"].get("accessToken", {}).get("role") == "read":
        raise PermissionError(f"Cannot publish to {repo_id}: the token may read only. Log in with one that may write.")
    owners = [account["name"], *(organization["name"] for organization in account["orgs"])]
    if "/" in repo_id and repo_id.split("/")[0] not in owners:
        raise PermissionError(
            f"Cannot publish to {repo_id}: the token is {account['name']}'s, who publishes under {', '.join(owners)}."
        )


def publish_folder(folder: str | Path, repo_id: str, private: bool | None = None, revision: str | None = None) -> str:
    """Uploads a folder written by ``save_pretrained``, with its image processor, in one commit.

    Args:
        repo_id: created where needed.
        private: whether a new repository is private.
        revision: branch to commit to, made where needed; the main branch by default.

    Returns:
        The commit's URL; its ``oid`` is the commit's hash.

    Raises:
        FileNotFoundError: the folder lacks what a user of the repository needs.
        OSError, ValueError: as for ``upload_repository``.
    """
    folder = Path(folder)
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is not published: it lacks {', '.join(missing)}.")
    return upload_repository(folder, repo_id, private=private, revision=revision)
