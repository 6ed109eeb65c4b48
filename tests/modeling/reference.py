"""The method once more, slowly: float64, loops over images and patches, explicit N x N attention maps.

Written from the method's description (docs and arXiv 2511.21477), not from the package, none of whose functions is
called: one image at a time, scores and positions as plain lists. Tests compare the package with it.
"""

import itertools
import math
from fractions import Fraction

import torch


def per_axis(count, grid):
    """Windows along each axis, of one number for all of them."""
    if isinstance(count, (tuple, list)):
        return tuple(count)
    return (count,) * len(grid) if count else ()


def number(windows):
    """How many windows there are in all."""
    return math.prod(windows) if windows else 0


def plan(grid, layers, ratios, dc_windows, prefix=1, multiple=1):
    """{reduction layer: (kept patches, windows)}, or None where a reduction is to be refused."""
    steps, patches, old_windows = {}, math.prod(grid), ()
    for layer, ratio, wanted in zip(layers, ratios, dc_windows, strict=True):
        if ratio == 1:
            continue
        new_windows = per_axis(wanted, grid)
        kept = max(1, math.floor(patches * Fraction(str(ratio))))
        while (prefix + kept + number(new_windows)) % multiple:
            kept -= 1
        fits = all(new <= length for new, length in zip(new_windows, grid, strict=False))
        nests = all(old % new == 0 for old, new in zip(old_windows, new_windows, strict=False))
        if kept < 1 or not fits or not nests or kept + number(new_windows) >= patches + number(old_windows):
            return None
        steps[layer] = (kept, new_windows)
        patches, old_windows = kept, new_windows
    return steps


def windows(grid, count):
    """The DC window of every patch of the grid, the last axis fastest; windows are counted alike."""
    counts = per_axis(count, grid) or (1,) * len(grid)
    found = []
    for place in itertools.product(*map(range, grid)):
        window = 0
        for each, length, along in zip(place, grid, counts, strict=True):
            window = window * along + each * along // length
        found.append(window)
    return found


def partition(scores, keep):
    """Indices of the ``keep`` highest scores and of the others, both ascending; ties go to the lower index."""
    ranked = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return sorted(ranked[:keep]), sorted(ranked[keep:])


@torch.no_grad()
def randomise(model, seed=0, scale=0.3):
    """Draws every parameter anew, so that none is zero and attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def weighted_mean(tokens, counts):
    return sum(count * token for token, count in zip(tokens, counts, strict=True)) / sum(counts)


def pool(tokens, counts, index, count):
    """Mean of every window's tokens weighted by count, and its count; an empty window: the mean of all, count 0."""
    means, totals = [], []
    for window in range(count):
        inside = [place for place in range(len(index)) if index[place] == window and counts[place] > 0]
        chosen = inside or range(len(index))
        means.append(weighted_mean([tokens[place] for place in chosen], [counts[place] for place in chosen]))
        totals.append(sum(counts[place] for place in inside))
    return torch.stack(means) if means else torch.empty(0), totals


def reduce(hidden, scores, positions, dc_counts, grid, prefix, old_windows, keep, new_windows, embeddings=None):
    """One image's sequence (tokens, hidden), reduced: the new sequence, its patches' positions and its DC counts."""
    kept, folded = partition(scores, keep)
    patch_windows = windows(grid, new_windows)
    tokens = [hidden[prefix + place] for place in folded]
    counts = [1] * len(folded)
    index = [patch_windows[positions[place]] for place in folded]
    old_windows, new_windows = per_axis(old_windows, grid), per_axis(new_windows, grid)
    if old_windows:
        ratios = [old // new for old, new in zip(old_windows, new_windows, strict=True)]
        for old, place in enumerate(itertools.product(*map(range, old_windows))):
            tokens.append(hidden[prefix + len(positions) + old])
            counts.append(dc_counts[old])
            window = 0
            for each, ratio, along in zip(place, ratios, new_windows, strict=True):
                window = window * along + each // ratio
            index.append(window)
    dc, new_counts = pool(tokens, counts, index, number(new_windows))
    if embeddings is not None:
        dc = dc + embeddings
    sequence = torch.stack([*hidden[:prefix], *(hidden[prefix + place] for place in kept), *dc])
    return sequence, [positions[place] for place in kept], new_counts


def features(keys, hidden):
    """What tokens are compared by: keys (N, head_dim) and tokens (N, hidden), each at length 1, side by side."""
    return torch.stack(
        [torch.cat([key / key.norm(), token / token.norm()]) for key, token in zip(keys, hidden, strict=True)]
    )


def cosine_steps(compared):
    """Cosines between features (tokens, channels) in whole steps of 2**-16, as nested lists; zeros are like nothing."""
    norms = [max(float(each.norm()), 1e-12) for each in compared]
    rows = list(zip(compared, norms, strict=True))
    return [
        [round(float(one @ other) / (norm * other_norm) * 2**16) for other, other_norm in rows] for one, norm in rows
    ]


def energy_scores(maps, value, compared, prefix, patches):
    """What each patch token adds to the high frequencies of the output, as far as none of more energy says the same.

    Args:
        maps: (heads, N, N).
        value: (heads, N, head_dim), before re-weighting.
        compared: (N, channels), of ``features``; keys averaged over heads, before any rotation.
    """
    heads, length, _ = maps.shape
    alike = cosine_steps(compared[prefix : prefix + patches])
    energies = []
    for k in range(patches):
        energy = 0.0
        for head in range(heads):
            mean = value[head, prefix : prefix + patches].sum(dim=0) / patches
            energy += float(maps[head, :, prefix + k].sum() / length * (value[head, prefix + k] - mean).norm()) / heads
        energies.append(energy)
    order = sorted(range(patches), key=lambda k: (-energies[k], k))
    scores = [0.0] * patches
    for rank, k in enumerate(order):
        nearest = max(alike[k][other] for other in order[:rank]) if rank else min(alike[k])
        scores[k] = energies[k] * (1 - nearest / 2**16) ** 2
    return scores


def reduce_similar(hidden, scores, positions, sizes, prefix, keep, compared, standing):
    """One image's sequence (tokens, hidden), every patch that is not kept joined to the kept one most like it.

    Args:
        sizes: patches behind each patch token.
        compared: (N, channels), of ``features``.
        standing: for every patch of the grid the place among the patch tokens of the one that stands for it.

    Returns:
        The new sequence, positions, sizes and ``standing``.
    """
    kept, folded = partition(scores, keep)
    alike = cosine_steps(compared[prefix : prefix + len(positions)])
    joins = {place: kept.index(place) for place in kept}
    for place in folded:
        joins[place] = max(range(len(kept)), key=lambda slot: (alike[place][kept[slot]], -slot))
    sequence, new_sizes = list(hidden[:prefix]), []
    for slot in range(len(kept)):
        members = [place for place in range(len(positions)) if joins[place] == slot]
        sequence.append(
            weighted_mean([hidden[prefix + place] for place in members], [sizes[place] for place in members])
        )
        new_sizes.append(sum(sizes[place] for place in members))
    return torch.stack(sequence), [positions[place] for place in kept], new_sizes, [joins[place] for place in standing]


def sources(grid, prefix, positions, dc_windows):
    """For every patch the place in the sequence that stands for it: its own, or its DC token's."""
    result = []
    for patch, window in enumerate(windows(grid, dc_windows)):
        place = positions.index(patch) if patch in positions else len(positions) + window
        result.append(prefix + place if patch in positions or dc_windows else -1)
    return result


def attention_maps(query, key, scaling, dc_counts=(), exponent=0.0):
    """``A`` of every head (heads, N, N); a DC token of ``c`` patches gets ``exponent * log c`` on its logits."""
    bias = torch.zeros(query.shape[1], dtype=torch.float64)
    if exponent:
        for place, count in enumerate(dc_counts, start=len(bias) - len(dc_counts)):
            bias[place] = exponent * math.log(count) if count else -math.inf
    maps = []
    for head_query, head_key in zip(query, key, strict=True):
        weights = (head_query @ head_key.T * scaling + bias).exp()
        maps.append(weights / weights.sum(dim=1, keepdim=True))
    return torch.stack(maps)


def reweighted(attention, omega1, omega2, num_dc):
    """``A + omega1 * A_HP + omega2 * A_DC`` of one head (N, N)."""
    length = attention.shape[1]
    low_pass = torch.ones_like(attention) / length
    high_pass = attention - low_pass
    dc = torch.zeros_like(attention)
    dc[:, length - num_dc :] = attention[:, length - num_dc :]
    return attention + omega1 * high_pass + omega2 * dc


def selection_scores(selection, maps, hidden):
    """A list with the score of every token in the sequence of one image, prefix and DC tokens included."""
    heads, length, _ = maps.shape
    if selection in ("high_frequency", "low_frequency"):
        high_pass = maps - 1 / length
        scores = [sum(high_pass[head, :, k].sum() for head in range(heads)) / (heads * length) for k in range(length)]
        return [float(score if selection == "high_frequency" else -score) for score in scores]
    if selection == "cls_attention":
        return [float(sum(maps[head, 0, k] for head in range(heads)) / heads) for k in range(length)]
    mean = hidden.sum(dim=0) / length
    return [-float(token @ mean / (token.norm() * mean.norm())) for token in hidden]


class Weights:
    """A model's parameters in float64, by name; an absent one is None."""

    def __init__(self, model):
        self.tensors = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}

    def get(self, name):
        return self.tensors.get(name)

    def linear(self, name, tokens):
        return tokens @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name, tokens, eps):
        centred = tokens - tokens.mean(dim=1, keepdim=True)
        scaled = centred / ((centred**2).mean(dim=1, keepdim=True) + eps).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def embed(weights, pixels, patch, grid):
    kernel = weights.get("vit.embeddings.patch_embeddings.projection.weight")
    bias = weights.get("vit.embeddings.patch_embeddings.projection.bias")
    tokens = [weights.get("vit.embeddings.cls_token")[0, 0]]
    for row in range(grid[0]):
        for column in range(grid[1]):
            image = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append((kernel * image).sum(dim=(1, 2, 3)) + bias)
    return torch.stack(tokens) + weights.get("vit.embeddings.position_embeddings")[0]


def forward_image(weights, config, steps, grid, pixels, random_scores):
    """One image (channels, height, width): logits, hidden states after the embeddings and every layer, kept patches."""
    heads, eps = config.num_attention_heads, config.layer_norm_eps
    scaling = (config.hidden_size // heads) ** -0.5
    hidden = embed(weights, pixels, config.patch_size, grid)
    positions, dc_windows, dc_counts, reached = list(range(grid[0] * grid[1])), 0, [], False
    sizes, standing = [1] * len(positions), list(positions)
    joins = config.fold == "similar"
    hidden_states, kept_positions, all_counts, all_sources = [hidden], [], [], []
    for layer in range(config.num_hidden_layers):
        name = f"vit.layers.{layer}"
        reached = reached or layer in steps
        normed = weights.norm(f"{name}.layernorm_before", hidden, eps)
        query, key, value = (
            torch.stack(weights.linear(f"{name}.attention.{part}_proj", normed).chunk(heads, dim=1)) for part in "qkv"
        )
        maps = attention_maps(query, key, scaling, sizes if joins else dc_counts, config.size_exponent)
        omegas = [weights.get(f"{name}.attention.{omega}") if reached else None for omega in ("omega1", "omega2")]
        omega1, omega2 = (torch.zeros(heads) if omega is None else omega for omega in omegas)
        outputs = [
            reweighted(maps[head], float(omega1[head]), float(omega2[head]), len(dc_counts)) @ value[head]
            for head in range(heads)
        ]
        hidden = hidden + weights.linear(f"{name}.attention.o_proj", torch.cat(outputs, dim=1))
        if layer in steps:
            keep, new_windows = steps[layer]
            compared = features(key.mean(dim=0), hidden)
            if config.selection == "random":
                scores = [random_scores(layer)[position] for position in positions]
            elif config.selection == "high_frequency_energy":
                scores = energy_scores(maps, value, compared, 1, len(positions))
            else:
                scores = selection_scores(config.selection, maps, hidden)[1 : 1 + len(positions)]
            embeddings = weights.get(f"{name}.reduction.dc_position_embeddings")
            if joins:
                hidden, positions, sizes, standing = reduce_similar(
                    hidden, scores, positions, sizes, 1, keep, compared, standing
                )
                all_sources.append([1 + place for place in standing])
            else:
                hidden, positions, dc_counts = reduce(
                    hidden, scores, positions, dc_counts, grid, 1, dc_windows, keep, new_windows, embeddings
                )
                dc_windows = new_windows
                all_sources.append(sources(grid, 1, positions, new_windows))
            kept_positions.append(positions)
            all_counts.append(dc_counts)
        inner = weights.linear(f"{name}.mlp.fc1", weights.norm(f"{name}.layernorm_after", hidden, eps))
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        hidden = hidden + weights.linear(f"{name}.mlp.fc2", inner)
        hidden_states.append(hidden)
    logits = weights.linear("classifier", weights.norm("vit.layernorm", hidden, eps)[:1])[0]
    return logits, hidden_states, kept_positions, all_counts, all_sources


@torch.no_grad()
def reference_forward(model, pixel_values, random_scores=None):
    """The whole classifier with explicit maps, in float64.

    Args:
        model: a FATRViTForImageClassification.
        pixel_values: (batch, channels, height, width).
        random_scores: layer -> score of every patch of the grid, for the selection ``random``, whose order is free.

    Returns:
        ``logits`` (batch, labels), ``hidden_states`` (a tensor for the embeddings and for every layer), and
        ``positions``, ``dc_counts`` and ``sources``: for every reduction a list over images.
    """
    config = model.config
    count = len(config.reduction_layers)
    ratios, dc_windows = (
        value if isinstance(value, list) else [value] * count for value in (config.keep_ratio, config.dc_windows)
    )
    grid = (pixel_values.shape[2] // config.patch_size, pixel_values.shape[3] // config.patch_size)
    steps = plan(grid, config.reduction_layers, ratios, dc_windows, multiple=config.token_multiple)
    images = [
        forward_image(Weights(model), config, steps, grid, image, random_scores) for image in pixel_values.double()
    ]
    logits, hidden_states, positions, dc_counts, found_sources = zip(*images, strict=True)
    return {
        "logits": torch.stack(logits),
        "hidden_states": [torch.stack(states) for states in zip(*hidden_states, strict=True)],
        "positions": [list(kept) for kept in zip(*positions, strict=True)],
        "dc_counts": [list(counts) for counts in zip(*dc_counts, strict=True)],
        "sources": [list(each) for each in zip(*found_sources, strict=True)],
    }
