"""Fetches a model from the Hugging Face Hub, or from its local cache when there is no network."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, errors, hf_hub_download, is_offline_mode

from finetune.backbones.families import SUPPORTED, family_of, refuse_other_pipelines
from finetune.backbones.part import read_json
from finetune.config import ModelSection
from finetune.errors import ModelError

_CHECK = "Check the spelling, or give a folder or a .safetensors file that is on this machine."


def download(repository: str, section: ModelSection) -> Path:
    """Downloads a diffusers model from the Hub.

    Its configuration comes first, so that a model of another kind is refused before gigabytes are downloaded.

    Args:
        repository: The Hub id, `owner/name`.
        section: The recipe's model, for its revision and permission to load pickles.

    Returns:
        The folder in the Hub's cache.

    Raises:
        ModelError: If there is no such model, no access, no network and no cached copy, or it is
            another kind of model.
    """
    offline = is_offline()
    where: dict[str, Any] = {"revision": section.revision, "local_files_only": offline}
    try:
        index = _json(repository, "model_index.json", where)
        refuse_other_pipelines(index, repository)
        family_of(index, _json(repository, "unet/config.json", where), repository)
    except (OSError, errors.EntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise hub_fault(error, repository) from error
    return _weights(repository, where, section.allow_pickle)


def is_offline() -> bool:
    """Whether the Hub cannot be reached, or is not to be."""
    # One short request instead of the library's half a minute of retries for each file.
    if is_offline_mode():
        return True
    try:
        urlopen(Request(HfApi().endpoint, method="HEAD"), timeout=5).close()
    except HTTPError:
        return False  # any answer will do
    except URLError as error:
        # The Hub's library may be configured with a custom certificate that this request does not know.
        return not isinstance(error.reason, ssl.SSLError)
    except OSError:
        return True
    return False


def _weights(repository: str, where: dict[str, Any], allow_pickle: bool) -> Path:
    # The safety checker is a gigabyte that training has no use for; a part given as None is not downloaded.
    options: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    attempts: list[dict[str, Any]] = [{"use_safetensors": True}, {"use_safetensors": True, "variant": "fp16"}]
    attempts += [{"use_safetensors": False}] if allow_pickle else []
    for number, attempt in enumerate(attempts, 1):
        try:
            folder = DiffusionPipeline.download(repository, **where, **options, **attempt)
            return Path(folder)
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            # No safetensors (or only as fp16) is an OSError or ValueError too, so the next is tried.
            if number == len(attempts):
                raise hub_fault(error, repository) from error
    raise AssertionError


def _json(repository: str, name: str, where: dict[str, Any]) -> dict[str, Any]:
    return read_json(Path(hf_hub_download(repository, name, **where)))


def hub_fault(
    error: Exception,
    repository: str,
    *,
    kind: str = "a diffusers model",
    fix: str = SUPPORTED,
    offline: str = "use --model storybook, or give a model that is on this machine",
) -> ModelError:
    """The error for a model that cannot be downloaded.

    Args:
        error: What the Hub's library raised.
        repository: The Hub id.
        kind: What it should have been.
        fix: What to use if it is something else.
        offline: What to do without a network.
    """
    # Order matters: a gated repository and a missing local entry are subclasses of other errors.
    if isinstance(error, errors.GatedRepoError):
        what = "This model requires accepting its license."
        fix = "Accept it on its Hub page and run `hf auth login`."
    elif isinstance(error, errors.RepositoryNotFoundError):
        what, fix = "There is no such model on the Hub (or it is private).", _CHECK
    elif isinstance(error, errors.RevisionNotFoundError):
        what, fix = "The model has no such revision.", "Leave out model.revision, or name one that exists."
    elif isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | ConnectionError):
        what = "The Hub cannot be reached, and the model is not in the local cache."
        fix = f"Connect to the network, {offline}."
    elif isinstance(error, errors.EntryNotFoundError):
        what = f"This Hub repository is not {kind}."
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what, fix = f"The model cannot be downloaded: {reason.rstrip('.')}.", _CHECK
    return ModelError(what, where=repository, fix=fix)
