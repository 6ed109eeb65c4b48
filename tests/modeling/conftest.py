"""Triton's interpreter, on which tests run the kernels where there is no GPU."""

import pytest

from fatr_hf.modeling.kernels_common import HAS_TRITON


@pytest.fixture(autouse=HAS_TRITON)
def loops_over_tensors(monkeypatch):
    """The bound of a loop is a tensor of one element, which triton 3.6's interpreter cannot read with numpy 2.4."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor)
