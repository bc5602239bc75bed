"""mlpkit: multilayer perceptrons, one or a thousand at once, on any array library.

>>> import mlpkit
>>> net = mlpkit.MLP([784, 256, 128, 10])
>>> net.n_parameters
235146

The public names stand in `__init__.pyi`, each with the module that it is imported from when it is
first asked for.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
