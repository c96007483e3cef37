#!/usr/bin/env bash
# Usage: ./launch.sh [all|triton|proxy]
#        ./launch.sh install [GROUP...]
#        ./launch.sh health [all|triton|proxy]
#
#   all      (default) sets up what is missing, then starts Triton with the models and the proxy
#   triton   starts Triton alone
#   proxy    starts the proxy alone
#   install  only sets up: dependency groups of pyproject.toml (default: engine proxy triton)
#   health   asks what was started with the same settings whether it can answer, says what cannot, exits with 0 or 1
#
# Beside Triton runs the keeper, which has it load the models, and replaces the process of one that died or hangs.
# Once the service has been ready, a server that ends by itself is started again, unless it does so five times within
# a minute each.
#
# Settings are TAKEOFF_* environment variables, listed in README.md. Without TAKEOFF_MODEL_NAME a small default
# model is served. Logs and the rendered model repository lie in .slipstream (TAKEOFF_RUN_DIR); a log that grows too
# long, or is the last launch's, is kept once more as LOG.1. Errors are shown as they are logged.
# Ctrl-C or SIGTERM stops in order: running answers finish, then the proxy ends, then Triton. A second one stops
# at once.
set -euo pipefail

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
python=$root/.venv/bin/python
run_dir=${TAKEOFF_RUN_DIR:-$root/.slipstream}
host=${TAKEOFF_HOST:-127.0.0.1}
port=${TAKEOFF_OPENAI_PORT:-3003}
native_port=${TAKEOFF_PORT-3000} # empty or 0: none
[[ $native_port != 0 ]] || native_port=
triton_host=${TAKEOFF_TRITON_HOST:-127.0.0.1}
http_port=${TAKEOFF_TRITON_HTTP_PORT:-8000}
grpc_port=${TAKEOFF_TRITON_GRPC_PORT:-8001}
metrics_port=${TAKEOFF_TRITON_METRICS_PORT:-8002}
log_limit=${TAKEOFF_LOG_MAX_BYTES:-67108864}
default_model=${TAKEOFF_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/slipstream}/models/SmolLM2-135M-Instruct

groups=()   # the consumer groups to serve
step_pid=   # what runs to its end right now: installation, rendering, waiting
timer_pid=
log_pid=    # what copies logs, or the errors in them, to our own output
triton_pid=
proxy_pid=
keeper_pid=
declare -A deaths=() died_at=() # by server: how often in a row, and when it last died, in $SECONDS
is_ready=

# A volume that keeps the default model keeps the hub's models too, unless Hugging Face's own variables say where.
[[ -z ${TAKEOFF_CACHE_DIR:-} || -n ${HF_HOME:-}${HF_HUB_CACHE:-} ]] || export HF_HUB_CACHE=$TAKEOFF_CACHE_DIR/hub

main() {
    local mode=${1:-all}
    case $mode in
        all | triton | proxy | install | health) ;;
        -h | --help | help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
    [[ $log_limit =~ ^[1-9][0-9]*$ ]] || fail "TAKEOFF_LOG_MAX_BYTES='$log_limit' cannot be used: give a number of bytes"
    trap 'stop_in_order 130' INT
    trap 'stop_in_order 143' TERM
    trap 'stop_in_order 129' HUP
    trap kill_everything EXIT
    "run_$mode" "${@:2}"
}

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

run_install() {
    local wanted=("$@")
    ((${#wanted[@]})) || wanted=(engine proxy triton)
    install "${wanted[@]}"
}

run_all() {
    install engine proxy triton
    lock triton
    lock proxy
    check_ports "${triton_addresses[@]}" "${proxy_addresses[@]}"
    prepare_models
    start_triton
    start_keeper
    export TAKEOFF_TRITON_URL
    TAKEOFF_TRITON_URL=$(reachable "$triton_host"):$grpc_port
    start_proxy
    [[ -z ${TAKEOFF_FOLLOW_LOGS:-} ]] || follow "$run_dir"/{triton,keeper,proxy}.log
    await_ready "${triton_urls[@]}" "the proxy=http://$(reachable "$host"):$port/health/ready"
    supervise
}

run_triton() {
    install engine triton
    lock triton
    check_ports "${triton_addresses[@]}"
    prepare_models
    start_triton
    start_keeper
    follow "$run_dir/triton.log" "$run_dir/keeper.log"
    await_ready "${triton_urls[@]}"
    supervise
}

run_proxy() {
    install proxy
    lock proxy
    check_ports "${proxy_addresses[@]}"
    start_proxy
    follow "$run_dir/proxy.log"
    await_ready "the proxy=http://$(reachable "$host"):$port/health"
    supervise
}

run_health() {
    local triton proxy urls=()
    triton=http://$(reachable "$triton_host"):$http_port
    proxy=http://$(reachable "$host"):$port
    [[ ${1:-all} == proxy ]] || urls+=("$triton")
    [[ ${1:-all} == triton ]] || urls+=("$proxy/health/ready")
    exec "$python" "$root/setup/health.py" "${urls[@]}"
}

# --- processes ---------------------------------------------------------------------------------------------------

# Starts a command in a session of its own, which the terminal's Ctrl-C does not reach: this script alone decides in
# which order things end. Should even this script be killed, the command gets a SIGTERM. Its id is in `child`.
start() {
    setsid setpriv --pdeathsig TERM "$@" </dev/null &
    child=$!
}

# Runs a command to its end. Bash answers signals during `wait`, but not during a command in the foreground.
step() {
    local status=0
    start "$@"
    step_pid=$child
    wait "$child" || status=$?
    step_pid=
    return "$status"
}

is_alive() { kill -0 "$1" 2>/dev/null; }

# The `wait` takes bash's own remark on a killed child along.
kill_group() { { kill -KILL -- "-$1" && wait "$1"; } 2>/dev/null || true; }

kill_everything() {
    local pid
    for pid in $step_pid $timer_pid $log_pid $proxy_pid $keeper_pid $triton_pid; do kill_group "$pid"; done
    rm -f "/dev/shm/slipstream-$$-"*
}

# Ends one server: SIGTERM, and a bounded time later SIGKILL. The whole group gets the latter in any case: Triton
# leaves the process of a model behind that is still loading.
stop_server() {
    local name=$1 pid=$2 deadline=$((SECONDS + $3))
    [[ -n $pid ]] || return 0
    kill -TERM "$pid" 2>/dev/null || true
    while is_alive "$pid" && ((SECONDS < deadline)); do sleep 0.1; done
    ! is_alive "$pid" || say "$name did not end within $3 s and was killed"
    kill_group "$pid"
}

stop_servers() {
    local answers=${TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS:-30}
    answers=${answers%%.*}
    [[ $answers =~ ^[0-9]+$ ]] || answers=30
    stop_server "The keeper" "$keeper_pid" 5 # first, so that it heals nothing that is being stopped
    keeper_pid=
    stop_server "The proxy" "$proxy_pid" $((answers + 5))
    proxy_pid=
    stop_server Triton "$triton_pid" 20
    triton_pid=
}

# A signal before the service was ready means that what was asked for did not happen: that is not a success.
stop_in_order() {
    trap 'say "Stopped at once"; exit 130' INT TERM HUP
    say ""
    say "Stopping: running answers finish first (again to stop at once)"
    [[ -z $step_pid ]] || kill_group "$step_pid"
    stop_servers
    [[ -z $is_ready ]] || exit 0
    exit "$1"
}

# --- set-up ------------------------------------------------------------------------------------------------------

install() {
    mkdir -p "$run_dir"
    step "$root/setup/install.sh" "$@" || exit 1
    step "$python" "$root/setup/misspelt.py"
    [[ " $* " != *" triton "* ]] || own_triton || step "$python" "$root/setup/local_triton.py" || exit 1
}

# In a container Triton is on PATH, and its image has the Python backend.
own_triton() {
    local binary
    binary=$(command -v tritonserver) && [[ -d $(dirname "$(readlink -f "$binary")")/../backends/python ]]
}

# One server of a kind per run folder: a second one would overwrite the first one's repository and logs. What is
# started inherits the lock, so that it is held for as long as anything of this launch lives.
lock() {
    local lock
    exec {lock}>>"$run_dir/$1.lock"
    flock --nonblock "$lock" || fail "Slipstream's $1 already runs from $run_dir: stop it, or set TAKEOFF_RUN_DIR" \
        "(and the ports) for a second one"
}

triton_addresses=(
    "$triton_host:TAKEOFF_TRITON_HTTP_PORT=$http_port"
    "$triton_host:TAKEOFF_TRITON_GRPC_PORT=$grpc_port"
    "$triton_host:TAKEOFF_TRITON_METRICS_PORT=$metrics_port"
)
proxy_addresses=(
    "$host:TAKEOFF_OPENAI_PORT=$port"
    ${native_port:+"$host:TAKEOFF_PORT=$native_port"}
)
[[ -z ${TAKEOFF_ADMIN_KEY:-} ]] ||
    triton_addresses+=("${TAKEOFF_ADMIN_HOST:-127.0.0.1}:TAKEOFF_ADMIN_PORT=${TAKEOFF_ADMIN_PORT:-8004}")
keeper_path=$root:$root/model_repository:$root/model_repository/primary/1 # it renders groups, too
triton_urls=() # filled once the groups are known

check_ports() { step "$python" "$root/setup/ports.py" "$@" || exit 1; }

prepare_models() {
    if [[ -z ${TAKEOFF_MODEL_NAME:-}${TAKEOFF_CONFIG_FILE:-} ]]; then
        step "$python" "$root/setup/default_model.py" "$default_model" || exit 1
        export TAKEOFF_MODEL_NAME=$default_model
    fi
    # Somebody may have named a folder as run folder in which their own models lie.
    [[ ! -e $run_dir/models || -e $run_dir/groups ]] || fail "$run_dir/models exists and is not Slipstream's:" \
        "set TAKEOFF_RUN_DIR to another folder"
    sweep_segments
    rm -rf "$run_dir/models"
    step "$python" "$root/model_repository/render.py" "$run_dir/models" >"$run_dir/groups" || exit 1
    mapfile -t groups <"$run_dir/groups"
    local group
    for group in "${groups[@]}"; do
        triton_urls+=("model $group=http://$(reachable "$triton_host"):$http_port/v2/models/$group/ready")
    done
}

# A launch that was killed leaves Triton's shared memory behind; the launch's process is in the segment's name.
sweep_segments() {
    local segment pid
    for segment in /dev/shm/slipstream-*; do
        pid=${segment#/dev/shm/slipstream-}
        pid=${pid%%-*}
        if [[ $pid =~ ^[0-9]+$ && ! -e /proc/$pid ]]; then rm -f "$segment"; fi
    done
}

# --- servers -----------------------------------------------------------------------------------------------------

start_triton() {
    local command=(tritonserver)
    own_triton || command=(
        "$root/.venv/triton/pytriton/tritonserver/bin/tritonserver"
        --backend-directory="$root/.venv/triton/pytriton/tritonserver/backends"
    )
    command+=(
        --model-repository="$run_dir/models" --model-control-mode=explicit --disable-auto-complete-config
        --exit-timeout-secs=10
        --http-address="$triton_host" --http-port="$http_port"
        # A web page can send a plain POST here, but no header of its own: it must not unload a model.
        --http-restricted-api="model-repository,shared-memory,trace,logging:slipstream=yes"
        --grpc-address="$triton_host" --grpc-port="$grpc_port"
        --allow-metrics=true --metrics-address="$triton_host" --metrics-port="$metrics_port"
        --backend-config="python,shm-region-prefix-name=slipstream-$$-"
    )
    begin_log triton.log
    rm -rf "$run_dir/loading"
    # the Python backend runs the first Python on PATH
    TAKEOFF_RUN_DIR=$run_dir PATH=$root/.venv/bin:$PATH start "${command[@]}" >>"$run_dir/triton.log" 2>&1
    triton_pid=$child
}

start_proxy() {
    begin_log proxy.log
    # -P: a folder `proxy` in the caller's working directory is not ours
    TAKEOFF_RUN_DIR=$run_dir PYTHONPATH=$root start "$python" -P -m proxy >>"$run_dir/proxy.log" 2>&1
    proxy_pid=$child
}

# Has Triton load its models, and looks after them. Before anything was ready, one that cannot be loaded ends it.
start_keeper() {
    begin_log keeper.log
    TAKEOFF_RUN_DIR=$run_dir TAKEOFF_TRITON_URL=$(reachable "$triton_host"):$grpc_port PYTHONPATH=$keeper_path \
        start "$python" -P -m keeper ${is_ready:+again} >>"$run_dir/keeper.log" 2>&1
    keeper_pid=$child
}

begin_log() {
    [[ ! -s $run_dir/$1 ]] || mv --force "$run_dir/$1" "$run_dir/$1.1"
    : >"$run_dir/$1"
}

# What writes a log holds it open, so it is copied and emptied; a line that comes in between is lost.
bound_logs() {
    local log
    find "$run_dir" -maxdepth 1 -name '*.log' -size +"${log_limit}c" | while read -r log; do
        cp "$log" "$log.1" && : >"$log"
    done
}

# A server alone is most often in a container, whose log is its standard output.
follow() {
    start tail --quiet --lines=+1 --follow=name "$@"
    log_pid=$child
}

await_ready() {
    TAKEOFF_RUN_DIR=$run_dir start "$python" "$root/setup/readiness.py" "$@"
    step_pid=$child
    while is_alive "$step_pid"; do watch_servers; done
    wait "$step_pid"
    step_pid=
    is_ready=yes
    local triton
    triton=$(reachable "$triton_host")
    step "$python" "$root/setup/banner.py" "$run_dir/models" "$(reachable "$host"):$port" \
        "$triton:$http_port" "$triton:$metrics_port" "${native_port:+$(reachable "$host"):$native_port}" \
        ${triton_pid:+triton} ${proxy_pid:+proxy}
}

# The errors of all logs, in the forms of Python, of Python's JSON and of Triton.
show_errors() {
    start bash -c 'tail --quiet --lines=0 --follow=name "$@" 2>/dev/null |
        grep --line-buffered --extended-regexp " (ERROR|CRITICAL) |\"level\": \"(ERROR|CRITICAL)\"|^E[0-9]{4} " >&2' \
        errors "$run_dir"/{triton,keeper,proxy}.log
    log_pid=$child
}

supervise() {
    [[ -n $log_pid ]] || show_errors
    while true; do watch_servers; done
}

# Returns when a step or two seconds have ended; ends the launch when a server has. The timer is there because
# `wait -n` sleeps on when a server ended just before it.
watch_servers() {
    start sleep 2
    timer_pid=$child
    # shellcheck disable=SC2086  # what was not started has no id
    wait -n "$timer_pid" $step_pid $triton_pid $keeper_pid $proxy_pid || true
    kill -TERM "$timer_pid" 2>/dev/null || true
    watch Triton triton "$triton_pid"
    watch "The keeper" keeper "$keeper_pid"
    watch "The proxy" proxy "$proxy_pid"
    bound_logs
}

# Starts a server again that has ended, after a pause that doubles; one that did so before anything was ready, or for
# the fifth time, ends the launch. What it leaves, such as Triton's models, ends with it.
watch() {
    local what=$1 server=$2 pid=$3 status=0
    [[ -n $pid ]] && ! is_alive "$pid" || return 0
    ((SECONDS - ${died_at[$server]:--60} < 60)) || deaths[$server]=0
    died_at[$server]=$SECONDS
    deaths[$server]=$((deaths[$server] + 1))
    [[ -n $is_ready || $server != keeper ]] || what="The service" # whose models the keeper could not have loaded
    if [[ -z $is_ready ]] || ((deaths[$server] >= 5)); then fail_with_log "$what" "$pid" "$server.log"; fi
    wait "$pid" || status=$?
    say "launch.sh: $what ended and is started again: $("$python" "$root/setup/failure.py" "$run_dir/$server.log" "$status")"
    kill_group "$pid"
    [[ $server != triton ]] || rm -f "/dev/shm/slipstream-$$-"*
    step sleep $((2 ** (deaths[$server] - 1) - 1)) || true
    "start_$server"
}

# --- words -------------------------------------------------------------------------------------------------------

say() { echo "$*" >&2; }

fail() {
    say "launch.sh: $*"
    exit 1
}

fail_with_log() {
    local what="ended" status=0 log=$run_dir/$3 shown=("$run_dir/$3")
    [[ $3 != keeper.log ]] || shown+=("$run_dir/triton.log") # of the models
    [[ -n $is_ready ]] || what="did not start"
    wait "$2" || status=$?
    say ""
    say "launch.sh: $1 $what: $("$python" "$root/setup/failure.py" "$log" "$status")"
    for log in "${shown[@]}"; do
        say "The last lines of $log:"
        # without the tables of options that Triton draws
        { grep --invert-match '^[|+]\|^$' "$log" || true; } | tail --lines=15 | sed 's/^/    /' >&2
    done
    stop_servers
    exit 1
}

# The address to reach a server at that listens on $1.
reachable() {
    case $1 in
        0.0.0.0 | ::) echo 127.0.0.1 ;;
        *:*) echo "[$1]" ;;
        *) echo "$1" ;;
    esac
}

main "$@"
