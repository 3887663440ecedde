#!/bin/sh
# One run on several machines: start this on each; NODE counts from 0, FIRST is the address of the
# first machine.
#
#   NODES=2 NODE=0 FIRST=10.0.0.1 GPUS=8 sh torchrun.sh \
#       --config deepseek_vl_stage2 --config mine.yaml
#   NODES=2 NODE=1 FIRST=10.0.0.1 GPUS=8 sh torchrun.sh \
#       --config deepseek_vl_stage2 --config mine.yaml
set -eu
exec python -m torch.distributed.run \
    --nnodes "$NODES" --node-rank "$NODE" --nproc-per-node "$GPUS" \
    --master-addr "$FIRST" --master-port "${PORT:-29500}" \
    -m dsvl_tune fit "$@" \
    --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" --trainer.strategy fsdp2
