"""Quantize a 16-bit GGUF file.

Request: ``{"source", "out", "format": "q4_k_m", "types": {tensor: type}, "by_rows": false, "imatrix": file or null,
"imatrix_name": text, "threads": n, "allow_requantize": false}``.

Without an importance matrix llama.cpp's own ``llama_model_quantize`` (through cyllama) chooses types and writes the
file. With one, or where tensors are to have types of their own (``by_rows``), the rows are quantized by libgguf to the
``types`` that the request names (cyllama can be given neither), and the file is rewritten with all its metadata. Either
way the result is read back: types, finite weights, and the relative error of a sample of rows against the source.

Result: ``{"out", "bytes", "tensors", "types": {tensor: type}, "imatrix_used": n, "imatrix_missing": [...],
"worst": {"tensor", "error"}, "quantizer": "...", "seconds"}``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

SLAB = 4 << 20  # weights at a time: 16 MiB of float32 a thread
SAMPLE_ROWS = 64
MAX_ERROR = 0.6  # relative root mean square error; two-bit rounding stays below 0.45
STEP = re.compile(rb"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
FLOATS = ("f32", "f16", "bf16", "f64")
NAMES = {"mxfp4": "MXFP4_MOE"}  # llama.cpp's names of file types that are called otherwise here


def file_type(fmt: str) -> int:
    """llama.cpp's number of a file type."""
    import gguf

    return int(gguf.LlamaFileType[f"MOSTLY_{NAMES.get(fmt, fmt.upper())}"])


def by_llama_cpp(source: Path, out: Path, fmt: str, threads: int, requantize: bool) -> None:
    """Run ``llama_model_quantize`` in a child process, whose output gives the progress.

    Raises:
        Failed: ``quantizer-failed`` or ``out-of-memory``, with the last lines of its output.
    """
    number = file_type(fmt)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.close(protocol.CHANNEL)
            from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize

            params = LlamaModelQuantizeParams()
            params.ftype, params.nthread, params.allow_requantize = number, threads, requantize
            model_quantize(str(source), str(out), params)
            os._exit(0)
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", flush=True)
            os._exit(1)
    os.close(write)
    tail: list[str] = []
    with os.fdopen(read, "rb") as lines:
        for line in lines:
            sys.stderr.buffer.write(line)
            tail = [*tail[-9:], line.decode(errors="replace").rstrip()]
            if m := STEP.match(line):
                protocol.progress(int(m[1]), int(m[2]), "tensors", m[3].decode(errors="replace"))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        what = "out-of-memory" if name == "SIGKILL" else "quantizer-failed"
        raise protocol.Failed(what, f"The quantizer was ended by {name}.", tail)
    if code:
        raise protocol.Failed("quantizer-failed", f"The quantizer failed: {tail[-1] if tail else code}", tail)


def load_imatrix(path: Path) -> tuple[dict[str, Any], int, str]:
    """Mean squared inputs (matrices, columns) by tensor name, the number of chunks, and the data set's name."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    kind = reader.fields.get("general.type")
    if kind is None or kind.contents() != "imatrix":
        raise protocol.Failed("quantizer-failed", f"{path.name} is not an importance matrix in GGUF form.")
    raw = {t.name: np.array(t.data, dtype=np.float32) for t in reader.tensors}
    out = {}
    for name, counts in raw.items():
        if not name.endswith(".counts"):
            continue
        base = name.removesuffix(".counts")
        sums, counts = raw[f"{base}.in_sum2"], counts.reshape(-1, 1)
        sums = sums.reshape(counts.shape[0], -1)
        out[base] = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32)
    chunks = reader.fields.get("imatrix.chunk_count")
    sets = reader.fields.get("imatrix.datasets")
    return out, int(chunks.contents()) if chunks else 0, str(sets.contents()[0]) if sets else path.name


def as_float(tensor: Any, start: int, stop: int) -> Any:
    """Rows ``start:stop`` of a tensor in float32; all leading dimensions are flattened into rows."""
    import libgguf
    import numpy as np

    kind = tensor.tensor_type.name.lower()
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])[start:stop]
    if kind in ("f32", "f16"):
        return np.ascontiguousarray(rows, dtype=np.float32)
    if kind == "bf16":
        raw = np.ascontiguousarray(rows).view(np.uint16).reshape(stop - start, -1)
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return libgguf.dequantize_rows(np.ascontiguousarray(rows), int(tensor.tensor_type), int(tensor.shape[0]))


def dims(tensor: Any) -> tuple[int, int, int]:
    """(matrices, rows of each, columns) of a tensor."""
    shape = [int(d) for d in tensor.shape]  # GGUF order: columns first
    columns, rows = shape[0], shape[1] if len(shape) > 1 else 1
    matrices = 1
    for d in shape[2:]:
        matrices *= d
    return matrices, rows, columns


def quantize_tensor(tensor: Any, kind: str, importance: Any, pool: ThreadPoolExecutor) -> Any:
    """Quantize one tensor, slab by slab; bytes as an array (all rows, bytes of a row)."""
    import gguf
    import libgguf
    import numpy as np

    matrices, rows, columns = dims(tensor)
    number = int(gguf.GGMLQuantizationType[kind.upper()])
    out = np.empty((matrices * rows, libgguf.row_size(number, columns)), dtype=np.uint8)
    step = max(1, SLAB // columns)

    def slab(first: int, last: int, matrix: int) -> None:
        values = as_float(tensor, first, last)
        if not np.isfinite(values).all():
            raise protocol.Failed("quantizer-failed", f"{tensor.name} of the source has weights that are not numbers.")
        weights = None if importance is None else importance[min(matrix, len(importance) - 1)]
        packed = libgguf.quantize_rows(values, number, imatrix=weights)
        out[first:last] = np.asarray(packed).view(np.uint8).reshape(last - first, -1)

    jobs = []
    for matrix in range(matrices):
        base = matrix * rows
        for first in range(base, base + rows, step):
            jobs.append(pool.submit(slab, first, min(first + step, base + rows), matrix))
    for job in jobs:
        job.result()
    return out


def copy_metadata(reader: Any, writer: Any, skip: tuple[str, ...]) -> None:
    """Copy every metadata entry with its own type."""
    import gguf

    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", *skip):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=sub)


def by_rows(request: dict[str, Any]) -> tuple[int, list[str]]:
    """Quantize every tensor to its own type, with an importance matrix where there is one; return how many tensors used
    it and which lacked it.

    Raises:
        Failed: a tensor has no type, or the matrix does not fit it.
    """
    import gguf
    import numpy as np

    importance, chunks, dataset = load_imatrix(Path(request["imatrix"])) if request.get("imatrix") else ({}, 0, "")
    reader = gguf.GGUFReader(request["source"])
    wanted: dict[str, str] = request["types"]
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(request["out"], arch=arch)
    new = {"general.file_type", "general.quantization_version"}
    copy_metadata(reader, writer, tuple(new))
    writer.add_uint32("general.quantization_version", gguf.GGML_QUANT_VERSION)
    writer.add_uint32("general.file_type", file_type(request["format"]))
    if request.get("imatrix"):
        writer.add_string("quantize.imatrix.file", request.get("imatrix_name") or Path(request["imatrix"]).name)
        writer.add_string("quantize.imatrix.dataset", dataset)
        writer.add_uint32("quantize.imatrix.entries_count", len(importance))
        writer.add_uint32("quantize.imatrix.chunks_count", chunks)
    plan = []
    for tensor in reader.tensors:
        kind = wanted.get(tensor.name, tensor.tensor_type.name.lower())
        number = gguf.GGMLQuantizationType[kind.upper()]
        shape = [int(d) for d in reversed(tensor.shape)]
        same = number == tensor.tensor_type
        byte_shape = gguf.quant_shape_to_byte_shape(shape, number)
        size = (
            int(np.prod(byte_shape))
            if kind not in ("f32", "f16")
            else int(np.prod(shape)) * (4 if kind == "f32" else 2)
        )
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=number)
        plan.append((tensor, kind, same))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    used, missing = 0, []
    with ThreadPoolExecutor(int(request.get("threads") or os.cpu_count() or 1)) as pool:
        for i, (tensor, kind, same) in enumerate(plan):
            if same:
                data = np.ascontiguousarray(tensor.data)
            elif kind in ("f32", "f16"):
                matrices, rows, _ = dims(tensor)
                data = as_float(tensor, 0, matrices * rows).astype(np.float32 if kind == "f32" else np.float16)
            else:
                matrix = importance.get(tensor.name)
                columns = dims(tensor)[2]
                if matrix is None:
                    missing += [tensor.name] if importance else []
                elif matrix.shape[1] != columns:
                    raise protocol.Failed(
                        "quantizer-failed",
                        f"The importance matrix has {matrix.shape[1]} columns for {tensor.name}, which has {columns}.",
                    )
                else:
                    used += 1
                data = quantize_tensor(tensor, kind, matrix, pool)
            writer.write_tensor_data(data)
            protocol.progress(i + 1, len(plan), "tensors", f"{tensor.name} {kind} {data.nbytes} bytes")
    writer.close()
    return used, missing


def check(source: Path, out: Path) -> dict[str, Any]:
    """Read all quantized weights back: each must be a number, and a sample of rows near the source's.

    Raises:
        Failed: ``artifact-invalid``.
    """
    import gguf
    import numpy as np

    before = {t.name: t for t in gguf.GGUFReader(source).tensors}
    after = gguf.GGUFReader(out).tensors
    if {t.name for t in after} != set(before):
        raise protocol.Failed("artifact-invalid", "The quantized file does not have the source's tensors.")
    worst = {"tensor": None, "error": 0.0}
    for i, tensor in enumerate(after):
        matrices, rows, columns = dims(tensor)
        total, step = matrices * rows, max(1, SLAB // columns)
        for first in range(0, total, step):
            if not np.isfinite(as_float(tensor, first, min(first + step, total))).all():
                raise protocol.Failed("artifact-invalid", f"{tensor.name} has weights that are not numbers.")
        if tensor.tensor_type != before[tensor.name].tensor_type:
            first = max(0, total // 2 - SAMPLE_ROWS // 2)
            last = min(total, first + SAMPLE_ROWS)
            want = as_float(before[tensor.name], first, last).astype(np.float64)
            got = as_float(tensor, first, last).astype(np.float64)
            norm = float(np.sqrt(np.square(want).mean()))
            error = float(np.sqrt(np.square(want - got).mean())) / norm if norm else 0.0
            if error > worst["error"]:
                worst = {"tensor": tensor.name, "error": round(error, 5)}
        protocol.progress(i + 1, len(after), "tensors", "reading back")
    if worst["error"] > MAX_ERROR:
        raise protocol.Failed(
            "artifact-invalid", f"{worst['tensor']} is {worst['error']:.0%} off its source: this is not that model."
        )
    return {"types": {t.name: t.tensor_type.name.lower() for t in after}, "worst": worst}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize and check."""
    protocol.use_vendored_gguf()
    import gguf

    source, out, fmt = Path(request["source"]), Path(request["out"]), str(request["format"])
    threads = int(request.get("threads") or os.cpu_count() or 1)
    started = time.monotonic()
    wanted: dict[str, str] = request.get("types") or {}
    stored = {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(source).tensors}
    # A tensor that has the wanted type already is copied.
    packed = sorted({kind for name, kind in stored.items() if kind not in FLOATS and wanted.get(name) != kind})
    if packed and not request.get("allow_requantize"):
        raise protocol.Failed(
            "quantizer-failed", f"The source is already quantized ({', '.join(packed)}); errors would add up."
        )
    protocol.progress(0, None, "tensors", "starting", force=True)
    used, missing = 0, []
    if request.get("imatrix") or request.get("by_rows"):
        used, missing = by_rows(request)
        quantizer = "libgguf"
    else:
        by_llama_cpp(source, out, fmt, threads, bool(request.get("allow_requantize")))
        quantizer = "llama.cpp (cyllama)"
    if not out.is_file() or out.stat().st_size == 0:
        raise protocol.Failed("artifact-invalid", "The quantizer ended well but wrote nothing.")
    seconds = time.monotonic() - started
    checked = check(source, out)
    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "tensors": len(checked["types"]),
        "types": checked["types"],
        "imatrix_used": used,
        "imatrix_missing": missing,
        "worst": checked["worst"],
        "quantizer": quantizer,
        "seconds": round(seconds, 3),
    }


if __name__ == "__main__":
    protocol.run(work, code="quantizer-failed")
