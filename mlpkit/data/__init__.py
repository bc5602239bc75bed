"""Data sets: the IDX file format, MNIST, and drawn digits that need no download."""

from mlpkit.data.digits import digits as digits
from mlpkit.data.idx import read_idx as read_idx
from mlpkit.data.mnist import DatasetUnavailableError as DatasetUnavailableError
from mlpkit.data.mnist import mnist as mnist
