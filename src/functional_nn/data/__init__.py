"""Data sets: loading by name, the IDX file format, the checks."""

from functional_nn.data.dataset import Dataset, make_dataset
from functional_nn.data.idx import read_idx, write_idx
from functional_nn.data.sources import dataset_names, load_dataset

__all__ = ["Dataset", "dataset_names", "load_dataset", "make_dataset", "read_idx", "write_idx"]
