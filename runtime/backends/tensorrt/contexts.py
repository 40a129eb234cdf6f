"""Create execution contexts without activation memory; with TensorRT-RTX, store compiled kernels between processes."""

import logging
from typing import Any

from internvl_edge.runtime.backends.tensorrt.plans.failures import refusal
from internvl_edge.runtime.backends.tensorrt.plans.library import Library
from internvl_edge.runtime.backends.tensorrt.plans.plan import Plan
from internvl_edge.runtime.cache_folder import cache_folder
from internvl_edge.runtime.replace_file import replace_file

logger = logging.getLogger(__name__)


class ContextFactory:
    """A factory of the execution contexts of one plan.

    TensorRT-RTX compiles kernels on the device. They are compiled for each shape before it runs and stored in a file,
    since shapes recur. A graph whose past grows with every step (`growing`) runs with kernels for all shapes.
    """

    def __init__(self, library: Library, plan: Plan, graph: str, sm: int, *, growing: bool) -> None:
        self._library, self._plan, self._graph = library, plan, graph
        self._config: Any = None
        self._cache: Any = None
        self._kept_bytes = 0
        if hasattr(library.trt, "IRuntimeCache"):
            self._file = cache_folder() / f"{library.version}-sm{sm}-{plan.record.sha256[:16]}.cache"
            self._configure(growing)

    def new(self) -> Any:
        """Return a new context without activation memory.

        Raises:
            BackendError: TensorRT cannot create it.
        """
        self._library.errors.clear()
        if self._config is None:
            strategy = self._library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._plan.engine.create_execution_context(strategy)
        else:
            context = self._plan.engine.create_execution_context(self._config)
        if context is None:
            remedy = "close other programs on the device, or build the plans again"
            raise refusal(self._graph, f"makes no context of {self._plan.record.file}", self._library, remedy)
        return context

    def keep_kernels(self) -> None:
        """Store all compiled kernels in the user's cache for the next process, if there are new ones."""
        if self._cache is None:
            return
        content = memoryview(self._cache.serialize())
        if content.nbytes == self._kept_bytes:
            return
        try:
            replace_file(self._file, content)
        except OSError as error:
            logger.info("graph %s: compiled kernels are not kept (%s)", self._graph, error)
        self._kept_bytes = content.nbytes

    def _configure(self, growing: bool) -> None:
        trt = self._library.trt
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        self._config = self._plan.engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._config.dynamic_shapes_kernel_specialization_strategy = strategies.NONE if growing else strategies.EAGER
        self._cache = self._config.create_runtime_cache()
        if self._file.is_file() and self._cache.deserialize(self._file.read_bytes()):
            self._kept_bytes = self._file.stat().st_size
        self._config.set_runtime_cache(self._cache)
