#!/bin/sh
# Classify a photograph, ask why it was done so, and say what it really shows: curl.sh TASK IMAGE [LABEL]
set -eu
task=$1 image=$2 label=${3:-}
socket=${PATCHD_SOCKET:-$XDG_RUNTIME_DIR/patchd/patchd.sock}

ask() { # ask PATH [OPTION...]: the body of the answer, and whether it is an error; one that is busy is asked three times more
    path=$1
    shift
    curl --silent --show-error --fail-with-body --retry 3 --unix-socket "$socket" "$@" "http://localhost$path"
}

answer=$(ask "/v1/tasks/$task/infer?top_k=3" -H 'Content-Type: image/jpeg' --data-binary "@$image") || { echo "$answer" >&2; exit 1; }
echo "$answer"
request=$(echo "$answer" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
ask "/v1/explain?request=$request"
echo
if [ -n "$label" ]; then
    ask "/v1/tasks/$task/corrections" -H 'Content-Type: application/json' \
        --data "{\"label\": \"$label\", \"request\": \"$request\"}"
    echo
fi
