"""The layers of any family once more, slowly: float64, one image at a time, explicit maps.

What a token is made of is carried along as the weights of the patches in it, reduced like the tokens themselves; rotary
positions and read-outs follow from these, not from the layout that the package passes on.
"""

import math

import torch
from reference import (
    Weights,
    attention_maps,
    energy_scores,
    features,
    plan,
    reduce,
    reduce_similar,
    reweighted,
    selection_scores,
)
from transformers.activations import ACT2FN


def linear(weights, name, tokens):
    bias = weights.get(f"{name}.bias")
    product = tokens @ weights.get(f"{name}.weight").T
    return product if bias is None else product + bias


def rotated(tokens, angles, neighbours=False):
    """Tokens (heads, N, head_dim) turned by the mean cosines and sines of their patches; prefix tokens have none."""
    cosines, sines = angles
    half = tokens.shape[2] // 2
    prefix = tokens.shape[1] - len(cosines)
    turned = []
    for place in range(tokens.shape[1]):
        token = tokens[:, place]
        if place >= prefix:
            crossed = torch.cat([-token[:, half:], token[:, :half]], dim=1)
            if neighbours:
                for channel in range(0, 2 * half, 2):
                    crossed[:, channel], crossed[:, channel + 1] = -token[:, channel + 1], token[:, channel]
            token = token * cosines[place - prefix] + crossed * sines[place - prefix]
        turned.append(token)
    return torch.stack(turned, dim=1)


def added_behind(layer, config, weights, members):
    """What YOLOS' tokens get behind a layer: the mean of the rows of the patches that they are made of."""
    tables = weights.get("mid_position_embeddings")
    if tables is None or layer == config.num_hidden_layers - 1:
        return 0.0
    lengths = [1, members.shape[1], config.num_detection_tokens]
    first, patches, detection = tables[layer, 0].split(lengths)
    return torch.cat([first, detection, members[config.num_prefix_tokens :] @ patches])


def encode_image(model, weights, hidden, rotary, steps, grid, joining=None):
    """What leaves the last layer (tokens, hidden), and the weights of the patches in every token (tokens, patches)."""
    config, spec = model.config, model.config.encoder_spec
    prefix, patches = config.num_prefix_tokens, math.prod(grid)
    heads, scaling = spec.num_heads, (spec.hidden_size // spec.num_heads) ** -0.5
    members = torch.cat([torch.zeros(prefix, patches), torch.eye(patches)]).double()
    positions, counts, windows, reached = list(range(patches)), [], 0, False
    sizes, joins = [1] * patches, config.fold == "similar"
    for layer in range(config.num_hidden_layers):
        if joining is not None and layer == config.num_hidden_layers - config.num_blocks:
            hidden = torch.cat([joining, hidden])
            members = torch.cat([members.new_zeros(len(joining), patches), members])
            prefix += len(joining)
        name, reached = f"layers.{layer}", reached or layer in steps
        normed = weights.norm(f"{name}.layernorm_before", hidden, spec.layer_norm_eps)
        query, key, value = (
            torch.stack(linear(weights, f"{name}.attention.{part}_proj", normed).chunk(heads, dim=1)) for part in "qkv"
        )
        keys = key.mean(dim=0)
        if rotary is not None:
            angles = [members[prefix:] @ table for table in rotary]
            query, key = (rotated(each, angles, spec.rotates_neighbours) for each in (query, key))
        maps = attention_maps(query, key, scaling, sizes if joins else counts, config.size_exponent)
        omegas = [weights.get(f"{name}.attention.{omega}") if reached else None for omega in ("omega1", "omega2")]
        omega1, omega2 = (torch.zeros(heads) if omega is None else omega for omega in omegas)
        outputs = [
            reweighted(maps[head], float(omega1[head]), float(omega2[head]), len(counts)) @ value[head]
            for head in range(heads)
        ]
        scales = [weights.get(f"{name}.layer_scale{number}.lambda1") for number in (1, 2)]
        first, second = (1.0 if scale is None else scale for scale in scales)
        hidden = hidden + first * linear(weights, f"{name}.attention.o_proj", torch.cat(outputs, dim=1))
        if layer in steps:
            keep, new_windows = steps[layer]
            compared = features(keys, hidden)
            if config.selection == "high_frequency_energy":
                scores = energy_scores(maps, value, compared, prefix, len(positions))
            else:
                scores = selection_scores(config.selection, maps, hidden)[prefix : prefix + len(positions)]
            embeddings = weights.get(f"{name}.reduction.dc_position_embeddings")
            shape = (scores, positions, counts, grid, prefix, windows, keep, new_windows)
            if joins:
                shape = (scores, positions, sizes, prefix, keep, compared, [])
                members, _, _, _ = reduce_similar(members, *shape)
                hidden, positions, sizes, _ = reduce_similar(hidden, *shape)
            else:
                members, _, _ = reduce(members, *shape)
                hidden, positions, counts = reduce(hidden, *shape, embeddings)
                windows = new_windows
        normed = weights.norm(f"{name}.layernorm_after", hidden, spec.layer_norm_eps)
        inner, activation = linear(weights, f"{name}.mlp.fc1", normed), ACT2FN[spec.activation]
        inner = activation(linear(weights, f"{name}.mlp.gate", normed)) * inner if spec.gated else activation(inner)
        hidden = hidden + second * linear(weights, f"{name}.mlp.fc2", inner)
        hidden = hidden + added_behind(layer, config, weights, members)
    return hidden, members


def grid_of(model, pixel_values):
    """Patches along each axis of images, or of videos of the test models."""
    *frames, height, width = (*pixel_values.shape[1:-3], *pixel_values.shape[-2:])
    side = getattr(model.config, "patch_size", 8)
    rows, columns = side if isinstance(side, (list, tuple)) else (side, side)
    return (*(count // 2 for count in frames), height // rows, width // columns)


@torch.no_grad()
def reference_encode(model, pixel_values):
    """``encode_image`` for every image of a batch, of a FATR encoder in float64."""
    config = model.config
    count = len(config.reduction_layers)
    ratios, windows = (
        value if isinstance(value, list) else [value] * count for value in (config.keep_ratio, config.dc_windows)
    )
    grid = grid_of(model, pixel_values)
    steps = plan(grid, config.reduction_layers, ratios, windows, prefix=config.num_prefix_tokens)
    embedded, rotary, weights = model.embed(pixel_values), model.rotary(pixel_values), Weights(model)
    joining = weights.get("query.weight")
    results = [encode_image(model, weights, image, rotary, steps, grid, joining) for image in embedded]
    hidden, members = (torch.stack(each) for each in zip(*results, strict=True))
    return given_back(config, hidden), members


def given_back(config, hidden):
    """A sequence (batch, tokens, hidden) as the model gives it back: YOLOS' detection tokens are the last."""
    count = getattr(config, "num_detection_tokens", 0)
    return torch.cat([hidden[:, :1], hidden[:, 1 + count :], hidden[:, 1 : 1 + count]], dim=1)
