"""The rivals once more, slowly: float64, one image at a time, explicit maps, tokens chosen and merged in loops.

Written from the papers (EViT arXiv 2202.07800, ToMe 2210.09461, PiToMe 2405.16148, DiffRate 2305.17997, MCTF
2403.10030, Zero-TPrune 2305.17328); no function of the package is called. Every forward takes a rival's weights and a
``reduce`` that is told the layer, the residual stream, the maps and the keys.
"""

import math

import torch
from family_reference import added_behind, given_back, rotated
from family_reference import linear as project
from reference import Weights
from transformers.activations import ACT2FN


def split(tokens, heads):
    """(tokens, hidden) as a list of (tokens, head_dim), one for each head."""
    return list(tokens.chunk(heads, dim=1))


def forward_image(model, image, reduce, sizes_count=False):
    """Logits of one image (channels, height, width).

    Args:
        reduce: (layer, tokens, maps, keys, sizes) -> (tokens, sizes); maps and keys are lists over heads, sizes a
            list of the patches behind every token.
        sizes_count: whether logits towards a token are raised by the logarithm of its size.
    """
    weights = {name: weight.detach().double() for name, weight in model.model.state_dict().items()}
    config = model.config.encoder

    def linear(name, tokens):
        return tokens @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, tokens):
        centred = tokens - tokens.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred / (variance + config.layer_norm_eps).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    size, heads = config.patch_size, config.num_attention_heads
    kernel = weights["vit.embeddings.patch_embeddings.projection.weight"].flatten(1)
    bias = weights["vit.embeddings.patch_embeddings.projection.bias"]
    tokens = [weights["vit.embeddings.cls_token"][0, 0]]
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            patch = image[:, top : top + size, left : left + size].double()
            tokens.append(kernel @ patch.flatten() + bias)
    tokens = torch.stack(tokens) + weights["vit.embeddings.position_embeddings"][0]
    sizes = [1] * len(tokens)
    for layer in range(config.num_hidden_layers):
        name = f"vit.layers.{layer}"
        normed = norm(f"{name}.layernorm_before", tokens)
        queries, keys, values = (split(linear(f"{name}.attention.{part}_proj", normed), heads) for part in "qkv")
        maps, outputs = [], []
        for query, key, value in zip(queries, keys, values, strict=True):
            logits = query @ key.T / math.sqrt(query.shape[1])
            if sizes_count:
                logits = logits + torch.tensor(sizes, dtype=torch.float64).log()
            maps.append(logits.softmax(dim=1))
            outputs.append(maps[-1] @ value)
        tokens = tokens + linear(f"{name}.attention.o_proj", torch.cat(outputs, dim=1))
        tokens, sizes = reduce(layer, tokens, maps, keys, sizes)
        inner = linear(f"{name}.mlp.fc1", norm(f"{name}.layernorm_after", tokens))
        tokens = tokens + linear(f"{name}.mlp.fc2", inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)
    return linear("classifier", norm("vit.layernorm", tokens)[:1])[0]


def reference_logits(model, pixel_values, reduce, sizes_count=False):
    return torch.stack([forward_image(model, image, reduce, sizes_count) for image in pixel_values])


def truncate(tokens_out):
    def reduce(layer, tokens, maps, keys, sizes):
        return torch.stack([tokens[place] for place in range(tokens_out[layer])]), sizes

    return reduce


def reorganize(keep_ratios, fuse=True, prefix=1):
    """EViT; ``keep_ratios`` maps layers to ratios given as (numerator, denominator)."""

    def reduce(layer, tokens, maps, keys, sizes):
        if layer not in keep_ratios:
            return tokens, sizes
        numerator, denominator = keep_ratios[layer]
        candidates = range(prefix, len(tokens))
        attention = {place: sum(float(head[0, place]) for head in maps) / len(maps) for place in candidates}
        kept_count = -(-len(candidates) * numerator // denominator)
        ranked = sorted(candidates, key=lambda place: -attention[place])
        new = [*tokens[:prefix], *(tokens[place] for place in sorted(ranked[:kept_count]))]
        if fuse:
            new.append(sum(attention[place] * tokens[place] for place in ranked[kept_count:]))
        return torch.stack(new), sizes

    return reduce


def merge(merges_per_layer, prefix=1):
    """ToMe; the number of merges in every layer. Without any the order of the tokens stays, too."""

    def reduce(layer, tokens, maps, keys, sizes):
        if not merges_per_layer[layer]:
            return tokens, sizes
        mean_keys = sum(keys) / len(keys)
        set_a, set_b = list(range(prefix + 1, len(tokens), 2)), list(range(prefix, len(tokens), 2))
        edges = []
        for source in set_a:
            cosines = [
                float(mean_keys[source] @ mean_keys[target] / mean_keys[source].norm() / mean_keys[target].norm())
                for target in set_b
            ]
            edges.append((max(cosines), source, set_b[cosines.index(max(cosines))]))
        edges.sort(key=lambda edge: -edge[0])
        groups = {target: [target] for target in set_b}
        for _, source, target in edges[: merges_per_layer[layer]]:
            groups[target].append(source)
            set_a.remove(source)
        set_a = [*range(prefix), *set_a]
        new = [tokens[place] for place in set_a]
        new_sizes = [sizes[place] for place in set_a]
        for target in set_b:
            total = sum(sizes[place] for place in groups[target])
            new.append(sum(sizes[place] * tokens[place] for place in groups[target]) / total)
            new_sizes.append(total)
        return torch.stack(new), new_sizes

    return reduce


def cosine(one, other):
    return float(one @ other / one.norm() / other.norm())


def joined(tokens, sizes, prefix, left, joins):
    """Tokens ``left`` in order, each with those that ``joins`` maps to it, as means weighted by size."""
    new, new_sizes = list(tokens[:prefix]), list(sizes[:prefix])
    for place in left:
        members = [place, *(source for source, target in joins.items() if target == place)]
        total = sum(sizes[member] for member in members)
        new.append(sum(sizes[member] * tokens[member] for member in members) / total)
        new_sizes.append(total)
    return torch.stack(new), new_sizes


def merge_redundant(counts, depth, prefix=1):
    """PiToMe; the patch tokens that leave every layer."""

    def reduce(layer, tokens, maps, keys, sizes):
        mean_keys, places = sum(keys) / len(keys), list(range(prefix, len(tokens)))
        merges, margin = len(places) - counts[layer], 0.75 * (1 - layer / depth)
        alike = {one: {other: cosine(mean_keys[one], mean_keys[other]) for other in places} for one in places}
        energies = {}
        for place in places:
            shifted = [value - margin for value in alike[place].values()]
            energies[place] = sum(value if value > 0 else math.exp(value) - 1 for value in shifted) / len(places)
        order = sorted(places, key=lambda place: -energies[place])
        if layer >= depth / 2:
            order = order[: 2 * merges]
        targets, edges = order[1::2], []
        for source in order[::2]:
            nearest = max(targets, key=lambda target: alike[source][target]) if targets else None
            edges.append((alike[source].get(nearest, 0), source, nearest))
        edges.sort(key=lambda edge: -edge[0])
        joins = {source: target for _, source, target in edges[:merges]}
        return joined(tokens, sizes, prefix, [place for place in places if place not in joins], joins)

    return reduce


def prune_and_merge(steps, channels, prefix=1):
    """Prune, then merge; ``steps`` are the (kept, pruned) patch tokens of every layer.

    Args:
        channels: of the tokens that likeness goes by; what follows are the patches that they are made of.
    """

    def reduce(layer, tokens, maps, keys, sizes):
        keep, pruned = steps[layer]
        places = list(range(prefix, len(tokens)))
        order = sorted(places, key=lambda place: -sum(float(head[0, place]) for head in maps))
        kept = sorted(order[:keep])
        joins = {}
        for source in order[keep : len(order) - pruned]:
            joins[source] = max(kept, key=lambda target: cosine(tokens[source][:channels], tokens[target][:channels]))
        return joined(tokens, sizes, prefix, kept, joins)

    return reduce


def fuse_by_criteria(merges_per_layer, channels, temperatures=(1, 20, 40), prefix=1):
    """MCTF; the number of merges in every layer. ``channels`` as for ``prune_and_merge``."""

    def reduce(layer, tokens, maps, keys, sizes):
        count, places = merges_per_layer[layer], range(prefix, len(tokens))
        if not count:
            return tokens, sizes
        informative = {place: sum(float(head[:, place].mean()) for head in maps) / len(maps) for place in places}
        set_a, set_b = list(places)[1::2], list(places)[::2]
        attraction = {}
        for one in set_a:
            for other in set_b:
                alike = (1 + cosine(tokens[one][:channels], tokens[other][:channels])) / 2
                attended, size = informative[one] * informative[other], sizes[one] * sizes[other]
                value = (
                    alike ** (1 / temperatures[0]) / attended ** (1 / temperatures[1]) / size ** (1 / temperatures[2])
                )
                attraction[one, other] = attraction[other, one] = value

        def edges(sources, targets):
            found = []
            for source in sources:
                nearest = max(targets, key=lambda target: attraction[source, target])
                found.append((attraction[source, nearest], source, nearest))
            return [edge[1:] for edge in sorted(found, key=lambda edge: -edge[0])]

        groups = {place: [place] for place in places}
        for source, target in edges(set_a, set_b)[: count // 2]:
            groups[target] += groups.pop(source)
            set_a.remove(source)
        backward = edges(set_b, set_a)
        for source, target in backward[: count - count // 2]:
            groups[target] += groups.pop(source)
        new, new_sizes = list(tokens[:prefix]), list(sizes[:prefix])
        for place in [*set_a, *(source for source, _ in backward[count - count // 2 :])]:
            weights = {member: informative[member] * sizes[member] for member in groups[place]}
            new.append(sum(weight * tokens[member] for member, weight in weights.items()) / sum(weights.values()))
            new_sizes.append(sum(sizes[member] for member in groups[place]))
        return torch.stack(new), new_sizes

    return reduce


def page_ranks(maps, prefix, places, steps):
    """Zero-TPrune's importance of the patch tokens among some places of the sequence, the prefix in front."""
    heads = []
    for head in maps:
        graph = head[places][:, places].tolist()
        scores = [math.sqrt(len(places)) if prefix and place == 0 else 1.0 for place in places]
        for _ in range(steps):
            votes = [score / sum(row) for score, row in zip(scores, graph, strict=True)]
            scores = [sum(vote * row[k] for vote, row in zip(votes, graph, strict=True)) for k in range(len(places))]
        scores = scores[prefix:]
        mean = sum(scores) / len(scores)
        heads.append((scores, sum((score / mean - 1) ** 2 for score in scores) / len(scores)))
    chosen = [scores for scores, variance in heads if 0.01 <= variance <= 0.7] or [scores for scores, _ in heads]
    joint = [math.sqrt(sum(score**2 for score in each) / len(each)) for each in zip(*chosen, strict=True)]
    return dict(zip(places[prefix:], joint, strict=True))


def prune_ranked(plan, prefix=1):
    """Zero-TPrune; ``plan`` maps layers to (tokens that stay, tokens that go for their likeness, steps)."""

    def reduce(layer, tokens, maps, keys, sizes):
        if layer not in plan:
            return tokens, sizes
        keep, similar, steps = plan[layer]
        places, mean_keys = list(range(len(tokens))), sum(keys) / len(keys)
        importance = page_ranks(maps, prefix, places, 1)
        order = sorted(importance, key=lambda place: -importance[place])
        half = -(-len(order) // 2)
        likeness = {
            one: max(cosine(mean_keys[one], mean_keys[other]) for other in order[:half]) for one in order[half:]
        }
        gone = sorted(likeness, key=lambda place: -likeness[place])[:similar]
        importance = page_ranks(maps, prefix, [place for place in places if place not in gone], steps)
        kept = sorted(sorted(importance, key=lambda place: -importance[place])[:keep])
        return torch.stack([*tokens[:prefix], *(tokens[place] for place in kept)]), sizes[: prefix + keep]

    return reduce


def encode_image(model, weights, hidden, rotary, reduce, sizes_count):
    """What leaves the last layer of a FATR encoder for one image (tokens, hidden), reduced by another method.

    The patches that each token is made of are carried along as further channels of the tokens.

    Args:
        hidden: (tokens, hidden), the embedded image.
        rotary: cosines and sines of every patch, or None.
        reduce, sizes_count: see ``forward_image``.
    """
    config, spec = model.config, model.config.encoder_spec
    prefix, heads = config.num_prefix_tokens, spec.num_heads
    patches = len(hidden) - prefix
    members = torch.cat([torch.zeros(prefix, patches), torch.eye(patches)]).double()
    sizes = [1] * len(hidden)
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        normed = weights.norm(f"{name}.layernorm_before", hidden, spec.layer_norm_eps)
        query, key, value = (
            torch.stack(project(weights, f"{name}.attention.{part}_proj", normed).chunk(heads, dim=1)) for part in "qkv"
        )
        keys = list(key)
        if rotary is not None:
            shares = members[prefix:] / members[prefix:].sum(dim=1, keepdim=True)
            angles = [shares @ table for table in rotary]
            query, key = (rotated(each, angles, spec.rotates_neighbours) for each in (query, key))
        logits = query @ key.transpose(1, 2) * (spec.hidden_size // heads) ** -0.5
        if sizes_count:
            logits = logits + torch.tensor(sizes, dtype=torch.float64).log()
        maps = logits.softmax(dim=2)
        scales = [weights.get(f"{name}.layer_scale{number}.lambda1") for number in (1, 2)]
        first, second = (1.0 if scale is None else scale for scale in scales)
        hidden = hidden + first * project(weights, f"{name}.attention.o_proj", torch.cat(list(maps @ value), dim=1))
        both, sizes = reduce(layer, torch.cat([hidden, members], dim=1), list(maps), keys, sizes)
        hidden, members = both.split([hidden.shape[1], patches], dim=1)
        members = (members > 0).double()
        normed = weights.norm(f"{name}.layernorm_after", hidden, spec.layer_norm_eps)
        inner, activation = project(weights, f"{name}.mlp.fc1", normed), ACT2FN[spec.activation]
        inner = activation(project(weights, f"{name}.mlp.gate", normed)) * inner if spec.gated else activation(inner)
        hidden = hidden + second * project(weights, f"{name}.mlp.fc2", inner)
        shares = members / members.sum(dim=1, keepdim=True).clamp(min=1)
        hidden = hidden + added_behind(layer, config, weights, shares)
    return hidden


@torch.no_grad()
def reference_states(model, pixel_values, reduce, sizes_count=False):
    """``encode_image`` for every image of a batch, of a FATR encoder in float64."""
    embedded, rotary, weights = model.embed(pixel_values), model.rotary(pixel_values), Weights(model)
    images = [encode_image(model, weights, image, rotary, reduce, sizes_count) for image in embedded]
    return given_back(model.config, torch.stack(images))
