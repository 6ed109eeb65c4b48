# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading and saving whole repositories: exact conversion on the way in, a self-contained folder on the way out."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_fatr_vit import FATRViTConfig
from .fused_projections import is_fused
from .model_card import build_model_card

logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoConfig": "configuration_fatr_vit.FATRViTConfig",
    "AutoModel": "modeling_fatr_vit.FATRViTModel",
    "AutoModelForImageClassification": "modeling_fatr_vit.FATRViTForImageClassification",
}

REDUCTION_PARAMETERS = ("omega1", "omega2", "dc_position_embeddings")
"""Parameters that a stock ViT does not have; they start at zero, which changes nothing."""


class HubRepositoryMixin(PreTrainedModel):
    """What FATR models do beyond ``PreTrainedModel`` when they are loaded, saved and pushed."""

    config: FATRViTConfig

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Loads a FATR checkpoint, or any ViT, MSN or MAE checkpoint as FATR; arguments as in transformers.

        Weights come from safetensors files only. A classifier that the checkpoint does not have starts at random, as
        for any ViT; a pooler that it does not have is left out (``model.pooler`` is None).

        Raises:
            FileNotFoundError: a path that leads nowhere.
            ValueError: a checkpoint of another architecture, or one that lacks weights.
        """
        name = str(pretrained_model_name_or_path)
        if name.startswith((".", "/", "~")) and not os.path.exists(name):
            raise FileNotFoundError(f"There is no checkpoint at {name!r}: give a folder that exists or a Hub name.")
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError(
                f"use_safetensors={kwargs['use_safetensors']} is not supported: weights are read from safetensors "
                "files only, never unpickled. Convert the checkpoint to safetensors first."
            )
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        if any(key.startswith("pooler.") for key in missing):
            logger.warning(f"{name} has no pooler: the model is loaded without one.")
            model.pooler = None
        refuse_missing_weights(name, missing, dict(model.named_parameters()))
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        push_to_hub: bool = False,
        model_card: ModelCard | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves weights, configuration, code and model card: the folder loads wherever transformers is.

        Args:
            save_directory: created where needed.
            model_card: written as README.md. Without one a plain card is written, unless a README.md is there.
            push_to_hub: upload the folder afterwards, to ``repo_id`` (by default the folder's name).
            kwargs: further arguments of ``PreTrainedModel.save_pretrained``, or of ``push_to_hub``.

        Raises:
            ValueError: a fused model, whose weights have other names.
        """
        if is_fused(self):
            raise ValueError("A fused model cannot be saved: save the model that it was made from.")
        hub_names = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr")
        hub_arguments = {name: kwargs.pop(name) for name in hub_names if name in kwargs}
        self.config.validate()  # before the first file is written
        self.config.auto_map = dict(AUTO_MAP)
        # Files hold the names of the state dict, so that whatever reads them (a resumed Trainer) needs no renaming.
        kwargs.setdefault("save_original_format", False)
        with unsharded_class(self):
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if not is_main_process:
            return
        card_path = Path(save_directory) / "README.md"
        if model_card is not None or not card_path.exists():
            (model_card or self.build_card(repo_id=hub_arguments.get("repo_id", "user/model"))).save(card_path)
        if push_to_hub:
            hub_arguments.setdefault("repo_id", Path(save_directory).name)
            upload_repository(save_directory, keep_card=model_card is None, token=kwargs.get("token"), **hub_arguments)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        model_card: ModelCard | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Saves into a temporary folder and uploads that in one commit.

        Args:
            repo_id: created where needed.
            model_card: the card to publish. Without one a plain card is published, unless the repository has a card.
            tags: further tags of the plain card.
            kwargs: ``commit_message``, ``commit_description``, ``private``, ``token``, ``revision``, ``create_pr``.

        Returns:
            The commit's URL.
        """
        card = model_card or self.build_card(repo_id=repo_id, tags=tags or ())
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, model_card=card, max_shard_size=max_shard_size)
            return upload_repository(folder, repo_id, keep_card=model_card is None, **kwargs)

    def build_card(self, **arguments: Any) -> ModelCard:
        """A plain card of this model; arguments as for ``build_model_card``."""
        classifies = type(self)._auto_class == "AutoModelForImageClassification"
        arguments.setdefault("task", "image-classification" if classifies else "image-feature-extraction")
        origin = self.config._name_or_path
        if origin and not os.path.exists(origin):
            arguments.setdefault("base_model", origin)
        return build_model_card(self.config, **arguments)


@contextmanager
def unsharded_class(model: PreTrainedModel) -> Iterator[None]:
    """Within a ``with`` block a model that FSDP version 2 has sharded has the class that it was made of.

    ``fully_shard`` gives it a class ``FSDP...`` of its own, whose code is torch's: that code would be saved as the
    model's, and the folder could not be loaded.
    """
    sharded = type(model)
    model.__class__ = next(each for each in sharded.__mro__ if not each.__name__.startswith("FSDP"))
    try:
        yield
    finally:
        model.__class__ = sharded


def refuse_missing_weights(name: str, missing: Iterable[str], parameters: dict[str, Any]) -> None:
    """Raises a ValueError if a loaded model holds weights that its checkpoint did not give, a new classifier apart.

    All of the reduction's own parameters may be missing together: that is a stock checkpoint.
    """
    lacking = sorted(key for key in missing if key in parameters)
    reduction = [key for key in lacking if key.endswith(REDUCTION_PARAMETERS)]
    encoder = [key for key in lacking if not key.startswith("classifier.") and not key.endswith("mask_token")]
    encoder = [key for key in encoder if key not in reduction]
    if encoder:
        reason = "it does not hold an encoder of this architecture and size"
    elif 0 < len(reduction) < sum(key.endswith(REDUCTION_PARAMETERS) for key in parameters):
        reason = "it was trained with another reduction; load it with its own fields, then use set_reduction"
    else:
        return
    keys = encoder or reduction
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    raise ValueError(
        f"The checkpoint {name!r} lacks {len(keys)} of the model's weights ({shown}): {reason}. "
        "A model with random layers is never returned."
    )


def upload_repository(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    keep_card: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> str:
    """Uploads a folder to the Hub in one commit, so that nothing half-written is ever published.

    Args:
        keep_card: leave a README.md that the repository already has as it is.

    Returns:
        The commit's URL.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    has_card = keep_card and api.file_exists(repo_id, "README.md", revision=revision)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=Path(folder),
        ignore_patterns=["README.md"] if has_card else None,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or "Upload FATR model",
        commit_description=commit_description,
    )
