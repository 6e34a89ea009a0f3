#!/bin/sh
# smollm2: q4_k_m in llama.cpp (advisor, plan p-3f2a9c)
# Made by advisor VERSION: advisor export script p-3f2a9c
# Ready once http://127.0.0.1:8080/health answers 200; Ctrl-C or SIGTERM ends it.
# shellcheck disable=SC2016,SC3045
set -eu
umask 077
# A core dump would hold the key.
ulimit -c 0 2>/dev/null || true

model=/srv/models/smollm2-q4_k_m.gguf
key=/home/me/.local/state/advisor/keys/smollm2

if [ ! -r "$model" ]; then
  echo "There is no readable model at $model" >&2
  exit 66
fi
if [ ! -s "$key" ]; then
  mkdir -p -- /home/me/.local/state/advisor/keys
  od -An -tx1 -N32 /dev/urandom | tr -d ' \n' > "$key"
  echo "A new key was made: $key" >&2
fi

# Nothing of the caller's environment but what is named here.
set -- env -i PATH="${PATH:-/usr/bin:/bin}" HOME="${HOME:-/tmp}" \
  GGML_NO_BACKTRACE=1 \
  PYTHONUNBUFFERED=1 \
  /opt/env/bin/python \
  -I \
  -X utf8 /opt/advisor/serve.py \
  --model /srv/models/smollm2-q4_k_m.gguf \
  --alias smollm2 \
  --host 127.0.0.1 \
  --port 8080 \
  --context 8192 \
  --parallel 1 \
  --batch 2048 \
  --ubatch 512 \
  --kv-type f16 \
  --gpu-layers 0 \
  --load-mode none \
  --threads 6 \
  --threads-batch 6 \
  --api-key-file /home/me/.local/state/advisor/keys/smollm2 \
  --metrics
# A limit on memory needs a control group, which systemd gives where it runs.
if systemd-run --user --scope --quiet -- true >/dev/null 2>&1; then
  set -- systemd-run --user --scope --quiet --property=MemoryMax=495976448 --property=MemorySwapMax=0 --property=CPUQuota=700% -- "$@"
else
  echo "No limit on memory can be set here; the plan allows 473 MiB." >&2
fi
exec "$@"
