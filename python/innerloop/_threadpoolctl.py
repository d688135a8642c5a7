"""Makes the thread pool known to threadpoolctl, where that is installed."""

from __future__ import annotations

import threadpoolctl


class InnerloopController(threadpoolctl.LibController):
    """The library's own pool, found by the C symbols that ``innerloop._core`` exports."""

    user_api = "innerloop"
    internal_api = "innerloop"
    filename_prefixes = ("_core",)
    check_symbols = ("innerloop_get_num_threads", "innerloop_set_num_threads")

    def get_num_threads(self) -> int:
        return self.dynlib.innerloop_get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        self.dynlib.innerloop_set_num_threads(num_threads)

    def get_version(self) -> str:
        from . import __version__

        return __version__


threadpoolctl.register(InnerloopController)
