"""The start-up hook: `benco` answers this package's verbs, and the framework's registry knows DiffIML.

`diffiml_plugin.pth` imports this module in every interpreter that starts, so it takes nothing but the standard
library, and does nothing before IMDLBenCo is imported. Then
- the package is completed by registering DiffIML, so that the framework's own scripts find it;
- the `main` of `IMDLBenCo.cli` becomes ours, which hands `init`, `env` and `-v` back to the framework's;
- the console script `benco`, which imports `main` from `IMDLBenCo.cli`, is given a stand-in for it: the framework
  itself takes seconds to import, and few verbs need it.
In the processes that a command of ours starts it also has imports kept away from the current folder (`imports.py`).
`DIFFIML_HOOK=0` in the environment turns all this off.
"""

import os
import sys

_FRAMEWORK = "IMDLBenCo"
_FRAMEWORK_CLI = "IMDLBenCo.cli"


class FrameworkFinder:
    """An entry of `sys.meta_path` that adds to the import of IMDLBenCo, and leaves every other import alone."""

    def __init__(self):
        self._in_console_script = True  # until `main` is called there, or found not to be

    def find_spec(self, name, path=None, target=None):
        if name not in (_FRAMEWORK, _FRAMEWORK_CLI):
            return None
        self._in_console_script &= _is_console_script() and _our_main() is not None
        if self._in_console_script:
            return self._stand_in(name)
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in behind)), None)
        if spec is not None:
            _run_after(spec.loader, _register if name == _FRAMEWORK else _wrap_main)
        return spec

    def _stand_in(self, name):
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self, is_package=name == _FRAMEWORK)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if module.__name__ == _FRAMEWORK_CLI:
            module.main = self._main

    def _main(self):
        self._in_console_script = False
        for name in (_FRAMEWORK_CLI, _FRAMEWORK):  # whoever imports them from now on means the real ones
            del sys.modules[name]
        return _our_main()()


def _is_console_script():
    """Whether this process runs the script `benco`; not so in worker processes, which import it to find classes."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.basename(file or "") == "benco"


def _our_main():
    """The entry point of our command; None if the package is damaged: then `benco` stays the framework's."""
    try:
        from diffiml_plugin.cli.main import main
    except Exception:
        return None
    return main


def _run_after(loader, complete):
    """Has the loader call `complete(module)` once it has executed the module."""
    execute = loader.exec_module

    def exec_module(module):
        execute(module)
        complete(module)

    loader.exec_module = exec_module


def _wrap_main(module):
    from functools import wraps

    @wraps(module.main)
    def main():
        return (_our_main() or main.__wrapped__)()

    module.main = main


def _register(module):
    if "diffiml_plugin.framework.imdlbenco" in sys.modules:  # the package itself imports the framework, and registers
        return
    try:
        from diffiml_plugin.framework.adapters import register

        register()
    except Exception as error:
        import warnings

        warnings.warn(f"IMDLBenCo works, but DiffIML could not be registered: {error!r}", stacklevel=2)


def _keep_away():
    from diffiml_plugin.imports import keep_away

    keep_away()


if os.environ.get("DIFFIML_HOOK") != "0":
    sys.meta_path.insert(0, FrameworkFinder())
    if os.environ.get("DIFFIML_KEPT_AWAY"):  # a process that a command of ours started
        _keep_away()
