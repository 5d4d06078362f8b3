"""Contrastive losses on the embeddings of texts."""

import torch
from torch import nn


def multiple_negatives_loss(first, second, scale=20.0):
    """Cross-entropy of finding each text's second view among all of the batch, by the cosine of their embeddings.

    Source: Henderson et al. 2017, "Efficient natural language response suggestion for smart reply", section 4.4, with cosines as
    sentence-transformers has them.

    Args:
        first, second (`torch.Tensor` of shape `(batch, size)`): embeddings of two views of each text.
        scale (`float`, defaults to 20): factor of the cosines.

    Returns:
        `torch.FloatTensor` of shape `()`: in nats a text, in float32.
    """
    first, second = (nn.functional.normalize(views.float(), dim=-1) for views in (first, second))
    return nn.functional.cross_entropy(scale * first @ second.T, torch.arange(len(first), device=first.device))
