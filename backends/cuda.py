"""The kernels on CuPy."""

from mlpkit.backends.base import Array, Backend


class BackendUnavailableError(RuntimeError):
    """A backend that cannot be used here; the message says why and what to install."""


class CuPyBackend(Backend):
    """CuPy on the current CUDA device.  The kernels run as written in `Backend`."""

    def __init__(self) -> None:
        try:
            import array_api_compat.cupy as xp
            import cupy
        except ImportError as error:
            raise BackendUnavailableError(
                f"backend 'cupy' needs CuPy, which cannot be imported ({error}). Install it with "
                "pip install 'mlpkit[cuda12]' or 'mlpkit[cuda13]', as your CUDA driver allows, "
                "or use backend='numpy'"
            ) from error
        try:
            cupy.cuda.runtime.getDevice()
            super().__init__(xp, "cupy")  # compiles and runs a few kernels
        except Exception as error:  # of the driver, the compiler or the memory: CuPy has many
            raise BackendUnavailableError(
                f"backend 'cupy' found no CUDA GPU that works ({error}). CuPy {cupy.__version__} "
                "is installed; check the driver with nvidia-smi, install the extra for your CUDA "
                "version (pip install 'mlpkit[cuda12]' or 'mlpkit[cuda13]'), "
                "or use backend='numpy'"
            ) from error

    def to_numpy(self, array: Array) -> Array:
        return array.get()

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()
