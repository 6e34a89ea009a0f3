"""Where advisor keeps its files and how it behaves; each value knows its origin.

The only module besides the command line that reads the environment. Order: flags, environment, project file
(``advisor.yaml`` in the working folder), user file (``config.yaml`` in the configuration folder), defaults.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from advisor.errors import AdvisorError, did_you_mean
from advisor.facts import redact
from advisor.facts.base import Shape
from advisor.facts.text import clean

# name -> (environment variable, default)
KEYS: Final[dict[str, tuple[str, object]]] = {
    "offline": ("ADVISOR_OFFLINE", False),
    "host": ("ADVISOR_HOST", "127.0.0.1"),
    "port": ("ADVISOR_PORT", 8080),
    "recover": ("ADVISOR_RECOVER", "ask"),
    "hub_endpoint": ("HF_ENDPOINT", "https://huggingface.co"),
    "llama_cpp_dir": ("ADVISOR_LLAMA_CPP_DIR", ""),
    "ollama_host": ("OLLAMA_HOST", ""),
}
_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"0", "false", "no", "off", ""}
_MAX_FILE_BYTES: Final = 64 * 1024


class Value(Shape, frozen=True):
    """One setting and where it was set."""

    value: str | int | bool
    origin: str


class Paths(Shape, frozen=True):
    """The folders. ``cache`` may be deleted at any time (artifacts, environments, downloads); ``state`` may not
    (deployments, kept plans, logs); ``config`` holds the user's own rules and profiles."""

    cache: str
    state: str
    config: str

    @property
    def store(self) -> Path:
        """Content-addressed artifacts."""
        return Path(self.cache) / "store" / "v1"

    @property
    def envs(self) -> Path:
        """Managed environments."""
        return Path(self.cache) / "envs" / "v1"

    @property
    def deployments(self) -> Path:
        """One folder a deployment."""
        return Path(self.state) / "deployments"

    @property
    def plans(self) -> Path:
        """Plans kept by id."""
        return Path(self.state) / "plans"

    @property
    def logs(self) -> Path:
        """advisor's own logs: bug reports and the journal."""
        return Path(self.state) / "logs"


class Settings(Shape, frozen=True):
    """Everything that a flag, the environment or a file may change."""

    paths: Paths
    values: dict[str, Value]

    def get(self, key: str) -> str | int | bool:
        """The value of ``key`` (a name of ``KEYS``)."""
        return self.values[key].value

    @property
    def offline(self) -> bool:
        """No network may be used."""
        return bool(self.get("offline"))


def without_network(settings: Settings) -> Settings:
    """The same settings for a run that may download nothing."""
    return Settings(settings.paths, settings.values | {"offline": Value(True, "flag (--no-download)")})


def home(env: Mapping[str, str] | None = None) -> Path | None:
    """The user's home folder; ``None`` where there is none."""
    env = os.environ if env is None else env
    if env.get("HOME"):
        return Path(env["HOME"]).absolute()
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return found if str(found) not in ("", "/") else None


def _expanded(given: str) -> Path:
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as e:  # ~ without a home, ~name of nobody
        raise AdvisorError(
            "no-home", f"ADVISOR_HOME={given} names no folder: {e}", hint="ADVISOR_HOME=/var/lib/advisor advisor paths"
        ) from e


def _possible(folder: Path) -> Path:
    """``folder``, if files can be kept under such a name at all; whether it is there or can be written shows later."""
    why = None
    if clean(str(folder), None, one_line=False) != str(folder) or "\n" in str(folder):
        why = "the path has characters that are not text"  # JSON and logs, which name it, could not tell it
    try:
        folder.lstat()
    except OSError as e:
        if e.errno == errno.ENAMETOOLONG:
            why = "the path is too long"
    if why is not None:
        raise AdvisorError(
            "no-home",
            f"No files can be kept in {clean(str(folder))}: {why}.",
            hint="ADVISOR_HOME=/var/lib/advisor advisor paths",
        )
    return folder


def find_paths(env: Mapping[str, str] | None = None) -> Paths:
    """Locate the folders: ``ADVISOR_HOME`` holds all three, else the XDG folders, else the home folder's usual ones.

    Raises:
        AdvisorError: ``no-home`` when none of them is set, or it is too long or not text.
    """
    env = os.environ if env is None else env
    if env.get("ADVISOR_HOME"):
        root = _possible(_expanded(env["ADVISOR_HOME"]))
        return Paths(cache=str(root / "cache"), state=str(root / "state"), config=str(root / "config"))
    at_home = home(env)

    def folder(variable: str, default: str) -> str:
        given = env.get(variable)
        if given and Path(given).is_absolute():
            return str(_possible(Path(given) / "advisor"))
        if at_home is None:
            raise AdvisorError(
                "no-home",
                f"Neither HOME nor {variable} is set, so there is no folder to keep files in.",
                hint="ADVISOR_HOME=/var/lib/advisor advisor paths",
            )
        return str(_possible(at_home / default / "advisor"))

    return Paths(
        cache=folder("XDG_CACHE_HOME", ".cache"),
        state=folder("XDG_STATE_HOME", ".local/state"),
        config=folder("XDG_CONFIG_HOME", ".config"),
    )


def _coerce(key: str, raw: object, origin: str) -> str | int | bool:
    default = KEYS[key][1]
    if isinstance(default, bool):
        if isinstance(raw, bool):
            return raw
        text = str(raw).strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise AdvisorError("bad-option", f"{origin}: {key} is yes or no, not {raw!r}.")
    if isinstance(default, int):
        try:
            return int(str(raw))
        except ValueError:
            raise AdvisorError("bad-option", f"{origin}: {key} is a whole number, not {raw!r}.") from None
    return str(raw)


def _read_file(path: Path) -> dict[str, Any]:
    """Names and plain values of a settings file; nothing of YAML beyond that, so nothing can grow when it is read."""
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as f:
            raw = f.read(_MAX_FILE_BYTES + 1)
    except OSError as e:
        raise AdvisorError("file-unreadable", f"{path} cannot be read: {e.strerror}.", hint="advisor paths") from e
    if len(raw) > _MAX_FILE_BYTES:
        raise AdvisorError("bad-settings-file", f"{path} is larger than {_MAX_FILE_BYTES} bytes.")
    import yaml

    data: dict[str, Any] = {}
    try:
        loader = yaml.SafeLoader(raw)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise AdvisorError("bad-settings-file", f"{path} does not hold names and values.")
        for name, value in node.value:
            where = f"{path}:{name.start_mark.line + 1}"
            key = name.value if isinstance(name, yaml.ScalarNode) else "(no name)"
            if key not in KEYS:
                near = did_you_mean(str(key), list(KEYS))
                raise AdvisorError("bad-settings-file", f"{where}: there is no setting {clean(key)!r}.{near}")
            if key in data:
                raise AdvisorError("bad-settings-file", f"{where}: {key} is set a second time.")
            if not isinstance(value, yaml.ScalarNode):
                raise AdvisorError("bad-settings-file", f"{where}: {key} is one value, not a list or a map.")
            data[key] = loader.construct_object(value)
    except (UnicodeDecodeError, RecursionError, ValueError, yaml.YAMLError) as e:
        raise AdvisorError("bad-settings-file", f"{path} cannot be read: {clean(str(e), 300)}") from e
    return data


def load(
    flags: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    project: Path | None = None,
) -> Settings:
    """Put the settings together; ``flags`` with ``None`` values count as not given.

    Raises:
        AdvisorError: ``no-home``, ``bad-settings-file`` or ``bad-option``.
    """
    env = os.environ if env is None else env
    paths = find_paths(env)
    user_file = Path(paths.config) / "config.yaml"
    project_file = (project or Path.cwd()) / "advisor.yaml"
    layers: list[tuple[str, Mapping[str, object]]] = [
        ("flag", {k: v for k, v in (flags or {}).items() if v is not None}),
        ("environment", {k: env[var] for k, (var, _) in KEYS.items() if var in env}),
        (str(project_file), _read_file(project_file)),
        (str(user_file), _read_file(user_file)),
    ]
    if env.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        layers.insert(2, ("environment (HF_HUB_OFFLINE)", {"offline": True}))
    values: dict[str, Value] = {}
    for key, (_, default) in KEYS.items():
        for origin, layer in layers:
            if key in layer:
                values[key] = Value(value=_coerce(key, layer[key], origin), origin=origin)
                break
        else:
            values[key] = Value(value=_coerce(key, default, "default"), origin="default")
    return Settings(paths=paths, values=values)


def child_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The scrubbed environment that child processes start from: no Python, loader or secret variables.

    What a package installer needs (proxy, certificates, its own configuration) and what selects devices is kept.
    """
    env = os.environ if env is None else env
    keep = (
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "TEMP",
        "TMP",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "XDG_CONFIG_HOME",
        "XDG_CONFIG_DIRS",
        "XDG_CACHE_HOME",
        "SYSTEMROOT",
        "USERPROFILE",
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HSA_OVERRIDE_GFX_VERSION",
        "ONEAPI_DEVICE_SELECTOR",
        "GGML_VK_VISIBLE_DEVICES",
        "GGML_VK_VISIBLE_DEVICES",
        "VK_DRIVER_FILES",
        "VK_ICD_FILENAMES",
        "PIP_CACHE_DIR",
        "UV_CACHE_DIR",
    )
    out = {k: env[k] for k in keep if k in env}
    out.update(
        {
            k: v
            for k, v in env.items()
            if k.startswith(("PIP_", "UV_"))
            and k not in ("PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_REQUIREMENT", "PIP_ROOT")
        }
    )
    out["PYTHONNOUSERSITE"] = "1"
    out["PYTHONUTF8"] = "1"
    return out


def hub_token(env: Mapping[str, str] | None = None) -> str | None:
    """The user's token for the hub: ``HF_TOKEN``, else what ``hf auth login`` kept. It is no setting: never shown.

    ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` is heeded.

    Raises:
        AdvisorError: ``bad-option`` for a token that cannot be one; its value is not in the message.
    """
    env = os.environ if env is None else env
    if env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").strip().lower() in _TRUE:
        return None
    where, found = "HF_TOKEN", env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN") or ""
    if not found.strip():
        file = _token_file(env)
        where = clean(str(file))
        try:
            found = file.read_bytes()[:4096].decode("ascii", "replace") if file is not None and file.is_file() else ""
        except OSError:  # a file that cannot be read holds nobody's token
            found = ""
    found = found.strip()
    if not found:
        return None
    if not found.isascii() or not found.isprintable() or " " in found or len(found) > 2000:
        raise AdvisorError("bad-option", f"{where} does not hold a token: it has characters that tokens do not have.")
    return found


def _token_file(env: Mapping[str, str]) -> Path | None:
    if env.get("HF_TOKEN_PATH"):
        return Path(env["HF_TOKEN_PATH"])
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]) / "token"
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "huggingface" / "token"
    at_home = home(env)
    return at_home / ".cache" / "huggingface" / "token" if at_home is not None else None


def server_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a model server starts from: as ``child_environment``, without what only installers need.

    Package indexes and proxies may carry a login, and a server's environment is kept in its deployment.
    """
    child = child_environment(env)
    return {k: v for k, v in child.items() if not k.startswith(("PIP_", "UV_")) and not k.lower().endswith("_proxy")}


def folder_variables(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that say where advisor's folders are, as far as they are set: a later run needs the same."""
    env = os.environ if env is None else env
    names = ("ADVISOR_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    return {name: str(_expanded(env[name])) for name in names if env.get(name)}


def user_config(env: Mapping[str, str] | None = None) -> Path:
    """The folder of the user's configuration, of all programs.

    Raises:
        AdvisorError: ``no-home``.
    """
    env = os.environ if env is None else env
    given, at_home = env.get("XDG_CONFIG_HOME"), home(env)
    if given and Path(given).is_absolute():
        return Path(given)
    if at_home is None:
        raise AdvisorError("no-home", "Without HOME or XDG_CONFIG_HOME a unit has no folder.", hint="advisor paths")
    return at_home / ".config"


# Variables that say which devices a program may see, or what kind of system this is.
PROBE_VARIABLES: Final = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HSA_OVERRIDE_GFX_VERSION"),
    *("ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK", "GGML_VK_VISIBLE_DEVICES", "WSL_DISTRO_NAME", "container"),
    *("VK_DRIVER_FILES", "VK_ICD_FILENAMES"),
)


def secrets(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values of the environment that must never be shown: tokens, keys, passwords."""
    return redact.secrets(os.environ if env is None else env)


def probe_variables(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Those of ``PROBE_VARIABLES`` that are set."""
    env = os.environ if env is None else env
    return {name: env[name] for name in PROBE_VARIABLES if name in env}
