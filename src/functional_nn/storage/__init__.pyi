from .checkpoint_folder import Restored as Restored
from .checkpoint_folder import restore_checkpoint as restore_checkpoint
from .checkpoint_folder import save_checkpoint as save_checkpoint
from .parameters import load_parameters as load_parameters
from .parameters import save_parameters as save_parameters
