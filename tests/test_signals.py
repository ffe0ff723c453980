import os
import signal
from threading import Thread

import pytest

from diffiml_plugin.signals import Stopped, noted, raised


def send(number):
    os.kill(os.getpid(), number)


BOTH = pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


@BOTH
def test_sigterm_ends_work_as_ctrl_c_does(number, status):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="^(ended by SIGTERM|interrupted)$") as stopped:
        with noted(), raised():  # as in the middle of work that notes signals
            send(number)
    assert stopped.value.status == status and signal.getsignal(number) == before


@BOTH
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
