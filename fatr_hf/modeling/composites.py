# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Models with a reduced tower or backbone in them: their configuration takes the reduction's fields for it."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .reduction_config import REDUCTION_FIELDS, ReductionConfig, check_choice_of_code, check_spelling


class CompositeConfig(PreTrainedConfig):
    """The configuration of a composite that holds a FATR tower's, as ``vision_config`` or by another name.

    ``from_dict`` and ``from_pretrained`` take stock composites too, and the reduction's fields as arguments.
    """

    tower_config: ClassVar[type[ReductionConfig]]
    tower_name: ClassVar[str] = "vision_config"
    stock_model_types: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        tower = tower_fields(getattr(self, self.tower_name, None), kwargs)
        tower = tower if isinstance(tower, self.tower_config) else self.tower_config.from_dict(tower)
        super().__post_init__(**kwargs)
        setattr(self, self.tower_name, tower)  # transformers before 5.18 puts the stock tower's in its place

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; fields of the reduction, ``preset`` and ``image_size`` go to the tower.

        Raises:
            ValueError: the configuration of another model, a tower that is not of this family, or a misspelt field.
        """
        config_dict = dict(config_dict)
        check_choice_of_code(config_dict)
        check_spelling(cls, kwargs)
        model_type = config_dict.pop("model_type", cls.model_type)
        if model_type not in (cls.model_type, *cls.stock_model_types):
            raise ValueError(
                f"A checkpoint of model type {model_type!r} cannot be loaded as {cls.__name__}: it must be one of "
                f"{', '.join((*cls.stock_model_types, cls.model_type))}."
            )
        if model_type != cls.model_type:
            config_dict = {
                name: each for name, each in config_dict.items() if name not in ("architectures", "auto_map")
            }
        names = (*REDUCTION_FIELDS, "preset", "image_size")
        reduction = {name: kwargs.pop(name) for name in names if name in kwargs}
        tower = tower_fields(config_dict.get(cls.tower_name), config_dict)
        if isinstance(tower, PreTrainedConfig):
            tower = tower.to_dict()
        config_dict[cls.tower_name] = cls.tower_config.from_dict(tower, **reduction)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers, for checkpoints of the stock composite too; see ``from_dict``."""
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)


def tower_fields(tower: Any, arguments: dict[str, Any]) -> Any:
    """The fields or the configuration of a tower; old checkpoints hold them twice, of which the second are right."""
    return arguments.pop("vision_config_dict", None) or tower or {}
