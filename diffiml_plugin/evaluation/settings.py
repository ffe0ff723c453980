"""The settings of testing. Each field is a flag; where IMDLBenCo has one it keeps its name."""

from dataclasses import dataclass

from diffiml_plugin.settings import COMPILE_MODES, DATA, MODEL, PRECISIONS, RUN, WRITTEN, CommonSettings, flag


@dataclass(frozen=True)
class TestSettings(CommonSettings):
    """The flags of `benco test`. Raises DiffIMLError out of range."""

    __test__ = False  # pytest: no test class

    model: str = flag("", "name in the framework's registry (the checkpoint's)", group=MODEL)
    checkpoint_path: str = flag(
        "", "weights to test: a file, a training run's folder (its best.safetensors), or small", group=MODEL
    )
    test_data_path: str = flag(
        "",
        "test sets: a folder with Tp/ and Gt/, a JSON list, or a JSON of {name: path}",
        alias="test_data_json",
        group=DATA,
    )
    strict: bool = flag(
        False, "refuse lists that name an image twice (else it counts once, with a warning)", group=DATA
    )
    precision: str = flag("fp32", "of encoder and denoiser; auto: fp16 on a GPU", PRECISIONS, group=RUN)
    compile: str = flag("auto", "compile DiffIML and capture CUDA graphs; auto: on a GPU", COMPILE_MODES, group=RUN)
    tta: bool | None = flag(None, "average the predictions of an image and of its mirror image", group=MODEL)
    experiment: str = flag(
        "", "rows of `benco report` that this fills, such as 'table5/DiffIML table6d/on'", group=WRITTEN
    )
