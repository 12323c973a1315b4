"""A source: a folder with a source.yml and one DuckDB SELECT per canonical table.

The SELECT reads the view `file`, whose columns are those that source.yml declares, in the types
it declares, and gives the columns of the shop contract.
"""

import importlib.util
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import duckdb
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from warehouse.contract import BOUNDS, TABLES
from warehouse.settings import PROJECT, Refused, TierhouseError, WrongUsage

BUILT_IN = PROJECT / "warehouse" / "sources"
REFERENCES = {"product_id": "products", "customer_id": "customers", "campaign_id": "campaigns"}

Kind = Literal["text", "number", "time", "date", "customer", "personal"]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Rate = Annotated[Decimal, Field(gt=0, lt=10**8, decimal_places=12)]
Limit = Annotated[float, Field(allow_inf_nan=False)]
Bounds = tuple[Limit | None, Limit | None]  # null: no limit on that side


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileColumn(_Strict):
    """One column of the shop's files: its type, the headers it goes by, how a time is written.

    `customer`: an identifier, which becomes a pseudonym before the mapping sees it.
    `personal`: text that lands in the schema pii only, and is left out of quarantined rows.
    """

    type: Kind
    headers: tuple[str, ...] = Field(default=(), alias="from")
    optional: bool = False
    format: str | None = None

    @field_validator("headers", mode="before")
    @classmethod
    def _one_or_many(cls, headers: Any) -> Any:
        if not headers:
            raise ValueError("`from` names no header")
        return (headers,) if isinstance(headers, str) else headers

    @field_validator("format")
    @classmethod
    def _readable(cls, format: str | None) -> str | None:
        try:
            duckdb.execute("select try_strptime('', $format)", {"format": format})
        except duckdb.Error:
            raise ValueError(f"{format!r} is no format of a time; one is %d/%m/%Y %H:%M") from None
        return format


class TableMapping(_Strict):
    """How the files of one canonical table are found, read and checked."""

    files: tuple[str, ...] = Field(min_length=1)
    columns: Mapping[str, FileColumn]
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    optional: bool = False
    may_be_empty: bool = False
    changed_rows: Literal["correction", "conflict"] | None = None
    references: tuple[str, ...] = ()
    bounds: Mapping[str, Bounds] = {}

    @field_validator("files")
    @classmethod
    def _below_the_folder(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern:
                raise ValueError(f"{pattern!r} is no pattern below the folder of the files")
        return patterns

    @field_validator("columns")
    @classmethod
    def _other_names(cls, columns: Mapping[str, FileColumn]) -> Mapping[str, FileColumn]:
        for name in ("file_name", "sheet", "source_row"):
            if name in columns:
                raise ValueError(f"{name} is a column that the view `file` has anyway")
        return columns

    @field_validator("columns", mode="before")
    @classmethod
    def _short_form(cls, columns: Any) -> Any:
        if not isinstance(columns, dict):
            return columns
        full = {
            name: {"type": column} if isinstance(column, str) else dict(column)
            for name, column in columns.items()
        }
        for name, column in full.items():
            column.setdefault("from", name)
        return full

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError(f"there is no encoding {encoding!r}") from None
        return encoding


class Source(_Strict):
    """A shop's mapping to the contract. `name` is the folder's; `select` maps table -> SQL."""

    name: str
    folder: Path
    selects: Mapping[str, str]
    currency: Currency
    rates: Mapping[Currency, Rate] = {}
    timezone: str = "UTC"
    not_products: tuple[str, ...] = ()
    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)
    missing_day: Literal["refused", "allowed"] = "refused"
    grace_hours: float = Field(default=6, ge=0, le=24 * 365)
    package: str | None = None
    package_folder: str = ""
    tables: Mapping[str, TableMapping] = Field(min_length=1)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError(f"there is no time zone {zone!r}; one is Europe/London")
        return zone

    @model_validator(mode="after")
    def _of_the_contract(self) -> "Source":
        if self.currency in self.rates:
            raise ValueError(f"{self.currency} is the reporting currency and has no rate")
        for name, mapping in self.tables.items():
            if name not in TABLES:
                raise ValueError(f"{name} is no table of the contract: {', '.join(TABLES)}")
            contract = TABLES[name]
            for column in (*mapping.bounds, *mapping.references):
                if column not in contract.columns:
                    raise ValueError(f"{name} has no column {column}")
            for column in mapping.bounds:
                if not contract.kind(column).startswith(("decimal", "integer", "bigint")):
                    raise ValueError(f"{name}.{column} is no number and has no bounds")
            for column in mapping.references:
                if column not in REFERENCES or REFERENCES[column] == name:
                    raise ValueError(f"{name}.{column} refers to no table")
            if "customer_id" in contract.columns and not any(
                column.type == "customer" for column in mapping.columns.values()
            ):
                raise ValueError(
                    f"{name} needs a column of the type customer, so that customers are known "
                    f"by pseudonyms"
                )
        return self

    def corrects(self, table: str) -> bool:
        """Whether a newer delivery of a row replaces the older; otherwise it is a conflict."""
        declared = self.tables[table].changed_rows
        return TABLES[table].corrects if declared is None else declared == "correction"

    def bounds(self, table: str) -> Mapping[str, Bounds]:
        """Least and greatest value of the table's bounded columns."""
        return BOUNDS.get(table, {}) | dict(self.tables[table].bounds)

    def data(self, path: Path | None) -> Path:
        """Where the files are: `path`, or the folder of the source's package.

        Raises WrongUsage: nothing is there. TierhouseError: the package is not installed.
        """
        where = path if path is not None else self._package_data()
        try:
            is_there = where.exists()
        except OSError as error:
            raise WrongUsage(f"{where} cannot be looked at: {error.strerror}.") from None
        if not is_there:
            raise WrongUsage(
                f"There is nothing at {where}. Give `tierhouse load {self.name}` the file or the "
                f"folder that holds the shop's files."
            )
        return where

    def find(self, where: Path) -> Mapping[str, list[Path]]:
        """The files of each table, in the order of loading; a table without files is left out.

        Raises WrongUsage: none of the source's files is there. Refused: a table that is not
        optional has none.
        """
        if where.is_file():
            found = {
                table: [where]
                for table, mapping in self.tables.items()
                if any(where.match(pattern) for pattern in mapping.files)
            }
            lacking = []
        else:
            found = {
                table: sorted({f for p in mapping.files for f in where.glob(p) if f.is_file()})
                for table, mapping in self.tables.items()
            }
            lacking = [t for t, files in found.items() if not files and not self.tables[t].optional]
        if not any(found.values()):
            patterns = dict.fromkeys(p for mapping in self.tables.values() for p in mapping.files)
            raise WrongUsage(
                f"{where} holds none of {', '.join(patterns)}, which the source {self.name!r} "
                f"reads. Give the file, or the folder that holds the shop's files."
            )
        if lacking:
            patterns = dict.fromkeys(p for table in lacking for p in self.tables[table].files)
            raise Refused(
                f"{where} holds no {' or '.join(patterns)}, which the source {self.name!r} reads "
                f"for {' and '.join(lacking)}. Nothing was loaded. Complete the delivery, or say "
                f"`optional: true` for the table in {self.folder / 'source.yml'}."
            )
        return {table: found[table] for table in TABLES if found.get(table)}

    def _package_data(self) -> Path:
        if self.package is None:
            raise WrongUsage(f"Say where the files are: `tierhouse load {self.name} PATH`.")
        package = importlib.util.find_spec(self.package)
        if package is None or package.origin is None:
            raise TierhouseError(
                f"The data of {self.name!r} comes with the package {self.package}, which is not "
                f"installed. Run `make install`, which installs the extra `demo`, or give a path."
            )
        return Path(package.origin).parent / self.package_folder


def read_source(name: str) -> Source:
    """A built-in source by name, or a user's by the path of its folder.

    Raises WrongUsage: there is no such source, or its source.yml or a SELECT lacks something.
    """
    names = sorted(path.name for path in BUILT_IN.iterdir())
    folder = BUILT_IN / name if name in names else Path(name)
    file = folder / "source.yml"
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise WrongUsage(
            f"There is no source {name!r}. Built in are {', '.join(names)}; a source of your own "
            f"is a folder with a source.yml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}.") from None
    try:
        settings = yaml.safe_load(text)
        if not isinstance(settings, dict):
            raise ValueError("it is no mapping of settings")
        selects = {
            table: _read_select(folder, table, mapping)
            for table, mapping in (settings.get("tables") or {}).items()
        }
        return Source(name=folder.resolve().name, folder=folder, selects=selects, **settings)
    except FileNotFoundError as error:
        raise WrongUsage(
            f"{file} names a table whose mapping {error.filename} is not there. Write the SELECT "
            f"that makes it, or give the columns the names of the contract; the built-in sources "
            f"in {BUILT_IN} are examples."
        ) from None
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'it'}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()[:3]
        )
        raise WrongUsage(
            f"{file} cannot be used. {wrong}. The built-in sources in {BUILT_IN} are examples."
        ) from None
    except (yaml.YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise WrongUsage(
            f"{file} cannot be used: {said}. The built-in sources in {BUILT_IN} are examples."
        ) from None


def _read_select(folder: Path, table: str, mapping: Any) -> str:
    """The table's SELECT. Columns that have the contract's names already need none."""
    try:
        return (folder / f"{table}.sql").read_text(encoding="utf-8")
    except FileNotFoundError:
        columns = mapping.get("columns")
        if table not in TABLES or not columns or not set(columns) <= set(TABLES[table].columns):
            raise
        return f"select {', '.join(columns)}, source_row from file"


def landing_day(landing: Path, source: Source, day: date) -> Path:
    """The folder that the source's delivery of a day lands in."""
    return landing / source.name / day.isoformat()
