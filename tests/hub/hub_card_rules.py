"""What the Hub demands of a model card's metadata, and which tags it shows on the model's page."""

from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

# Some of the Hub's closed lists.
LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "openrail", "other", "unknown"}
PIPELINE_TAGS = {"image-classification", "image-feature-extraction", "image-segmentation", "object-detection"}


def card_metadata(card: str) -> dict[str, Any] | None:
    """The YAML block at the start of a card; None where there is none."""
    block = REGEX_YAML_BLOCK.search(card)
    return yaml.safe_load(block[2]) if block else None


def metadata_errors(metadata: dict[str, Any]) -> list[str]:
    """Everything that the Hub refuses."""
    errors = []
    if metadata.get("license", "unknown") not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    if metadata.get("pipeline_tag", "image-classification") not in PIPELINE_TAGS:
        errors.append(f'"pipeline_tag" must be one of {sorted(PIPELINE_TAGS)}')
    for field, kind in (("base_model", "model"), ("datasets", "dataset")):
        for name in as_list(metadata.get(field)):
            try:
                validate_repo_id(name)
            except HFValidationError:
                errors.append(
                    f'"{field}" with value "{name}" is not valid. Use a {kind} id from https://hf.co/{kind}s.'
                )
    try:
        ModelCardData(**metadata)
    except ValueError as error:  # a model index that cannot be read
        errors.append(str(error))
    return errors


def page_tags(metadata: dict[str, Any]) -> list[str]:
    """The tags of a model's page: those of the card, and one for each field by which models are found."""
    fields = {"license": "license", "base_model": "base_model", "datasets": "dataset"}
    found = [f"{tag}:{name}" for field, tag in fields.items() for name in as_list(metadata.get(field))]
    return [*as_list(metadata.get("library_name")), *as_list(metadata.get("tags")), *found]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
