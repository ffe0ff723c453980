"""DiffIML, image manipulation localization by sampling masks, as a plugin of IMDL-BenCo.

Importing the package is instant; the names below load on first use.
"""

__version__ = "0.1.0"

_HOMES = {
    "DiffIML": "diffiml_plugin.method.diffiml",
    "DiffIMLConfig": "diffiml_plugin.method.config",
    "DiffIMLError": "diffiml_plugin.errors",
    "Prediction": "diffiml_plugin.method.diffiml",
    "load_model": "diffiml_plugin.models.checkpoints",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    import importlib  # here: the start-up hook imports this package into every interpreter

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
