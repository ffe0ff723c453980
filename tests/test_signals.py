import os
import signal
from threading import Thread

import pytest

from diffiml_plugin.signals import Stopped, noted, raised


def send(number):
    os.kill(os.getpid(), number)


def test_sigterm_ends_work_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="^ended by SIGTERM$") as stopped, raised():
        send(signal.SIGTERM)
    assert stopped.value.status == 143 and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_the_second_one_raises(number, status):
    with noted() as request:
        assert request.number == 0
        send(number)
        assert request.number == number
        with pytest.raises(Stopped) as stopped:
            send(number)
    assert stopped.value.status == status
    assert str(Stopped(number, "go on")).endswith("; go on")


def test_a_thread_that_no_signal_reaches_works_all_the_same():
    found = []

    def work():
        with noted() as request, raised():
            found.append(request.number)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]
