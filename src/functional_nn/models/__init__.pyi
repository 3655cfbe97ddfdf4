from .blocks import residual_block as residual_block
from .blocks import transformer_block as transformer_block
from .language_model import LanguageModel as LanguageModel
from .language_model import language_model as language_model
from .named_models import MODELS as MODELS
from .named_models import cnn as cnn
from .named_models import deep_cnn as deep_cnn
from .named_models import lenet as lenet
from .named_models import mlp as mlp
from .named_models import resnet as resnet
from .named_models import transformer as transformer

FASTER_BY_FORMULA: tuple[str, ...]
