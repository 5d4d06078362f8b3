"""Contrastive losses on the embeddings of texts."""

import torch
from torch import nn


def equal_rows(ids):
    """Which rows of ids, shape `(batch, length)`, are equal to which, shape `(batch, batch)`."""
    which = ids.unique(dim=0, return_inverse=True)[1]
    return which == which[:, None]


def multiple_negatives_loss(first, second, scale=20.0, same=None):
    """Cross-entropy of finding each text's second view among all of the batch, by the cosine of their embeddings.

    The batch is what is given: accumulated passes and other ranks add nothing to find it among.

    Source: Henderson et al. 2017, "Efficient natural language response suggestion for smart reply", section 4.4, with cosines as
    sentence-transformers has them.

    Args:
        first, second (`torch.Tensor` of shape `(batch, size)`): embeddings of two views of each text.
        scale (`float`, defaults to 20): factor of the cosines.
        same (`torch.BoolTensor` of shape `(batch, batch)`, *optional*): texts that are equal, and so not to be told apart.

    Returns:
        `torch.FloatTensor` of shape `()`: in nats a text, in float32.
    """
    with torch.autocast(first.device.type, enabled=False):  # whose products would be of its precision
        first, second = (nn.functional.normalize(views.float(), dim=-1) for views in (first, second))
        scores = scale * (first @ second.T)
        own = torch.arange(len(first), device=first.device)
        if same is not None:
            scores = scores.masked_fill(same & (own != own[:, None]), float("-inf"))
        return nn.functional.cross_entropy(scores, own)
