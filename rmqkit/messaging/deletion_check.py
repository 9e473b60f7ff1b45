"""Notice that a queue was deleted although the broker has not told its consumers.

RabbitMQ cancels the consumers of a queue that is deleted. But a quorum queue that does not end within five seconds, as
on a slow disk, is removed by force, and its consumers are never told (rabbit_quorum_queue:delete; measured with 4.3.6).
"""

from __future__ import annotations

import time
from contextlib import closing

from rmqkit.amqp.channel import Channel
from rmqkit.errors import BrokerError, NotFound

CHECK_EVERY_S = 60.0  # while no message arrives
_ANSWER_S = 5.0  # a broker that is slower is asked again later
_CONFIGURE = (4, 3, 0)  # only this version answers a passive declare with no other permission


def was_deleted(channel: Channel, queue: str) -> bool:
    """Tell whether a queue does not exist, by a passive declare on another channel of the same connection."""
    transport = channel.transport
    if transport.version[:3] == _CONFIGURE or transport.blocked:
        return False
    try:
        with closing(transport.open_channel(deadline_s=time.monotonic() + _ANSWER_S)) as asking:
            asking.queue_counts(queue)
    except NotFound as exc:
        return "no queue" in exc.reply_text  # or the node of a classic queue is down
    except BrokerError:
        pass  # if the connection is lost, the consumer notices
    return False
