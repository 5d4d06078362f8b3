"""Rotary positions and the plain attention that every fused kernel is compared with."""

from functools import lru_cache

import torch


def rotary_table(positions, head_dim, theta=10000.0, dtype=torch.float32):
    """Cosines and sines of the angles by which rotary embedding turns each position.

    Source: Su et al. 2021, "RoFormer", section 3.2; computed in float32 whatever `dtype` is.

    Args:
        positions (`torch.Tensor` of shape `(batch, length)`): positions, whole or fractional.
        head_dim (`int`): even width of a head.
        theta (`float`, defaults to 10000): base of the wavelengths.
        dtype (`torch.dtype`): of the result.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`, each of shape `(batch, 1, length, head_dim)`, to broadcast over heads.
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, None, :, None].float() * theta**-exponent
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


@lru_cache(maxsize=16)
def whole_rotary_table(length, head_dim, theta):
    """[`rotary_table`] of the places from 0 to `length - 1`, kept; each of shape `(length, head_dim)`, on the CPU."""
    with torch.inference_mode(False), torch.no_grad():
        place = torch.arange(length, device="cpu")[None]
        return tuple(part[0, 0] for part in rotary_table(place, head_dim, theta))


def can_be_read(tensor):
    """Whether a tensor's numbers cost nothing to look at: on a CPU, outside of a compiler."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


KEPT_PLACES = 1 << 16


def rotary_rows(places, head_dim, theta=10000.0):
    """[`rotary_table`] of one place a row, looked up where that is faster.

    Args:
        places (`torch.LongTensor` of shape `(batch,)`), head_dim (`int`), theta (`float`): as of [`rotary_table`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`, each of shape `(batch, 1, 1, head_dim)`.
    """
    if not can_be_read(places) or int(places.max()) >= KEPT_PLACES:
        return rotary_table(places[:, None], head_dim, theta)
    length = max(1 << int(places.max()).bit_length(), 1024)
    cosine, sine = whole_rotary_table(length, head_dim, theta)
    return cosine[places][:, None, None], sine[places][:, None, None]


def apply_rotary(states, table):
    """Turn the states of every head by the angles of their positions.

    Args:
        states (`torch.Tensor` of shape `(batch, heads, length, head_dim)`).
        table (`tuple`): what [`rotary_table`] returns.

    Returns:
        `torch.Tensor` of the shape and dtype of `states`.
    """
    cosine, sine = table
    first, second = states.chunk(2, dim=-1)
    return states * cosine.to(states.dtype) + torch.cat((-second, first), dim=-1) * sine.to(states.dtype)


# Keys up to which attention written out trains faster on a CPU, in bfloat16, than torch's fused kernel, whose backward pass is
# slow there: 3 to 5 times up to 256 keys, 1.8 times at 512, equal at 1,024.
WRITTEN_OUT_KEYS = 512


def attention_implementation(implementation, module, query, key, attention_mask):
    """The implementation to use in place of the configured one: the same result sooner.

    Args:
        implementation (`str`): the configured one.
        module (`nn.Module`): read for `is_causal`, which holds where there is no mask.
        query, key, attention_mask (`torch.Tensor`): as of [`eager_attention_forward`].

    Returns:
        `str`: `"eager"` instead of `"sdpa"` where that trains faster, else the configured one.
    """
    written_out = (
        implementation == "sdpa"
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.requires_grad
        and key.shape[-2] <= WRITTEN_OUT_KEYS
        and (attention_mask is not None or not module.is_causal)
    )
    return "eager" if written_out else implementation


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out, with the weights returned; the reference of the fused kernels.

    Args:
        module (`nn.Module`): read for `num_key_value_groups` and `training`.
        query (`torch.Tensor` of shape `(batch, heads, queries, head_dim)`).
        key, value (`torch.Tensor` of shape `(batch, key_value_heads, keys, head_dim)`).
        attention_mask (`torch.Tensor`, *optional*): additive or boolean, broadcastable to
            `(batch, heads, queries, keys)`.
        scaling (`float`): factor of the scores.
        dropout (`float`, defaults to 0): rate on the weights while training.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: output `(batch, queries, heads, head_dim)` and weights
        `(batch, heads, queries, keys)`.
    """
    if module.num_key_value_groups > 1:
        key = key.repeat_interleave(module.num_key_value_groups, dim=1)
        value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = scores.softmax(dim=-1)  # sums in float32 whatever the dtype
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def blocked_window_attention(attend, query, key, value, window):
    """Causal attention of each place to itself and the `window - 1` places before it, in blocks that see themselves and the one
    before: as many products as two windows have, however long the text is.

    Args:
        attend (callable): `(query, key, value, mask)`, the mask boolean, to an output of shape `(n, queries, heads, head_dim)`.
        query, key, value (`torch.Tensor` of shape `(batch, heads, length, head_dim)`).
        window (`int`).

    Returns:
        `torch.Tensor` of shape `(batch, length, heads, head_dim)`.
    """
    batch, heads, length, head_dim = query.shape
    if length <= window:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        return attend(query, key, value, mask.expand(batch, 1, length, length))
    blocks = -(-length // window)

    def blocked(values):
        values = torch.nn.functional.pad(values, (0, 0, 0, blocks * window - length))
        return values.view(batch, heads, blocks, window, head_dim).transpose(1, 2)

    def with_previous(values):
        own = blocked(values)
        previous = torch.nn.functional.pad(own, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
        return torch.cat((previous, own), 3).flatten(0, 1)

    place = torch.arange(2 * window, device=query.device)
    distance = place[window:, None] - place[None]
    mask = ((distance >= 0) & (distance < window)).repeat(blocks, 1, 1)
    mask[0, :, :window] = False  # there is no block before the first
    mask = mask.repeat(batch, 1, 1).unsqueeze(1)
    output = attend(blocked(query).flatten(0, 1), with_previous(key), with_previous(value), mask)
    return output.reshape(batch, blocks * window, heads, head_dim)[:, :length]
