"""textae: text autoencoders for transformers."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from ._version import __version__
from .models.autoencoder import AutoencoderOutput, TextAutoencoder
from .models.byte_tokenizer import ByteTokenizer
from .models.configuration_abstractinator import AbstractinatorConfig
from .models.configuration_cta import CtaConfig
from .models.configuration_encodzall import EncodzallConfig
from .models.configuration_fsq_autoencoder import FsqAutoencoderConfig
from .models.configuration_mlm_encoder import MlmEncoderConfig
from .models.modeling_abstractinator import (
    AbstractinatorCausalLMOutput,
    AbstractinatorForCausalLM,
    AbstractinatorModel,
    AbstractinatorOutput,
)
from .models.modeling_cta import CtaModel, CtaOutput
from .models.modeling_encodzall import (
    EncodzallForConditionalGeneration,
    EncodzallForPreTraining,
    EncodzallForSentenceEmbedding,
    EncodzallForSequenceClassification,
    EncodzallForTokenClassification,
    EncodzallModel,
    EncodzallModelOutput,
    EncodzallOutput,
)
from .models.modeling_fsq_autoencoder import (
    FsqAutoencoderCausalLMOutput,
    FsqAutoencoderForCausalLM,
    FsqAutoencoderModel,
    FsqAutoencoderOutput,
)
from .models.modeling_mlm_encoder import MlmEncoderForMaskedLM, MlmEncoderModel
from .models.tokenization_abstractinator import AbstractinatorTokenizer
from .models.tokenization_cta import CtaTokenizer
from .models.tokenization_encodzall import EncodzallTokenizer
from .models.tokenization_fsq_autoencoder import AutoEncoderTokenizer
from .models.tokenization_mlm_encoder import MlmEncoderTokenizer

# Which Auto class serves which class of a family; `register` makes both the package and saved checkpoints know it.
FAMILIES = {
    AbstractinatorConfig: {
        AutoTokenizer: AbstractinatorTokenizer,
        AutoModel: AbstractinatorModel,
        AutoModelForPreTraining: AbstractinatorModel,
        AutoModelForCausalLM: AbstractinatorForCausalLM,
    },
    CtaConfig: {AutoTokenizer: CtaTokenizer, AutoModel: CtaModel, AutoModelForPreTraining: CtaModel},
    EncodzallConfig: {
        AutoTokenizer: EncodzallTokenizer,
        AutoModel: EncodzallModel,
        AutoModelForPreTraining: EncodzallForPreTraining,
        AutoModelForSeq2SeqLM: EncodzallForConditionalGeneration,
        AutoModelForSequenceClassification: EncodzallForSequenceClassification,
        AutoModelForTokenClassification: EncodzallForTokenClassification,
    },
    FsqAutoencoderConfig: {
        AutoTokenizer: AutoEncoderTokenizer,
        AutoModel: FsqAutoencoderModel,
        AutoModelForPreTraining: FsqAutoencoderModel,
        AutoModelForCausalLM: FsqAutoencoderForCausalLM,
    },
    MlmEncoderConfig: {
        AutoTokenizer: MlmEncoderTokenizer,
        AutoModel: MlmEncoderModel,
        AutoModelForMaskedLM: MlmEncoderForMaskedLM,
        AutoModelForPreTraining: MlmEncoderForMaskedLM,
    },
}


def register():
    """Register every family with the Auto classes, once; called on import."""
    for config, classes in FAMILIES.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        config.register_for_auto_class()
        for auto, cls in classes.items():
            if auto is AutoTokenizer:
                AutoTokenizer.register(config, tokenizer_class=cls, exist_ok=True)
            else:
                auto.register(config, cls, exist_ok=True)
            cls.register_for_auto_class(auto.__name__)


register()

__all__ = [
    "AbstractinatorCausalLMOutput",
    "AbstractinatorConfig",
    "AbstractinatorForCausalLM",
    "AbstractinatorModel",
    "AbstractinatorOutput",
    "AbstractinatorTokenizer",
    "AutoEncoderTokenizer",
    "AutoencoderOutput",
    "ByteTokenizer",
    "CtaConfig",
    "CtaModel",
    "CtaOutput",
    "CtaTokenizer",
    "EncodzallConfig",
    "EncodzallForConditionalGeneration",
    "EncodzallForPreTraining",
    "EncodzallForSentenceEmbedding",
    "EncodzallForSequenceClassification",
    "EncodzallForTokenClassification",
    "EncodzallModel",
    "EncodzallModelOutput",
    "EncodzallOutput",
    "EncodzallTokenizer",
    "FsqAutoencoderCausalLMOutput",
    "FsqAutoencoderConfig",
    "FsqAutoencoderForCausalLM",
    "FsqAutoencoderModel",
    "FsqAutoencoderOutput",
    "MlmEncoderConfig",
    "MlmEncoderForMaskedLM",
    "MlmEncoderModel",
    "MlmEncoderTokenizer",
    "TextAutoencoder",
    "__version__",
]
