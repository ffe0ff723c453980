"""DiffIML, image manipulation localization by sampling masks, as a plugin of IMDL-BenCo.

Importing the package is instant; the names below load on first use.
"""

TYPE_CHECKING = False  # as in typing, whose import would take longer than all of this; type checkers know the name
if TYPE_CHECKING:
    from diffiml_plugin.api import Detector as Detector
    from diffiml_plugin.api import Result as Result
    from diffiml_plugin.api import load as load
    from diffiml_plugin.api import load_model as load_model
    from diffiml_plugin.errors import DiffIMLError as DiffIMLError
    from diffiml_plugin.method.config import DiffIMLConfig as DiffIMLConfig
    from diffiml_plugin.method.diffiml import DiffIML as DiffIML
    from diffiml_plugin.method.diffiml import Prediction as Prediction

__version__ = "0.1.0"

_HOMES = {
    "Detector": "diffiml_plugin.api",
    "DiffIML": "diffiml_plugin.method.diffiml",
    "DiffIMLConfig": "diffiml_plugin.method.config",
    "DiffIMLError": "diffiml_plugin.errors",
    "Prediction": "diffiml_plugin.method.diffiml",
    "Result": "diffiml_plugin.api",
    "load": "diffiml_plugin.api",
    "load_model": "diffiml_plugin.api",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    import importlib  # here: the start-up hook imports this package into every interpreter

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
