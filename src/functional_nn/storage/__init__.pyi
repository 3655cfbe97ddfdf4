from .arrays import load_parameters as load_parameters
from .arrays import save_parameters as save_parameters
from .checkpoints import Restored as Restored
from .checkpoints import restore_checkpoint as restore_checkpoint
from .checkpoints import save_checkpoint as save_checkpoint
