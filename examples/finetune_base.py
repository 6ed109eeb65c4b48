"""The unreduced model that finetune.py starts from: a new small ViT, or a checkpoint with a classifier for the data."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from finetune_arguments import ModelArguments
from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.images import resize_processor
from fatr_hf.modeling.reduction_config import as_pair
from fatr_hf.training.classifier_heads import (
    class_fields,
    find_classes,
    has_numbers_alone,
    order_classifier,
    renew_classifier,
)
from fatr_hf.training.data import ImageData
from fatr_hf.training.labels import first_few


def new_base(options: ModelArguments, names: Sequence[str]) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A small stock ViT, not yet trained, for classes of these names, and its image processor."""
    config = ViTConfig(
        image_size=options.base_image_size,
        patch_size=options.base_patch_size,
        hidden_size=options.base_hidden_size,
        intermediate_size=4 * options.base_hidden_size,
        num_attention_heads=options.base_heads,
        num_hidden_layers=options.base_layers,
        initializer_range=options.base_initializer_range,
        **class_fields(names),
    )
    FATRViTConfig.from_dict(config.to_dict(), **options.reduction_fields())  # refuse a bad reduction beforehand
    size = {"height": options.base_image_size, "width": options.base_image_size}
    return ViTForImageClassification(config), ViTImageProcessor(size=size)


def fetch_base(
    options: ModelArguments, data: ImageData, teaches: bool
) -> tuple[PreTrainedModel, BaseImageProcessor, str]:
    """The checkpoint as a stock ViT with a classifier for the data, its image processor, and what became of its own.

    Args:
        teaches: whether it is to teach its reduced copy, for which its own classifier is needed.

    Raises:
        ValueError: the checkpoint is reduced already, or its classes are others and it is to teach.
    """
    name, names = str(options.model_name_or_path), data.label_names
    where = {"revision": options.model_revision, **options.size_fields()}
    stored, _ = FATRViTConfig.get_config_dict(name, revision=options.model_revision)
    if stored.get("model_type") == FATRViTConfig.model_type:
        raise ValueError(f"{name} is reduced already: start from the unreduced checkpoint that it came from.")
    config = FATRViTConfig.from_pretrained(name, **where, **options.reduction_fields())
    places = find_classes(config, names)
    loaded, info = FATRViTForImageClassification.from_pretrained(
        name,
        keep_ratio=1.0,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **where,
        **({} if places else class_fields(names)),
    )
    lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if places is not None and not any(key.startswith("classifier.") for key in lacking):
        order_classifier(loaded, places, names)
        words = f"{name}: its classifier is kept."
        if places != [*range(len(names))]:
            words = f"{name}: its classifier is put in the order of the classes of {data.name}."
        elif has_numbers_alone(config, names):
            words += f" Its class numbers are taken to be those of {data.name}: one of the two names no classes."
    elif teaches:
        raise ValueError(
            f"{name} has no classifier for the {len(names)} classes of {data.name} ({first_few(names)}), so it cannot "
            "teach them. Set --distillation_weight 0, name another --teacher, or fine-tune the unreduced model on this "
            "data set first."
        )
    else:
        renew_classifier(loaded, names)
        words = f"{name}: it gets a new classifier for the classes of {data.name}."
    stock = {field.name: getattr(loaded.config, field.name) for field in fields(ViTConfig)}
    base = ViTForImageClassification(ViTConfig(**stock))
    base.load_state_dict(loaded.state_dict())
    return base, base_processor(options, base.config), words


def base_processor(options: ModelArguments, config: Any) -> BaseImageProcessor:
    """The checkpoint's image processor for the model's image size, or where it has none an ordinary one."""
    height, width = as_pair("image_size", config.image_size)
    try:
        processor = AutoImageProcessor.from_pretrained(options.model_name_or_path, revision=options.model_revision)
    except OSError:
        middle = [0.5] * config.num_channels
        return ViTImageProcessor(size={"height": height, "width": width}, image_mean=middle, image_std=middle)
    return processor if options.image_size is None else resize_processor(processor, (height, width))


def refuse_other_classes(config: PreTrainedConfig, names: Sequence[str], teacher: str, dataset: str) -> None:
    """Raises a ValueError for a teacher that does not have the classes of a data set in their order."""
    if config.num_labels != len(names):
        raise ValueError(
            f"{teacher} has {config.num_labels} classes, {dataset} has {len(names)}: it cannot teach them."
        )
    if find_classes(config, names) != [*range(len(names))]:
        own = first_few([*map(str, (config.id2label or {}).values())])
        raise ValueError(
            f"{teacher} has other classes than {dataset}, or another order of them ({own}, and not "
            f"{first_few([*names])}): it cannot teach them."
        )
