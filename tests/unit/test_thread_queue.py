"""A queue whose waits end in time, whatever interrupts them."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty

import pytest

from rmqkit.stop import Stop
from rmqkit.thread_queue import ThreadQueue

SOON_S, WAIT_S, LATE_S = 0.02, 0.1, 0.3


@contextmanager
def on_signal(handle: Callable[[], None]) -> Iterator[None]:
    """Have a signal handler call a function soon."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handle())
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(SOON_S, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_items_come_in_the_order_they_were_put() -> None:
    queue: ThreadQueue[int] = ThreadQueue()
    for number in range(3):
        queue.put(number)
    assert len(queue) == 3
    assert [queue.get(), queue.get(1.0), queue.get(math.inf)] == [0, 1, 2]
    assert not queue


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 1e-9, SOON_S])
def test_nothing_to_get(timeout_s: float) -> None:
    queue: ThreadQueue[int] = ThreadQueue()
    for _ in range(2):
        with pytest.raises(Empty):
            queue.get(timeout_s)
        queue.put(1)
        assert queue.get(timeout_s) == 1


@pytest.mark.timeout(20)
def test_a_wait_ends_in_time_though_a_signal_handler_runs_beyond_its_end() -> None:
    """In such a case, SimpleQueue of Python 3.11 and 3.12 waits forever."""
    queue: ThreadQueue[int] = ThreadQueue()
    with on_signal(lambda: time.sleep(LATE_S)), pytest.raises(Empty):
        queue.get(WAIT_S)
    with on_signal(lambda: time.sleep(LATE_S)):
        assert not Stop().wait(WAIT_S)


@pytest.mark.timeout(20)
def test_a_signal_handler_ends_a_wait() -> None:
    queue: ThreadQueue[int] = ThreadQueue()
    with on_signal(lambda: queue.put(1)):
        assert queue.get(math.inf) == 1


@pytest.mark.timeout(60)
def test_no_wake_up_is_lost_between_threads() -> None:
    """Each answer follows its question, so one lost wake-up would end it."""
    questions: ThreadQueue[int] = ThreadQueue()
    answers: ThreadQueue[int] = ThreadQueue()

    def answer() -> None:
        while (number := questions.get(math.inf)) >= 0:
            answers.put(number)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        for number in range(5000):
            questions.put(number)
            assert answers.get(math.inf) == number
    finally:
        questions.put(-1)
        thread.join()


@pytest.mark.timeout(60)
def test_many_threads_put() -> None:
    queue: ThreadQueue[int] = ThreadQueue()
    threads = [threading.Thread(target=lambda: [queue.put(number) for number in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert sum(queue.get(math.inf) for _ in range(8000)) == 4 * sum(range(2000))
    for thread in threads:
        thread.join()
