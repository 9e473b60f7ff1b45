"""The commands by name, with the help and the examples that are shown before any of them is imported."""

from typing import NamedTuple


class CommandEntry(NamedTuple):
    """One command: `module:attribute` (a function, or a Typer with subcommands) and its help."""

    target: str
    help: str
    panel: str
    examples: tuple[str, ...]


# By panel and name: the help of each command, then its examples.
_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "Topologies": {
        "init": (
            "Write an example topology into a folder, as a starting point for your own.",
            "rmqkit init",
            "rmqkit init work",
            "rmqkit init orders shop --force",
        ),
        "validate": (
            "Check topology files for errors and suspicious declarations.",
            "rmqkit validate topologies/work.yaml",
            "rmqkit validate --strict orders.yaml audit.yaml",
            "rmqkit validate --rabbitmq 4.3 amqps://ada@rabbit.example --all-vhosts",
        ),
        "route": (
            "Show which queues a message would reach, and what happens to it there.",
            "rmqkit route topologies/topics.yaml -e orders -r order.eu.paid",
            "rmqkit route topologies/headers.yaml -e documents -H format=pdf -H pages:=1",
        ),
        "test": (
            "Check that messages reach the queues that scenario files expect.",
            "rmqkit test topologies/topics.test.yaml",
            "rmqkit test --live --junit results.xml topologies/*.test.yaml",
        ),
        "plan": (
            "Show what applying topology files would change, and change nothing.",
            "rmqkit plan orders.yaml",
            "rmqkit plan --detailed-exit-code orders.yaml audit.yaml",
            "rmqkit plan --all-vhosts live/*.yaml",
        ),
        "apply": (
            "Declare the exchanges, queues, bindings and policies of topology files.",
            "rmqkit apply topologies/work.yaml",
            "rmqkit apply --dry-run orders.yaml audit.yaml",
        ),
        "graph": (
            "Draw a topology as a tree, Mermaid, DOT or SVG.",
            "rmqkit graph topologies/topics.yaml",
            "rmqkit graph orders.yaml -o orders.svg",
        ),
        "convert": (
            "Convert between topology files, RabbitMQ definitions and AsyncAPI documents.",
            "rmqkit convert definitions.json orders.yaml --vhost shop",
            "rmqkit convert orders.yaml orders.asyncapi.json",
            "rmqkit convert orders.yaml orders.json",
        ),
        "destroy": (
            "Delete the entities that topology files declare, unless they are in use.",
            "rmqkit destroy --dry-run orders.yaml",
            "rmqkit destroy orders.yaml",
        ),
        "delete": (
            "Delete a queue, an exchange or bindings, after showing what else would be deleted.",
            "rmqkit delete queue old_orders --if-empty",
            "rmqkit delete exchange old_orders --dry-run",
            "rmqkit delete binding orders billing -r order.eu.paid --yes",
        ),
        "export": (
            "Export a virtual host as a topology file, RabbitMQ definitions or AsyncAPI.",
            "rmqkit export -o live.yaml",
            "rmqkit export --all-vhosts -o live",
            "rmqkit export --format definitions --vhost shop -o shop.json",
            "rmqkit export --asyncapi --contracts orders.yaml -o orders.asyncapi.json",
        ),
        "diff": (
            "Compare two topologies (files, definitions or live brokers), or two queue snapshots.",
            "rmqkit diff orders.yaml amqp://localhost/shop",
            "rmqkit diff staging.json production.json --vhost shop",
            "rmqkit diff before.jsonl.gz after.jsonl.gz",
        ),
        "status": (
            "Show the depth, consumers and message rates of queues.",
            "rmqkit status",
            "rmqkit status orders.yaml --watch",
            "rmqkit status 'orders.*' --sort name",
        ),
        "top": (
            "Watch queues, connections, channels and consumers on a full screen.",
            "rmqkit top",
            "rmqkit top connections --sort 'in B/s' --all-vhosts",
            "rmqkit top queues --filter 'orders*' --once",
        ),
        "why": (
            "Explain why a queue has a backlog, and suggest the next command.",
            "rmqkit why orders",
        ),
        "check": (
            "Check the health of a broker, for probes, cron and monitoring systems.",
            "rmqkit check orders.yaml",
            "rmqkit check --queue 'orders.*' --max-ready 1000 --min-consumers 1 --max-age 5m",
            "rmqkit check --nagios",
        ),
        "connections": (
            "Show client connections, or close one.",
            "rmqkit connections",
            "rmqkit connections 'billing*' --all-vhosts",
            "rmqkit connections --close 'billing worker' --reason 'stuck since 9:40'",
        ),
        "consumers": (
            "Show the consumers of a queue, with their prefetch and unacknowledged messages.",
            "rmqkit consumers orders",
        ),
        "trace": (
            "Show the messages that are published and delivered, and whether they are routed as predicted.",
            "rmqkit trace",
            "rmqkit trace -e orders --topology orders.yaml --check --idle-timeout 30",
            "rmqkit trace -q billing --filter 'body.total > 100' --json",
            "rmqkit trace -e orders --format envelope -n 1000 > orders.jsonl",
        ),
        "wait": (
            "Wait until a queue is empty, or has a given number of consumers or ready messages.",
            "rmqkit wait orders --empty --timeout 300",
            "rmqkit wait orders --consumers 3 && deploy-next-service",
            "rmqkit wait orders --consumers 0",
        ),
        "permissions": (
            "Print or set the permissions that a service needs, and no others.",
            "rmqkit permissions orders.yaml --for billing",
            "rmqkit permissions orders.yaml --for billing --user billing_prod --apply",
        ),
        "schema": (
            "Print the JSON Schema of topology files, for editors.",
            "rmqkit schema > topology.schema.json",
            "rmqkit schema scenarios > scenarios.schema.json",
        ),
    },
    "Messages": {
        "publish": (
            "Publish messages, persistent and confirmed.",
            "rmqkit publish --count 100000",
            'rmqkit publish worker_queue "hello"',
            "rmqkit publish -e orders -r order.eu.paid --lines orders.jsonl",
            'rmqkit publish reminders "call Ada" --at 2026-12-24T18:00Z',
        ),
        "consume": (
            "Consume a queue: print, save, forward, run a command or call a function, then acknowledge.",
            "rmqkit consume worker_queue",
            "rmqkit consume worker_queue --workers 3 --idle-timeout 5",
            "rmqkit consume orders --exec './bill --now' --concurrency 4 --timeout 60",
            "rmqkit consume events --offset first --idle-timeout 1",
        ),
        "subscribe": (
            "Print the messages that an exchange routes, through a temporary or a durable queue.",
            "rmqkit subscribe news",
            "rmqkit subscribe orders -r 'order.eu.#' -r 'order.*.paid'",
            "rmqkit subscribe documents -H format=pdf -H urgent:=true --match any",
            "rmqkit subscribe letters --durable mailbox_ada",
        ),
        "unsubscribe": (
            "Delete the queue of a durable subscription.",
            "rmqkit unsubscribe mailbox_ada",
            "rmqkit unsubscribe mailbox_ada --force",
        ),
        "peek": (
            "Show messages of a queue without removing or reordering them.",
            "rmqkit peek orders",
            "rmqkit peek parked --filter 'death.reason == \"expired\"' --full",
            "rmqkit peek events --offset last --format json",
        ),
        "snapshot": (
            "Save the messages of a queue to a file without removing or reordering them.",
            "rmqkit snapshot orders orders.jsonl.gz",
            "rmqkit snapshot events events.jsonl.zst --limit 1000000",
        ),
        "restore": (
            "Publish the messages of a snapshot again.",
            "rmqkit restore orders.jsonl.gz --queue orders",
            "rmqkit restore orders.jsonl --to-origin --resume orders.state",
        ),
        "move": (
            "Move messages: replay a dead-letter queue, or drain one queue into another.",
            "rmqkit move parked --dry-run",
            "rmqkit move parked --filter 'death.reason == \"rejected\" and death.age < 3600' --rate 100",
            "rmqkit move old_orders --to-queue orders",
            "rmqkit move orders --to-url amqps://new.example.com/shop",
        ),
        "copy": (
            "Copy the messages of a queue to another queue, exchange or broker; the originals stay.",
            "rmqkit copy orders --to-queue orders_test",
            "rmqkit copy orders --to-url amqp://localhost/test -n 1000",
        ),
        "purge": (
            "Delete the messages of a queue, or only those that match a filter.",
            "rmqkit purge parked",
            "rmqkit purge parked --filter 'death.age > 86400' --yes",
        ),
        "call": (
            "Send requests to a server, and print its replies.",
            'rmqkit call rpc_requests "21"',
            "rmqkit call rpc_requests -f picture.jpg -o smaller.jpg --timeout 60",
            "rmqkit call rpc_requests --lines numbers.txt --window 100",
        ),
        "serve": (
            "Answer requests with a command or a Python function.",
            "rmqkit serve rpc_requests --exec 'jq .number*2' --format json",
            "rmqkit serve rpc_requests --handler accounts:balance --concurrency 4",
            "rmqkit serve pictures --exec 'convert - -resize 50% -' --content-type image/jpeg --timeout 30",
        ),
    },
    "Brokers": {
        "context": (
            "Manage contexts: `--context NAME` stands for a broker's URLs, credentials and TLS files.",
            "rmqkit context add prod amqps://ada@rabbit.example --password-command 'pass show rabbit' --protected",
            "rmqkit context use prod",
            "rmqkit context show",
        ),
        "broker": (
            "Start and stop a private RabbitMQ node or cluster, on loopback only.",
            "rmqkit broker start",
            'eval "$(rmqkit broker env)"',
        ),
        "bench": (
            "Measure a broker's throughput and latency under a load, and check that no message is lost.",
            "rmqkit bench",
            "rmqkit bench quorum --producers 2 --rate 5000 --duration 60 --html report.html",
            "rmqkit bench fanout --queues 10 --size 100 --json > old.json",
            "rmqkit bench fanout --queues 10 --size 100 --compare old.json",
        ),
        "demo": (
            "Demonstrate a messaging pattern on a private broker, and count lost messages.",
            "rmqkit demo",
            "rmqkit demo topics",
            "rmqkit demo rpc --count 1000 --workers 5",
        ),
    },
}
_TARGETS = {
    "test": "test:run",
    "unsubscribe": "subscribe:unsubscribe",
    "copy": "move:copy",
    "consumers": "connections:consumers",
}
_TARGETS |= {name: f"{name}:app" for name in ("broker", "context", "delete")}  # with subcommands
COMMANDS = {
    name: CommandEntry(f"rmqkit.cli.commands.{_TARGETS.get(name, f'{name}:{name}')}", summary, panel, tuple(examples))
    for panel, commands in _TABLE.items()
    for name, (summary, *examples) in commands.items()
}
TOPICS: dict[str, CommandEntry] = {
    "connection": CommandEntry(
        "rmqkit.cli.options:connection",
        "The options of commands that connect to a broker.",
        "",
        (
            "rmqkit status --url amqps://ada@broker.example.com/shop --password-prompt",
            "rmqkit publish --url amqp://node1,amqp://node2 --count 1000",
        ),
    ),
}
