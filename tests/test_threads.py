import os
import signal
import subprocess
import sys
import threading

from diffiml_plugin.threads import quiet


def test_a_process_forked_while_another_thread_loads_can_load():
    inside = threading.Event()

    def load():
        with quiet():
            inside.set()
            threading.Event().wait(0.5)

    thread = threading.Thread(target=load)
    thread.start()
    inside.wait()
    if not (child := os.fork()):
        signal.alarm(10)  # ends one that waits for ever
        with quiet():
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


def test_a_system_that_does_not_fork_can_import_it():
    code = "import os; del os.register_at_fork; import diffiml_plugin.threads"
    subprocess.run([sys.executable, "-c", code], check=True)
