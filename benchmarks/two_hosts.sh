#!/usr/bin/env bash
# Two machines in network namespaces train one network; one is cut off and comes back.
#
#     benchmarks/two_hosts.sh [FOLDER]        as root, with Debian's iproute2
#
# Makes the namespaces `resnets-a` and `resnets-b`, joins them by a veth pair, and removes them at the
# end. A run is first left alone, on both machines. Then the same command begins a second one; in its
# middle the link goes down, machine b loses its power (all its processes are killed), the link comes
# up again and b is started again with the same command. The last line is the verdict, and the exit
# code is 1 unless both runs end in model files of one SHA-256. With a link that is down nobody knows
# that the other side has gone, so machine a gives up sending early here (tcp_retries2). The variable
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE lets torchrun take in a machine that was started again: without it
# torch 2.14 keeps the address of the first meeting to itself, and the new one waits in vain.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$(mktemp -d)}
python=$root/.venv/bin/python
export PYTHONPATH=$root/src OMP_NUM_THREADS=1 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
hosts=(resnets-a resnets-b)
mkdir -p "$out"

clean_up() {
    for host in "${hosts[@]}"; do
        switch_off "$host"
        ip netns del "$host" 2>/dev/null || true
    done
}

switch_off() { # all processes of a machine
    local pids
    pids=$(ip netns pids "$1" 2>/dev/null || true)
    # shellcheck disable=SC2086  # one word a process
    [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
}

make_hosts() {
    local host number=0
    for host in "${hosts[@]}"; do
        ip netns add "$host"
    done
    ip link add a0 netns "${hosts[0]}" type veth peer name b0 netns "${hosts[1]}"
    for device in a0 b0; do
        host=${hosts[number]}
        number=$((number + 1))
        ip -n "$host" addr add "10.77.0.$number/24" dev "$device"
        ip -n "$host" link set "$device" up
        ip -n "$host" link set lo up
        ip netns exec "$host" sh -c 'echo 4 > /proc/sys/net/ipv4/tcp_retries2'
    done
}

start() { # machine number, run: what its user types
    local device=(a0 b0)
    GLOO_SOCKET_IFNAME=${device[$1]} ip netns exec "${hosts[$1]}" \
        "$python" -m torch.distributed.run --nnodes=2 --nproc-per-node=1 --max-restarts=3 \
        --rdzv-backend=c10d --rdzv-endpoint=10.77.0.1:29400 --rdzv-id="$2" \
        --rdzv-conf="is_host=$((1 - $1))" --local-addr="10.77.0.$(($1 + 1))" \
        -m resnets train fashion-mini --out "$out/$2" --device cpu --model resnet20 --size 16 \
        --batch-size 32 --steps 40 --evaluate-every 0.05 --val-fraction 0.02 --dropout 0.1 \
        --drop-path 0.1 --mixup 0.2 --ema 0.9 --tune off --precision fp32 --threads 1 \
        --checkpoint-every 0 >>"$out/$2-$1.log" 2>&1 &
}

step() { # the last one that a run has saved
    local newest
    newest=$(find "$out/$1/checkpoints" -name 'state-*.safetensors' 2>/dev/null | sort | tail -1)
    newest=${newest##*-}
    newest=${newest%.safetensors}
    echo $((10#${newest:-0}))
}

fail() {
    tail -n 20 "$out"/*.log
    echo "FAILED: $1"
    exit 1
}

digest() { sha256sum "$out/$1/model.safetensors" | cut -d' ' -f1; }

trap clean_up EXIT
clean_up
make_hosts
begin=$SECONDS

start 0 whole && first=$!
start 1 whole && second=$!
wait "$first" && wait "$second" || fail "the run that was left alone"
echo "left alone: $((SECONDS - begin)) s, SHA-256 $(digest whole)"

start 0 cut && first=$!
start 1 cut && lost=$!
until [ "$(step cut)" -ge 10 ]; do
    kill -0 "$first" 2>/dev/null || fail "no step 10 to cut at"
    sleep 0.05
done
ip -n "${hosts[1]}" link set b0 down
echo "link down after step $(step cut)"
sleep 5
switch_off "${hosts[1]}"
wait "$lost" 2>/dev/null || true
at=$(step cut)
echo "machine b off; machine a is at step $at"
ip -n "${hosts[1]}" link set b0 up
start 1 cut && second=$!
wait "$first" && wait "$second" || fail "the run that was cut off"
grep -h "resuming" "$out"/cut-*.log
echo "cut off and recovered: $((SECONDS - begin)) s in all, SHA-256 $(digest cut)"

if [ "$(digest whole)" = "$(digest cut)" ]; then
    echo "EQUAL: two hosts, one cut off at step $at: the model file of the run that was left alone"
else
    echo "NOT EQUAL: the run that was cut off at step $at ended in another model file"
    exit 1
fi
