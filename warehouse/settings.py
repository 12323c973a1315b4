"""What an installation is: where its state lives, its ports, its secrets.

The only module that reads the environment. `tierhouse.py` builds one `Settings` and passes it down.
"""

import os
import secrets
from datetime import date
from enum import StrEnum
from pathlib import Path

from pydantic import Field, PostgresDsn, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent.parent


# In the home: the copy of raw, and the features that DuckDB makes of it. A folder of its own,
# closed to others, because DuckDB writes more files beside it.
DUCKDB_FILE = "duckdb/warehouse.duckdb"


class Target(StrEnum):
    """The engines that build the features, by the name of their dbt target."""

    postgres = "postgres"
    duckdb = "duckdb"


class ValueModel(StrEnum):
    """The models that training can put before the gate, by their name on the scoreboard."""

    lightgbm_hurdle = "lightgbm_hurdle"
    hybrid = "hybrid"


class TierhouseError(Exception):
    """A message for a person: what is wrong, where, and what to do. Ends with exit code 1."""


class WrongUsage(TierhouseError):
    """The command was asked for something that cannot be. Ends with exit code 2."""


class Refused(TierhouseError):
    """A gate or a guard said no. Ends with exit code 3."""


def one_line(said: object) -> str:
    """What a library said, as a part of a message."""
    return " ".join(str(said or "no message").split())[:400]


class Settings(BaseSettings):
    """One installation, read from `TIERHOUSE_*` variables.

    `home` holds all state, so installations with different homes live side by side.
    """

    model_config = SettingsConfigDict(env_prefix="TIERHOUSE_", env_ignore_empty=True, frozen=True)

    home: Path = PROJECT / ".tierhouse"
    landing: Path | None = None
    warehouse_url: SecretStr | None = None
    warehouse_port: int | None = Field(default=None, ge=1, le=65535)
    analyst_url: SecretStr | None = None
    airflow_port: int = Field(default=8080, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    dashboard_port: int = Field(default=8501, ge=1, le=65535)
    mlflow_tracking_uri: SecretStr | None = Field(
        default=None, validation_alias="MLFLOW_TRACKING_URI"
    )
    horizon_days: int = Field(default=90, ge=1)
    value_model: ValueModel = ValueModel.lightgbm_hurdle
    tier_policy: Path = PROJECT / "ml" / "tier_policy.yml"
    keep_versions: int = Field(default=8, ge=2)
    dag_run: str | None = None
    daily_source: str | None = None
    daily_since: date | None = None

    @field_validator("home", "landing", "tier_policy")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        try:
            return path and path.expanduser().absolute()
        except RuntimeError:
            raise ValueError("the home directory of that user is not known") from None

    @field_validator("warehouse_url", "analyst_url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        address = url.get_secret_value().replace("postgres://", "postgresql://", 1)
        if not address.startswith("postgresql://"):
            raise ValueError("an address begins with postgresql://")
        TypeAdapter(PostgresDsn).validate_python(address)
        return SecretStr(address)

    @property
    def landing_folder(self) -> Path:
        """Where deliveries arrive, as `<source>/<day>/`: TIERHOUSE_LANDING, or in the home."""
        return self.landing or self.home / "landing"

    def for_dags(self) -> dict[str, str]:
        """The variables whose paths DAGs and tasks, which run elsewhere, must find absolute."""
        found: dict[str, object] = {
            "TIERHOUSE_TIER_POLICY": self.tier_policy,
            "TIERHOUSE_LANDING": self.landing_folder,
        }
        if self.daily_source is not None:
            folder = Path(self.daily_source).expanduser().absolute()
            is_own = (folder / "source.yml").is_file()
            found["TIERHOUSE_DAILY_SOURCE"] = folder if is_own else self.daily_source
        return {name: str(value) for name, value in found.items()}

    def secret_file(self, name: str) -> Path:
        """Where the secret of this name is kept."""
        return self.home / "secrets" / name

    def secret(self, name: str) -> str:
        """The installation's secret of this name, generated once into `home/secrets` (mode 600)."""
        path = self.secret_file(name)
        try:
            return path.read_text()
        except FileNotFoundError:
            pass
        self.home.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f".{name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        try:
            os.link(draft, path)  # the first writer wins, and nobody reads half a secret
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text()


def read_settings() -> Settings:
    """The settings of this process.

    Raises WrongUsage: naming each variable that is wrong, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{_variable(str(problem['loc'][0]))}: {problem['msg']}" for problem in error.errors()
        )
        raise WrongUsage(
            f"The settings in the environment cannot be used. {wrong}. Correct or unset them."
        ) from None


def _variable(field: str) -> str:
    return field if field.isupper() else f"TIERHOUSE_{field.upper()}"
