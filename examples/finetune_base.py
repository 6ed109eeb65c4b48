"""The unreduced model that finetune.py starts from: a new small ViT, or a checkpoint with a classifier for the data."""

import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
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

from fatr_hf.hub.checkpoints import is_classifier, is_fatr, read_config
from fatr_hf.hub.convert_model import fatr_class_of
from fatr_hf.hub.load import check_family, reduced_class, size_of_images
from fatr_hf.images import resize_processor
from fatr_hf.modeling.reduction_config import REDUCTION_FIELDS, UNREDUCED, ReductionConfig, as_pair
from fatr_hf.modeling.reduction_model import ReductionModel
from fatr_hf.training.classifier_heads import (
    class_fields,
    classifiers,
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
    reduced_config(config, options)  # refuse a bad reduction beforehand
    size = {"height": options.base_image_size, "width": options.base_image_size}
    return ViTForImageClassification(config), ViTImageProcessor(size=size)


def fetch_base(
    options: ModelArguments, data: ImageData, teaches: bool
) -> tuple[PreTrainedModel, BaseImageProcessor, str]:
    """The unreduced checkpoint with a classifier for the data, its image processor, and what became of its own.

    It is of the stock class where that has the same weights under the same names, else of ours, without a reduction.

    Args:
        teaches: whether it is to teach its reduced copy, for which its own classifier is needed.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: the checkpoint is reduced already or of no family, or its classes are others and it is to teach.
    """
    name, names, revision = str(options.model_name_or_path), data.label_names, options.model_revision
    model_class = classifier_class(name, revision)
    where = {"revision": revision, **size_of_images(name, revision, model_class), **options.size_fields()}
    config = model_class.config_class.from_pretrained(name, **where, **UNREDUCED)
    reduced_config(config, options)  # refuse a bad reduction beforehand
    places = find_classes(config, names)
    loaded, info = model_class.from_pretrained(
        name,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **where,
        **UNREDUCED,
        **({} if places else class_fields(names)),
    )
    lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if places is not None and not any(key.startswith(tuple(classifiers(loaded))) for key in lacking):
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
    return stock_twin(loaded), base_processor(options, loaded.config), words


def classifier_class(name: str, revision: str) -> Any:
    """Our classifier for an unreduced checkpoint, which may be an encoder.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: one that is reduced already, or of no family.
    """
    stored = read_config(name, revision)
    model_class = reduced_class(name, stored)
    if is_fatr(stored) and any(step.reduces for step in model_class.config_class.from_dict(stored).plan()):
        raise ValueError(f"{name} is reduced already: start from the unreduced checkpoint that it came from.")
    return model_class if is_classifier(stored) else check_family(name, stored["model_type"]).classifier


def stock_twin(model: Any) -> PreTrainedModel:
    """A model of ours as the stock model with its weights; itself where transformers' is another or cannot be trained.

    Args:
        model: without a reduction.
    """
    name = type(model).__name__.removeprefix("FATR")
    stock: Any = next((each for each in type(model).__mro__ if each.__name__ == name), None)
    if stock is None or not isinstance(model.config, stock.config_class):
        return model
    if "labels" not in inspect.signature(stock.forward).parameters:
        return model  # DeiT's two classifiers, which stock does not train
    config = stock.config_class(**{each.name: getattr(model.config, each.name) for each in fields(stock.config_class)})
    with torch.device("meta"):
        twin = stock(config)
    if twin.state_dict().keys() != model.state_dict().keys():
        return model
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.train(model.training)


def reduced_config(config: PreTrainedConfig, options: ModelArguments) -> ReductionConfig:
    """The configuration of an unreduced model, stock or ours, with the reduction that the options give it.

    Raises:
        ValueError, huggingface_hub.errors.StrictDataclassError: a reduction that cannot be.
    """
    family = check_family(type(config).__name__, config.model_type)
    plain = {name: value for name, value in config.to_dict().items() if name not in REDUCTION_FIELDS}
    reduced: ReductionConfig = family.config.from_dict(plain, **options.reduction_fields())
    return reduced


def reduced_model(base: PreTrainedModel, options: ModelArguments) -> ReductionModel:
    """The reduced model that an unreduced one becomes: a copy of its weights, in evaluation mode."""
    target: Any = type(base) if isinstance(base, ReductionModel) else fatr_class_of(base)
    with torch.random.fork_rng():  # what is drawn here is replaced at once
        model: Any = target(reduced_config(base.config, options))
    model.load_state_dict({**model.state_dict(), **base.state_dict()})
    reduced: ReductionModel = model.to(base.dtype).eval()
    return reduced


def base_processor(options: ModelArguments, config: Any) -> BaseImageProcessor:
    """The checkpoint's image processor for the model's image size, or where it has none an ordinary one."""
    height, width = as_pair("image_size", config.image_size)
    try:
        processor = AutoImageProcessor.from_pretrained(options.model_name_or_path, revision=options.model_revision)
    except OSError:
        middle = [0.5] * config.num_channels
        return ViTImageProcessor(size={"height": height, "width": width}, image_mean=middle, image_std=middle)
    return processor if options.image_size is None else resize_processor(processor, (height, width))


def check_same_classes(config: PreTrainedConfig, names: Sequence[str], teacher: str, dataset: str) -> None:
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
