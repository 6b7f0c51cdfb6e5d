#!/usr/bin/env bash
# Draw the demo's corpus, upload it to S3, run the job on the cluster, and verify every value of the output.
set -euo pipefail

echo "waiting for S3 and the head"
timeout 120 bash -c 'until wget --quiet --output-document=/dev/null "$AWS_ENDPOINT_URL"; do sleep 1; done'
timeout 120 bash -c 'until ray status &> /dev/null; do sleep 1; done'

python - <<'END'
import time
from pathlib import Path

import ray
import s3fs

from jobs.demo import corpus

ray.init(log_to_driver=False, logging_level="ERROR")
while len([node for node in ray.nodes() if node["Alive"]]) < 3:
    print("waiting for the workers", flush=True)
    time.sleep(2)
ray.shutdown()

corpus.write_parquet(Path("coyo"), shards=8, count=100)
store = s3fs.S3FileSystem()
store.makedirs("demo", exist_ok=True)
store.put("coyo/", "demo/coyo/", recursive=True)
print(*store.ls("demo/coyo"), sep="\n")
END

coyo-jobs init s3://demo/coyo s3://demo/out > job.yaml
coyo-jobs run job.yaml --set models.vit.weights=demo --set models.align.weights=demo
coyo-jobs status s3://demo/out
coyo-jobs verify s3://demo/out --deep
