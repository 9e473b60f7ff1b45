#!/bin/sh
# RabbitMQ's tutorials 1 to 6 with the C client's command line tools, as one program: see test_tutorials.py for its
# arguments. The tools show a command only a message's body: it cannot know where a reply is to go, so there is no
# rpc_server.
set -eu

publish() { amqp-publish -u "$RABBITMQ_URL" "$@" </dev/null; }
consume() { amqp-consume -u "$RABBITMQ_URL" "$@" awk 1; } # which ends each body with a newline
declare_queue() { amqp-declare-queue -u "$RABBITMQ_URL" "$@" >/dev/null; }

verb=$1 name=$2
shift 2
case $verb in
send)
    declare_queue -q "$name"
    for body; do publish -r "$name" -b "$body"; done
    ;;
receive) consume -q "$name" -A -c "$1" ;;
new_task)
    declare_queue -q "$name" -d
    for body; do publish -r "$name" -p -b "$body"; done
    ;;
worker) consume -q "$name" -p 1 -c "$1" ;;
emit_log) publish -e "$name" -r "$2" -b "$3" ;; # $1, the type: the tools declare no exchange
receive_logs) consume -e "$name" -r "${3:-any}" -x -A -c "$2" ;; # it takes no empty key
rpc_client)
    replies=$name.replies.$$
    declare_queue -q "$replies"
    publish -r "$name" -t "$replies" -b "$1"
    consume -q "$replies" -c 1
    amqp-delete-queue -u "$RABBITMQ_URL" -q "$replies" >/dev/null
    ;;
esac
