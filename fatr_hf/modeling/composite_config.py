# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The configurations of models with a reduced tower or backbone, for which they take the reduction's fields."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .reduction_config import ADDED_FIELDS, ReductionConfig, check_choice_of_code, check_spelling


class CompositeConfig(PreTrainedConfig):
    """The configuration of a composite, one of whose fields is a FATR tower's.

    ``from_dict`` and ``from_pretrained`` take stock composites too, and the reduction's fields as arguments.
    """

    tower_field: ClassVar[str] = "vision_config"
    """The field that holds the tower's configuration."""
    tower_configs: ClassVar[tuple[type[ReductionConfig], ...]]
    """The families that the tower may be of; one that does not say its own is of the first."""
    dense_choices: ClassVar[tuple[bool, ...]] = (False, True)
    """What the tower's ``dense_outputs`` may be; the first is the default."""
    stock_model_types: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        given = tower_fields(self.tower_field, getattr(self, self.tower_field, None), kwargs)
        tower = self.build_tower(given)
        if tower.dense_outputs not in self.dense_choices:
            raise ValueError(
                f"dense_outputs={tower.dense_outputs} must be {self.dense_choices[0]}: {self.model_type!r} reads the "
                "whole grid of patches from its tower."
            )
        setattr(self, self.tower_field, tower)
        super().__post_init__(**kwargs)
        setattr(self, self.tower_field, tower)  # transformers before 5.18 puts the stock tower's in its place

    @property
    def tower(self) -> ReductionConfig:
        """The tower's configuration."""
        tower: ReductionConfig = getattr(self, self.tower_field)
        return tower

    @classmethod
    def build_tower(cls, given: Any, **reduction: Any) -> ReductionConfig:
        """The tower's configuration, from its fields or from a stock tower's, with further fields of the reduction.

        Raises:
            ValueError: a tower of a family that the composite does not take, or none.
        """
        if given is None:
            stock = next(each for each in cls.__mro__ if each.__module__.startswith("transformers.models."))
            given = getattr(stock(), cls.tower_field)  # of the stock composite's defaults
        if given is None:
            raise ValueError(f"{cls.tower_field}=None must be the configuration of a vision transformer.")
        fields = given.to_dict() if isinstance(given, PreTrainedConfig) else dict(given)
        model_type = fields.get("model_type", cls.tower_configs[0].model_type)
        known = {name: each for each in cls.tower_configs for name in (*each.stock_model_types, each.model_type)}
        if model_type not in known:
            raise ValueError(
                f"{cls.tower_field} of model type {model_type!r} cannot be reduced in {cls.__name__}: it must be one "
                f"of {', '.join(known)}."
            )
        if isinstance(given, ReductionConfig) and not reduction:
            return given
        if "dense_outputs" not in fields:
            reduction.setdefault("dense_outputs", cls.dense_choices[0])
        tower: ReductionConfig = known[model_type].from_dict(fields, **reduction)
        return tower

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; fields of the reduction, ``preset`` and ``image_size`` go to the tower.

        Raises:
            ValueError: the configuration of another model, a tower that is not of its families, or a misspelt field.
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
        names = (*ADDED_FIELDS, "preset", "image_size")
        reduction = {name: kwargs.pop(name) for name in names if name in kwargs}
        given = tower_fields(cls.tower_field, config_dict.get(cls.tower_field), config_dict)
        config_dict[cls.tower_field] = cls.build_tower(given, **reduction)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers, for checkpoints of the stock composite too; see ``from_dict``."""
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)


def tower_fields(field: str, tower: Any, arguments: dict[str, Any]) -> Any:
    """The fields or the configuration of a tower; old checkpoints hold them twice, of which the second are right."""
    second = arguments.pop("vision_config_dict", None) if field == "vision_config" else None
    return second or tower
