"""Weights of ours on the Hugging Face hub: fetched by name and revision, found in its cache offline, and pushed."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import git_hash

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.files import file_digest
from diffiml_plugin.stored import shown

PREFIX = "hub:"  # of --checkpoint_path: hub:ORGANISATION/NAME, or with @REVISION
WEIGHTS, CARD = "model.safetensors", "README.md"
_MOVED = "somebody pushed there meanwhile; look at what is there, and push again"
_LARGEST = 8 * 2**30  # bytes of a file that is fetched; DINOv2's largest encoder has 4.5 GB
_COMMIT = re.compile("[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WITH_REVISION = re.compile(rf"{_NAME.pattern}(@[\w.-]+(/[\w.-]+)*)?")


def is_name(name: str) -> bool:
    """Whether this can be a repository's: ORGANISATION/NAME."""
    return bool(_NAME.fullmatch(name))


def fetch(name: str) -> Path:
    """The file of weights in the hub's cache, downloaded if it is not there yet. Nothing else is fetched.

    Args:
        name: ORGANISATION/NAME, or with @REVISION: a commit, which stays what it is, a tag or a branch.

    Raises:
        DiffIMLError: no such repository, revision or file; no network and nothing in the cache; as `download`.
    """
    if not _WITH_REVISION.fullmatch(name) or ".." in re.split("[/@]", name):  # of which paths are made
        raise DiffIMLError(
            f"{PREFIX} {shown(name)} is no ORGANISATION/NAME, or that with @ and a commit, tag or branch"
        )
    repository, _, revision = name.partition("@")
    try:
        return Path(download(repository, WEIGHTS, revision or None))
    except DiffIMLError:
        raise
    except Exception as error:  # the hub's client answers a broken network in any way
        reason = " ".join(str(error).split())
        raise DiffIMLError(
            f"{name} is no file or folder here, and {WEIGHTS} of that name cannot be had from the hub "
            f"({type(error).__name__}: {reason:.150}); check the name and the network, or pass a file of weights"
        ) from error


def is_cached(path: Path) -> bool:
    """Whether a file lies in the hub's cache, which other programs read too and where a commit stays what it is."""
    return path.parent.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


def download(repository: str, file: str, revision: str | None = None) -> str:
    """As `hf_hub_download`, which may raise anything, of a file whose size the hub states, and allows to be fetched.

    Raises:
        DiffIMLError: it has more than _LARGEST bytes, or the hub does not say how many.
    """
    get = partial(huggingface_hub.hf_hub_download, repository, file, revision=revision)
    if _COMMIT.fullmatch(revision or ""):  # which never changes
        with suppress(LocalEntryNotFoundError):
            return get(local_files_only=True)
    try:
        size = huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(repository, file, revision=revision)
        ).size
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # no network
        return get(local_files_only=True)
    if size is None or size > _LARGEST:
        stated = "an unknown number of" if size is None else size
        raise DiffIMLError(
            f"{file} of {repository} has {stated} bytes, and at most {_LARGEST} are fetched; download it yourself, and "
            "pass the file"
        )
    return get()


def push(folder: Path, name: str, private: bool, replace: bool) -> str:
    """Uploads a folder as a commit of the hub's repository of that name, which is made if it is not there.

    Args:
        private: make it so that few can see it.
        replace: take the place of whatever weights and card are there.

    Returns:
        the commit's hash, which pins it as a revision.

    Raises:
        DiffIMLError: no such name can be, no network, or no right to write there; other weights or another card are
            there, and not `replace`; it is there for all to see, and `private`.
    """
    if not is_name(name):
        raise DiffIMLError(f"cannot push to {shown(name)}; expected ORGANISATION/NAME")
    try:
        hub = huggingface_hub.HfApi()
        hub.create_repo(name, private=private, exist_ok=True)
        there = hub.model_info(name, files_metadata=True)
        if private and not there.private:
            raise DiffIMLError(
                f"{name} is there already, for all to see; make it private on the hub, or choose another"
            )
        others = [file for file in (WEIGHTS, CARD) if not replace and _holds_another(there, folder / file)]
        if others:
            raise DiffIMLError(
                f"{name} holds another {' and '.join(others)}, which would be replaced; choose another name, or say "
                "push_to_hub(..., replace=True), after which the hub keeps them as an earlier commit"
            )
        return hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[WEIGHTS, CARD],
            commit_message="Weights and model card",
            parent_commit=there.sha,  # if another commit came meanwhile, the hub refuses this one
        ).oid
    except DiffIMLError:
        raise
    except Exception as error:  # as above
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        status = getattr(getattr(error, "response", None), "status_code", None)
        mend = _MOVED if status == 412 else "log in by `hf auth login`, as someone who may write there"
        raise DiffIMLError(f"cannot push to {name} ({type(error).__name__}: {reason:.150}); {mend}") from error


def _holds_another(repository: huggingface_hub.ModelInfo, file: Path) -> bool:
    """Whether a file of that name and other bytes is there."""
    for there in repository.siblings or ():
        if there.rfilename == file.name:
            return there.lfs.sha256 != file_digest(file) if there.lfs else there.blob_id != git_hash(file.read_bytes())
    return False
