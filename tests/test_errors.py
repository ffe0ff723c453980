import pytest

from diffiml_plugin.errors import DiffIMLError, device_failed, of_arguments


def test_a_device_fails_by_torchs_word_alone():
    assert device_failed(RuntimeError("CUDA error: unspecified launch failure"))
    assert not device_failed(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"))
    assert not device_failed(DiffIMLError("CUDA error: a photo of this name.jpg cannot be read"))


SAID = {
    "--image_size 0 is none; leave the flag out, or --if_padding.": "image_size 0 is none; leave the argument out, or "
    "if_padding.",
    "unknown flags --a and --b": "unknown arguments a and b",
}
OF_PATHS = ("flag/best.safetensors does not exist", "/a/flag/--red.jpg, flag.png and --blue.jpg are broken")


@pytest.mark.parametrize(("message", "said"), [*SAID.items(), *zip(OF_PATHS, OF_PATHS, strict=True)])
def test_messages_speak_of_arguments_and_leave_paths_alone(message, said):
    with pytest.raises(DiffIMLError) as caught, of_arguments():
        raise DiffIMLError(message)
    assert str(caught.value) == said
