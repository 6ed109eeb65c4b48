# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Models with a reduced vision tower or backbone in them: stock's, which build theirs by an Auto class."""

from typing import Any, ClassVar, Self

from transformers import AutoBackbone, AutoModel

from .backbone import ReductionBackbone
from .fused_inference import shared_copy
from .hub_repository import HubRepositoryMixin
from .reduction_model import ReductionEncoder


class CompositeModel(HubRepositoryMixin):
    """A stock composite that builds its tower by an Auto class, with a FATR model for its tower."""

    config: Any
    tower_name: ClassVar[str]
    """Where the tower is among the modules."""
    tower_classes: ClassVar[tuple[type[ReductionEncoder], ...]] = ()
    """The models of ``CompositeConfig.tower_configs``."""

    def __init__(self, config: Any):
        # By the class of the configuration at hand: remote code may hold the same class twice.
        for each in self.tower_classes:
            family: Any = each.config_class
            if family.model_type == config.tower.model_type:
                auto_class = AutoBackbone if issubclass(each, ReductionBackbone) else AutoModel
                auto_class.register(type(config.tower), each, exist_ok=True)
        super().__init__(config)

    @property
    def tower(self) -> Any:
        """The reduced encoder, which has the reduction's methods."""
        return self.get_submodule(self.tower_name)

    def fuse(self) -> Self:
        """A copy for inference whose tower is fused (see ``ReductionModel.fuse``); it shares the memory of weights."""
        fused = shared_copy(self).eval().requires_grad_(False)
        fused.set_submodule(self.tower_name, self.tower.fuse())
        return fused
