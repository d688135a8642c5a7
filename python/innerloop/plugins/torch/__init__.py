"""innerloop inside PyTorch: operators, modules, optimizers; `accelerate` for models at hand."""

from . import modules as modules
from . import ops as ops
from .accelerate import Report as Report
from .accelerate import accelerate as accelerate
from .accelerate import restore as restore
from .optimizers import SGD as SGD
from .optimizers import Adadelta as Adadelta
from .optimizers import Adagrad as Adagrad
from .optimizers import Adam as Adam
from .optimizers import Adamax as Adamax
from .optimizers import AdamW as AdamW
from .optimizers import Lion as Lion
from .optimizers import NAdam as NAdam
from .optimizers import RAdam as RAdam
from .optimizers import RMSprop as RMSprop

__all__ = [
    *("Report", "accelerate", "modules", "ops", "restore"),
    *("SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop"),
]
