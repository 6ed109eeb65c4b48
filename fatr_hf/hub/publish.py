"""Publishing a finished folder on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..modeling.hub_repository import upload_repository

REQUIRED_FILES = (
    "config.json",
    "model.safetensors",
    "README.md",
    "preprocessor_config.json",
    "modeling_fatr_vit.py",
)


def require_access(repo_id: str | None) -> None:
    """Checks before a long training that its result can be published.

    Raises:
        ValueError: no repository was named.
        PermissionError: nobody is logged in, or the Hub does not know the token.
    """
    if not repo_id:
        raise ValueError("--push_to_hub needs --hub_model_id: the repository to publish to, as user/name.")
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError) as error:
        raise PermissionError(f"Cannot publish to {repo_id}: {error}. Log in with `hf auth login`.") from error


def publish_folder(folder: Path, repo_id: str, private: bool | None = None, revision: str | None = None) -> str:
    """Uploads a folder written by ``save_pretrained``, with its image processor, in one commit.

    Args:
        repo_id: created where needed.

    Returns:
        The commit's URL.

    Raises:
        FileNotFoundError: the folder lacks what a user of the repository needs.
    """
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is not published: it lacks {', '.join(missing)}.")
    return upload_repository(folder, repo_id, private=private, revision=revision)
