#!/usr/bin/env bash
# Starts the tracking server of a cluster's head, after Ray, and says to every later shell where both are.
# The server has a password of its own, listens on one address alone, and ends when Ray on this node ends.
#
#   head.sh ADDRESS [RAY_PORT [MLFLOW_PORT]]
set -euo pipefail
umask 077
address=$1 ray_port=${2:-6379} port=${3:-5000}
folder=$HOME/.spt/mlflow
mkdir -p "$folder" ~/.mlflow
cd "$folder"

# Made once. The MLflow client reads it here by itself; nobody but this user can.
credentials=~/.mlflow/credentials
secret() { python -c 'import secrets; print(secrets.token_urlsafe(24))'; }
if ! [ -f $credentials ]; then
    printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' "$(secret)" > $credentials
fi
[ -f key ] || secret > key
MLFLOW_AUTH_ADMIN_PASSWORD=$(sed -n 's/^mlflow_tracking_password = //p' $credentials)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat key)
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true

# One that an earlier `ray up` started.
if [ -f group ]; then
    kill -TERM -- "-$(cat group)" 2> /dev/null || true
    while kill -0 -- "-$(cat group)" 2> /dev/null; do sleep 0.2; done
fi

serve() {
    mlflow server --host "$1" --port "$2" --app-name basic-auth --workers 1 \
        --allowed-hosts "$1:$2,localhost:$2,127.0.0.1:$2" \
        --backend-store-uri "sqlite:///$PWD/mlflow.db" --artifacts-destination "$PWD/artifacts" &
    while pgrep -u "$(id -u)" -x gcs_server > /dev/null; do sleep 1; done
    kill -TERM -- -$$
}
export -f serve
setsid bash -c 'echo $$ > group; serve "$0" "$1"' "$address" "$port" > server.log 2>&1 < /dev/null &

listens() { (exec 3<> "/dev/tcp/$address/$port") 2> /dev/null; }
for _ in $(seq 300); do listens && break; sleep 0.5; done
listens || { echo "MLflow does not listen on $address:$port:" >&2; tail -20 server.log >&2; exit 1; }

cat > ~/.spt/head.sh <<END
export RAY_ADDRESS=$address:$ray_port MLFLOW_TRACKING_URI=http://$address:$port
END
