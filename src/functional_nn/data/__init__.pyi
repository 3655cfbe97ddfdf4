from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .dataset import make_dataset as make_dataset
from .idx import read_idx as read_idx
from .idx import write_idx as write_idx
from .preparation import scaled_bytes as scaled_bytes
from .sources import dataset_names as dataset_names
from .stream import Stream as Stream
