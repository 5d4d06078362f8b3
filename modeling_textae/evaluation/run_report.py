"""What a training run reports at its end, by family."""

from ..models.modeling_encodzall import EncodzallForSentenceEmbedding
from . import codebook, embedding, masked_language, reconstruction, segments, tokens

REPORTS = {
    "abstractinator": segments.run_report,
    "cta": tokens.run_report,
    "encodzall": reconstruction.run_report,
    "fsq_autoencoder": codebook.run_report,
    "mlm_encoder": masked_language.run_report,
}


def run_report(model, tokenizer, passages, **kwargs):
    """Measure a trained model on held-out passages in the way of its family.

    Args:
        model ([`TextAutoencoder`]), tokenizer: as trained.
        passages (`list[str]`).
        kwargs: what the family's report takes besides.

    Returns:
        `tuple[dict, list[str]]`: the figures, and lines to print.
    """
    if isinstance(model, EncodzallForSentenceEmbedding):
        return embedding.run_report(model, tokenizer, passages, **kwargs)
    return REPORTS[model.config.model_type](model, tokenizer, passages, **kwargs)
