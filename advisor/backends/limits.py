"""Failures that the logs of all programs show alike where the system gives no more: memory, addresses, threads."""

from __future__ import annotations

from typing import Final

from advisor.backends.diagnose import Known, first, known
from advisor.facts.results import Finding

THREAD_LIMIT: Final = "thread-limit"
# glibc says EAGAIN both where a limit of processes is met and where the stack of a thread finds no addresses.
THREADS: Final = known(
    r"libgomp: Thread creation failed|OMP: Error #\d+: (Can't|Cannot) (create|initialize) .{0,40}thread|"
    r"can't start new thread|pthread_create.{0,60}(failed|Resource temporarily unavailable|EAGAIN)|"
    r"(failed|unable|cannot) to (create|start|spawn) .{0,20}thread|"
    r"(what\(\)|system_error|fork).{0,60}Resource temporarily unavailable",
    THREAD_LIMIT,
    "The system refused another thread or process: {0}",
    "advisor doctor",
)
FAILURES: Final[tuple[Known, ...]] = (
    THREADS,
    # Of a tool that reads files alone; a server's sockets may say the same and be well.
    known(r"BlockingIOError.{0,60}Resource temporarily unavailable", THREAD_LIMIT, THREADS.message, THREADS.remedy),
    known(
        r"(CUDA|HIP|MPS backend) out of memory|cudaMalloc failed: out of memory|torch\.OutOfMemoryError|"
        r"cudaErrorMemoryAllocation|ErrorOutOfDeviceMemory|Device memory allocation of size \d+ failed|"
        r"(failed|unable) to allocate (CUDA|ROCm|Vulkan|Metal|MTL|SYCL)\d* buffer",
        "device-out-of-memory",
        "The device has too little memory: {0}",
        "advisor doctor",
    ),
    known(
        r"std::bad_alloc|Cannot allocate memory|\bMemoryError\b|DefaultCPUAllocator: (can't|not enough)|"
        r"(failed|unable) to allocate \S+ buffer|ggml_aligned_malloc: insufficient|failed to mmap|"
        r"GGML_ASSERT\(ctx->mem_buffer|The step ran out of memory|memory allocation of \d+ bytes failed|"
        r"Unable to allocate .{0,40} for an array with shape",
        "out-of-memory",
        "There was not enough memory: {0}",
        "advisor doctor",
    ),
)


class _System:
    """Reads what any program says of a lack."""

    def diagnose(self, log_tail: str) -> Finding | None:
        """The lack that a log tail shows; ``None`` where it shows none."""
        return first(FAILURES, log_tail)


SYSTEM: Final = _System()
