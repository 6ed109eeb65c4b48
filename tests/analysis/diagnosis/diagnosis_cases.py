"""A diagnosis made by hand, of a model of 4 layers that reduces in layers 0 and 2, to which nothing draws attention."""

from dataclasses import replace

from fatr_hf.analysis.analyze import Analysis, Row
from fatr_hf.analysis.compare import Figure
from fatr_hf.analysis.diagnosis.result import Diagnosis

LAYERS = range(4)
REDUCING = (0, 2)

BY_LAYER = {
    "sinks": (LAYERS, 0.0),
    "high_norms": (LAYERS, 0.0),
    "mass_of_sinks": (LAYERS, 0.0),
    "mass_of_high_norms": (LAYERS, 0.0),
    "cosine_moved": (LAYERS, 0.995),
    "cosine_moved_random": (LAYERS, 0.98),
    "cosine_moved_low_frequency": (LAYERS, 0.97),
    "cosine_alone": (REDUCING, 0.995),
    "patches_kept": (REDUCING, 0.7),
    "mass_kept": (REDUCING, 0.85),
    "energy_kept": (REDUCING, 0.8),
    "energy_of_patches": (REDUCING, 0.75),
    "energy_by_chance": (REDUCING, 0.7),
    "energy_over_chance": (REDUCING, 0.05),
    "energy_guaranteed": (REDUCING, 0.6),
}


def figure(mean, error, images=1000):
    """A mean over so many images."""
    return Figure(mean, error, images)


ENCODER = {
    "cosine": figure(0.99, 0.001),
    "cosine_as_it_is": figure(0.99, 0.001),
    "cosine_random": figure(0.95, 0.002),
    "gain_random": figure(-0.04, 0.002),
    "cosine_low_frequency": figure(0.93, 0.002),
    "gain_low_frequency": figure(-0.06, 0.002),
    "cosine_local": figure(0.991, 0.001),
    "gain_local": figure(0.001, 0.001),
}
"""Answers of an encoder."""

CLASSIFIER = ENCODER | {"agreement": figure(0.98, 0.005), "divergence": figure(0.01, 0.001)}
"""Answers without labels."""

LABELLED = CLASSIFIER | {
    "accuracy": figure(0.9, 0.01),
    "unreduced_accuracy": figure(0.9, 0.01),
    "accuracy_lost": figure(0.0, 0.001),
}
"""Answers with labels."""


def state(value):
    """An analysis in which all measures have one value everywhere."""
    names = ("effective_rank", "high_frequency_share", "pairwise_cosine")
    rows = tuple(Row(name, layer, None, value, 0.1, 1000) for name in names for layer in range(5))
    return Analysis(1000, (65, 47, 47, 34, 34), rows)


def make_rows(**changes):
    """By-layer measures; a change is a mapping from layers to means, with standard errors of 0.001."""
    rows = {name: dict.fromkeys(layers, value) for name, (layers, value) in BY_LAYER.items()}
    for name, values in changes.items():
        rows[name] = rows.get(name, {}) | values
    return tuple(
        Row(name, layer, None, mean, 0.001, 1000) for name, means in rows.items() for layer, mean in means.items()
    )


EXAMPLE = Diagnosis(
    images=1000,
    grid=(8, 8),
    depth=4,
    reduction={
        "reduction_layers": [0, 2],
        "keep_ratio": 0.7,
        "dc_windows": [2, 1],
        "size_exponent": 0.0,
        "selection": "high_frequency",
    },
    local_reduction={"dc_windows": [4, 4], "keep_ratio": [0.5, 0.5], "size_exponent": 0.5},
    macs={"unreduced": 2_000_000, "reduced": 1_300_000, "local": 1_280_000},
    answers=LABELLED,
    rows=make_rows(),
    analyses={"unreduced": state(3.0), "reduced": state(2.0), "random": state(1.0)},
    fixed_sinks=(),
)
"""A reduction that suits, of 1000 images with labels."""


def make_diagnosis(**changes):
    """The example with other fields; with fewer images no mean is over more of them."""
    changed = replace(EXAMPLE, **changes)
    answers = {name: each._replace(images=min(each.images, changed.images)) for name, each in changed.answers.items()}
    rows = tuple(row._replace(images=min(row.images, changed.images)) for row in changed.rows)
    return replace(changed, answers=answers, rows=rows)
