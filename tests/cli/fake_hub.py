"""A stand-in for the hub: folders on disk are the commits of its repositories."""

import importlib
import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import filter_repo_objects, hf_raise_for_status

httpx: Any = importlib.import_module(HTTPError.__module__)  # the library that the hub's uses
ASK = httpx.Request("GET", "https://huggingface.co/api/models/me/mine")
CREATE, UPLOAD = inspect.signature(HfApi.create_repo), inspect.signature(HfApi.upload_folder)
INFO = inspect.signature(HfApi.repo_info)
DOWNLOAD = inspect.signature(huggingface_hub.snapshot_download)


def refusal(status: int, code: str, said: str = "") -> Exception:
    """What the hub's library raises when the hub answers so."""
    headers = {"X-Error-Code": code, "X-Error-Message": said, "X-Request-Id": "Root=1-67"}
    with pytest.raises(HTTPError) as raised:
        hf_raise_for_status(httpx.Response(status, headers=headers, request=ASK))
    return raised.value


def files(folder: Path) -> dict[str, Path]:
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


class Hub:
    """Repositories, whose commits are folders called main, commit_0, commit_1 ..."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "hub"
        self.asked: list[dict[str, Any]] = []
        self.private: dict[str, bool] = {}
        self.failure: Exception | None = None

    def commit(self, repository: str, revision: str = "main") -> Path:
        return self.folder / repository / revision

    def create_repo(self, *arguments: Any, **named: Any) -> None:
        asked = self._ask(CREATE, arguments, named)
        self.private.setdefault(asked["repo_id"], asked["private"])  # of another it is ignored
        self.commit(asked["repo_id"]).mkdir(parents=True, exist_ok=True)

    def repo_info(self, *arguments: Any, **named: Any) -> SimpleNamespace:
        asked = self._ask(INFO, arguments, named)
        return SimpleNamespace(private=self.private[asked["repo_id"]])

    def upload_folder(self, *arguments: Any, **named: Any) -> str:
        """Commit a folder's files beside those of the commit before, as the hub does."""
        asked = self._ask(UPLOAD, arguments, named)
        main, new = self.commit(asked["repo_id"]), files(Path(asked["folder_path"]))
        if patterns := asked.get("delete_patterns"):
            for name in filter_repo_objects(files(main), allow_patterns=patterns):
                (main / name).unlink()
        for name in filter_repo_objects(new, allow_patterns=asked.get("allow_patterns")):
            (main / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(new[name], main / name)
        number = len(list(main.parent.iterdir())) - 1
        shutil.copytree(main, main.with_name(f"commit_{number}"))
        return f"https://huggingface.co/{asked['repo_id']}/commit/{number}"

    def snapshot_download(self, *arguments: Any, **named: Any) -> str:
        asked = self._ask(DOWNLOAD, arguments, named)
        commit = self.commit(asked["repo_id"], asked.get("revision") or "main")
        if not commit.parent.is_dir():
            raise refusal(401, "RepoNotFound")
        if not commit.is_dir():
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {commit.name}")
        copy = self.folder / "fetched" / str(len(self.asked))
        for name in filter_repo_objects(files(commit), allow_patterns=asked["allow_patterns"]):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(commit / name, copy / name)
        return str(copy)

    def _ask(self, real: inspect.Signature, given: Sequence[Any], named: Any) -> dict[str, Any]:
        self.asked.append(real.bind(*given, **named).arguments)  # the real one takes these, too
        if self.failure is not None:
            raise self.failure
        return self.asked[-1]
