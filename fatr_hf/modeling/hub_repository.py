# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading and saving whole repositories: exact conversion on the way in, a self-contained folder on the way out."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, cast

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

from .fused_inference import is_fused
from .reduction_config import ReductionConfig
from .stored_weights import remove_stale_weights, stretch_mismatched, weight_files
from .weight_checks import check_dtypes, check_finite_weights, shard_names, wording_errors

logger = logging.get_logger(__name__)

UNPUBLISHED = "user/model"
"""Where a card says that a model is before it is published."""

PROCESSOR, VIDEO_PROCESSOR = "preprocessor_config.json", "video_preprocessor_config.json"

PLAIN_TAGS = ("vision", "token-reduction", "fatr")

PLAIN_CARD = """---
{metadata}
---

# {name}

A vision transformer with frequency-aware token reduction (arXiv 2511.21477). The repository holds the model's code,
which needs `torch` and `transformers`. Pin the revision that you have read: the code runs on your machine.

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{repo_id}", trust_remote_code=True, revision="<commit hash>")
```
"""

TASKS = {
    "AutoModelForDepthEstimation": "depth-estimation",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForSemanticSegmentation": "image-segmentation",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForImageSegmentation": "image-segmentation",
    "AutoModelForObjectDetection": "object-detection",
    "AutoModelForPoseEstimation": "keypoint-detection",
    "AutoModelForZeroShotImageClassification": "zero-shot-image-classification",
    "AutoModelForZeroShotObjectDetection": "zero-shot-object-detection",
    "AutoModelForUniversalSegmentation": "image-segmentation",
    "AutoModelForVideoClassification": "video-classification",
}
"""The Hub's names of the tasks of models that do more than extract features, by their Auto classes."""

PATH_STARTS = (".", "/", "~")
"""What a name begins with that is a path and no name on the Hub."""

HTTPClientError: Any = HfHubHTTPError.__bases__[0]
"""What huggingface_hub's HTTP client raises where the Hub cannot be reached; the client changes with its version."""

REDUCTION_PARAMETERS = ("omega1", "omega2", "dc_position_embeddings")
"""Parameters that a stock model does not have; they start at zero, which changes nothing."""


class MismatchedWeightsError(RuntimeError, ValueError):
    """Weights of other shapes than the model's: what callers of transformers catch, and a bad value."""


class HubRepositoryMixin(PreTrainedModel):
    """What FATR models do beyond ``PreTrainedModel`` when they are loaded, saved and pushed."""

    config: ReductionConfig
    auto_classes: ClassVar[dict[str, str]] = {}
    """By the name of an Auto class, which of the family's classes it loads; all in one file."""
    position_table: ClassVar[str | None] = None
    """How the name of the table of learned positions ends, in stock checkpoints too; None without one."""
    position_antialias: ClassVar[bool] = False
    """Whether the stock model stretches that table with antialiasing."""
    head_parts: ClassVar[tuple[str, ...]] = ()
    """The parts of a classifier's head before its linear layer, which a checkpoint without a classifier lacks too."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Loads a FATR checkpoint, or any checkpoint of the stock model as FATR; arguments as in transformers.

        Weights come from safetensors files only. A classifier that the checkpoint does not have starts at random, as
        for any model; a pooler that it does not have is left out (``model.pooler`` is None). For another ``image_size``
        than the checkpoint's the position embeddings are stretched as ``interpolate_pos_encoding`` stretches them.

        Raises:
            OSError: a path that leads nowhere, or files that are not there.
            ValueError: a checkpoint of another architecture, one that lacks weights, or whose weights are damaged, of
                other shapes than its configuration's (then a RuntimeError too), not of floating point or not finite.
            huggingface_hub.errors.StrictDataclassError: a configuration that cannot be.
        """
        if pretrained_model_name_or_path is None:  # a configuration alone, whose model is a fresh one
            return super().from_pretrained(None, *model_args, output_loading_info=output_loading_info, **kwargs)
        name = str(pretrained_model_name_or_path)
        if name.startswith(PATH_STARTS) and not os.path.exists(name):
            raise FileNotFoundError(f"There is no checkpoint at {name!r}: give a folder that exists or a Hub name.")
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError(
                f"use_safetensors={kwargs['use_safetensors']} is not supported: weights are read from safetensors "
                "files only, never unpickled. Convert the checkpoint to safetensors first."
            )
        is_loaded_from_files = kwargs.get("state_dict") is None
        if is_loaded_from_files:
            shard_names(name, kwargs)
        takes_mismatches = kwargs.pop("ignore_mismatched_sizes", False)
        with wording_errors(name):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        model, info = loaded
        if is_loaded_from_files and getattr(model.config, "quantization_config", None) is None:
            counters = [key for key, buffer in model.named_buffers() if not buffer.is_floating_point()]
            check_dtypes(name, kwargs, unread_names(cls, [*info["unexpected_keys"], *counters]))
        info["mismatched_keys"] = stretch_mismatched(model, name, info["mismatched_keys"], kwargs)
        if not takes_mismatches:
            check_shapes(name, info["mismatched_keys"])
        # Of new classes a head of several layers keeps all but its last.
        renewed = {key for key, *_ in info["mismatched_keys"] if not is_of_classifier(key)}
        missing = {*info["missing_keys"], *renewed}
        if "pooler" not in cls.head_parts and any(key.startswith("pooler.") for key in missing):
            logger.warning(f"{name} has no pooler: the model is loaded without one.")
            model.pooler = None
        check_missing_weights(name, missing, dict(model.named_parameters()), cls.head_parts)
        check_finite_weights(name, model.named_parameters())
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        push_to_hub: bool = False,
        model_card: ModelCard | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves weights, configuration, code and model card: transformers alone loads the folder.

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
        self.config.auto_map = auto_map(type(self))
        # Files hold the names of the state dict, so that whatever reads them (a resumed Trainer) needs no renaming.
        if kwargs.setdefault("save_original_format", False):
            raise ValueError("save_original_format=True is not supported: files hold the names of the state dict.")
        before = weight_files(Path(save_directory), kwargs.get("variant"))
        with unsharded_class(self):
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if not is_main_process:
            return
        remove_stale_weights(Path(save_directory), kwargs.get("variant"), before)
        card_path = Path(save_directory) / "README.md"
        if model_card is not None or not card_path.exists():
            (model_card or plain_card(self)).save(card_path)
        if push_to_hub:
            hub_arguments.setdefault("repo_id", Path(save_directory).name)
            upload_repository(save_directory, keep_card=model_card is None, token=kwargs.get("token"), **hub_arguments)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        image_processor: BaseImageProcessor | None = None,
        model_card: ModelCard | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Saves into a temporary folder and uploads that in one commit.

        Args:
            repo_id: created where needed.
            image_processor: published with the model; ``pipeline`` needs one.
            model_card: the card to publish. Without one a plain card is published, unless the repository has a card.
            tags: further tags of the plain card.
            kwargs: ``commit_message``, ``commit_description``, ``private``, ``token``, ``revision``, ``create_pr``.

        Returns:
            The commit's URL; its ``oid`` is the commit's hash.

        Raises:
            OSError, ValueError: as for ``upload_repository``.
        """
        with TemporaryDirectory() as folder:
            card = model_card or plain_card(self, tags or ())
            self.save_pretrained(folder, model_card=card, max_shard_size=max_shard_size)
            if image_processor is not None:
                image_processor.save_pretrained(folder)
            return upload_repository(folder, repo_id, keep_card=model_card is None, **kwargs)


def plain_card(model: HubRepositoryMixin, tags: Iterable[str] = ()) -> ModelCard:
    """A card that says what a model is and how to load it; ``upload_repository`` enters the name of the repository."""
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=task_of(model),
        base_model=base_model_of(model),
        tags=[*PLAIN_TAGS, *tags],
    )
    auto_class = type(model)._auto_class or "AutoModel"
    name = UNPUBLISHED.split("/")[-1]
    return ModelCard(
        PLAIN_CARD.format(metadata=metadata.to_yaml(), name=name, auto_class=auto_class, repo_id=UNPUBLISHED)
    )


def task_of(model: HubRepositoryMixin) -> str:
    """The Hub's name of what a model does."""
    return TASKS.get(str(type(model)._auto_class), "image-feature-extraction")


def base_model_of(model: HubRepositoryMixin) -> str | None:
    """The Hub name that a model was loaded from; None for a path, or a model that was not loaded."""
    name = str(model.config._name_or_path)
    is_hub_name = bool(name) and not name.startswith(PATH_STARTS) and not os.path.exists(name)
    return name if is_hub_name else None


def auto_map(model_class: type[HubRepositoryMixin]) -> dict[str, str]:
    """Where a folder's code holds the classes that Auto classes load (``auto_map`` of its configuration)."""
    family = next(each for each in model_class.__mro__ if "auto_classes" in vars(each))
    modeling, config = family.__module__.split(".")[-1], cast(type, model_class.config_class)
    entries = {name: f"{modeling}.{each}" for name, each in model_class.auto_classes.items()}
    return {"AutoConfig": f"{config.__module__.split('.')[-1]}.{config.__name__}"} | entries


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


def check_missing_weights(
    name: str, missing: Iterable[str], parameters: dict[str, Any], head_parts: Iterable[str] = ()
) -> None:
    """Raises a ValueError if a loaded model holds weights that its checkpoint did not give, a whole classifier apart.

    Of a classifier with parts before its linear layer (``head_parts``) that layer may be missing, or all of them.

    All of the reduction's own parameters may be missing together: that is a stock checkpoint.
    """
    lacking = sorted(key for key in missing if key in parameters and not key.endswith("mask_token"))
    reduction = [key for key in lacking if key.endswith(REDUCTION_PARAMETERS)]
    classifier = [key for key in lacking if is_of_classifier(key)]
    head = [key for key in lacking if key.split(".")[0] in head_parts]
    whole_head = [key for key in parameters if key.split(".")[0] in (*head_parts,)]
    encoder = [key for key in lacking if key not in (*reduction, *classifier, *head)]
    if encoder:
        keys, reason = encoder, "it does not hold an encoder of this architecture and size"
    elif 0 < len(reduction) < sum(key.endswith(REDUCTION_PARAMETERS) for key in parameters):
        keys, reason = reduction, "it was trained with another reduction; load it with its own, then use set_reduction"
    elif 0 < len(classifier) < sum(map(is_of_classifier, parameters)) or (
        head and (len(head) < len(whole_head) or not classifier)
    ):
        keys, reason = [*classifier, *head], "it holds a part of its classifier only"
    else:
        return
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    raise ValueError(
        f"The checkpoint {name!r} lacks {len(keys)} of the model's weights ({shown}): {reason}. "
        "A model with random layers is never returned."
    )


def is_of_classifier(key: str) -> bool:
    """Whether a parameter of this name is a classifier's; a distilled DeiT has two, an UperNet one in each head."""
    return any(part.endswith("classifier") or part == "class_predictor" for part in key.split("."))


def unread_names(model_class: Any, unexpected: Iterable[str]) -> str:
    """A regular expression of the names in a checkpoint that are no weights of the model, or mere counts."""
    ignored = model_class._keys_to_ignore_on_load_unexpected or ()
    return "|".join([*(f"^{re.escape(name)}$" for name in unexpected), *ignored]) or "$^"


def check_shapes(name: str, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Raises an error for weights of other shapes than the model's, each (name, shape in the file, shape)."""
    shapes = {key: f"{key} is {tuple(own)} and must be {tuple(wanted)}" for key, own, wanted in mismatched}
    if shapes:
        shown = "; ".join([*shapes.values()][:3]) + ("; ..." if len(shapes) > 3 else "")
        remedies = " ".join(dict.fromkeys(map(remedy, shapes)))
        raise MismatchedWeightsError(
            f"The checkpoint {name!r} holds weights of other shapes than its configuration's: {shown}. {remedies}"
        )


def remedy(key: str) -> str:
    """What to do where a weight of this name has another shape than the model's."""
    if is_of_classifier(key):
        return "For new classes give ignore_mismatched_sizes=True."
    if key.endswith(REDUCTION_PARAMETERS):
        return "Load a FATR model with its own windows, then use set_reduction."
    if "position" in key:
        return "Keep the checkpoint's image_size: these positions are not stretched when they are loaded."
    return "Keep the checkpoint's own configuration."


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
    """Uploads a folder with a model card to the Hub in one commit, so that nothing half-written is ever published.

    A card that the Hub does not accept is refused before the repository is created.

    Args:
        repo_id: created where needed.
        keep_card: leave a README.md that the repository already has as it is.
        private: whether a new repository is private.
        revision: branch to commit to, made from the main branch where needed; or a pull request, ``refs/pr/1``.

    Returns:
        The commit's URL; its ``oid`` is the commit's hash.

    Raises:
        OSError: the Hub refused, or the connection broke.
        ValueError: a name that the Hub does not allow, or a card that it does not accept.
    """
    api, card = HfApi(token=token), Path(folder, "README.md").read_text()
    try:
        with suppress(HTTPClientError):
            # Older versions ask huggingface.co whatever the endpoint is; the commit asks the right one once more.
            ModelCard(card).validate()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/") and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        additions = {name: CommitOperationAdd(name, Path(folder, name)) for name in visible_files(Path(folder))}
        if keep_card and api.file_exists(repo_id, "README.md", revision=revision):
            del additions["README.md"]
        else:
            additions["README.md"] = CommitOperationAdd("README.md", with_repository(card, repo_id).encode())
        has_processor = PROCESSOR in additions or VIDEO_PROCESSOR in additions
        if not has_processor and not api.file_exists(repo_id, PROCESSOR, revision=revision):
            logger.warning(
                f"{repo_id} has no image processor, and `pipeline` needs one: give image_processor= to push_to_hub, "
                "or push the processor to the same repository."
            )
        # upload_folder would make several commits of a folder where it sees fit.
        return api.create_commit(
            repo_id,
            list(additions.values()),
            commit_message=commit_message or "Upload FATR model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except (HTTPClientError, OSError, RuntimeError) as error:
        raise OSError(
            f"{repo_id} is not published: {error}\nFiles appear all at once when the last has arrived: unless the "
            "connection broke after that, the repository is as it was. Push again when the reason is gone."
        ) from error


def with_repository(card: str, repo_id: str) -> str:
    """A card that was written before the model was published, with the name of its repository."""
    if UNPUBLISHED not in card:
        return card
    before, now = (name.split("/")[-1] for name in (UNPUBLISHED, repo_id))
    return card.replace(UNPUBLISHED, repo_id).replace(f"\n# {before}\n", f"\n# {now}\n", 1)


def visible_files(folder: Path) -> list[str]:
    """Paths of all files relative to their folder, but for hidden ones, such as git's."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
