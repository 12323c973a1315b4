"""Validate the tables of a stage inside the warehouse, or raise.

Great Expectations turns each suite into SQL and gets numbers back: no row leaves the warehouse.
Importing it takes seconds, so a stage is one process, and callers import this module late.
"""

import math
import re
from datetime import date
from decimal import Decimal

import great_expectations as gx
import sqlalchemy as sa
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.data_context.ephemeral_data_context import (
    EphemeralDataContext,
)
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.datasource.fluent.postgres_datasource import PostgresDatasource
from great_expectations.exceptions.exceptions import GreatExpectationsError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from expectations import events, features, labels, raw, tiers
from expectations.report import GateError, Report, Result
from expectations.tables import Columns, Scope, Table

STAGES: dict[str, tuple[Table, ...]] = {
    "raw": raw.TABLES,
    "features": (*features.TABLES, *labels.TABLES, *events.TABLES),
    "tiers": tiers.TABLES,
}
VERSION_ID = re.compile(r"[0-9a-f]{16}")


def validate(url: str, stage: str, as_of_date: str | None, version_id: str | None) -> Report:
    """Hold every suite of a stage against the warehouse.

    url: postgresql://user:password@host:port/database
    stage: raw (the day is optional), features (needs the day) or tiers (needs day and version)

    Raises GateError when the gate cannot answer: a table is not built, the warehouse does not
    answer, an expectation breaks. What cannot be checked has not passed.
    """
    scope = scope_of(stage, as_of_date, version_id)
    address = sa.make_url(url).set(drivername="postgresql+psycopg")
    columns = columns_of_tables(address, STAGES[stage], scope)
    context = quiet_context()
    source = context.data_sources.add_postgres(
        "warehouse",
        # GX looks for "$NAME" to substitute in texts; rendering quotes it in a password.
        connection_string=address.render_as_string(hide_password=False),
        # The facts are gathered once, into one row, and every expectation reads that.
        create_temp_table=True,
    )
    try:
        results = [
            result
            for table in columns
            for result in validate_table(context, source, table, scope, columns[table])
        ]
    finally:
        source.get_execution_engine().engine.dispose()
        source.get_engine().dispose()
    return Report(stage, scope.day, scope.version_id, tuple(results))


def quiet_context() -> EphemeralDataContext:
    """All in memory: no gx/ folder, no site in a temporary one, no telemetry, no progress bars."""
    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )


def scope_of(stage: str, as_of_date: str | None, version_id: str | None) -> Scope:
    """The checked scope: a real date and a well-formed version, or GateError."""
    if stage not in STAGES:
        raise GateError(f"There is no gate {stage!r}: name one of {', '.join(STAGES)}.")
    try:
        day = None if as_of_date is None else date.fromisoformat(as_of_date)
    except ValueError as error:
        raise GateError(f"{as_of_date!r} is no date: write it as 2026-01-31.") from error
    if day is None and stage != "raw":
        raise GateError(f"The {stage} gate looks at one day: name it with --as-of.")
    if version_id is not None and not VERSION_ID.fullmatch(version_id):
        raise GateError(f"{version_id!r} is no version: `tierhouse score` prints 16 hex digits.")
    if version_id is None and stage == "tiers":
        raise GateError(
            "The tiers gate looks at one version: run `tierhouse score --as-of DAY` first."
        )
    return Scope(day, version_id)


def columns_of_tables(
    address: sa.URL, tables: tuple[Table, ...], scope: Scope
) -> dict[Table, Columns]:
    """The tables to validate with their columns; GateError when one that they read is missing."""
    engine = sa.create_engine(address, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            refuse_missing_tables(connection, tables)
            return {
                table: columns_of(connection, table)
                for table in tables
                if not table.is_optional or has_day(connection, table, scope)
            }
    except OperationalError as error:
        raise GateError(
            f"The warehouse at {address.host}:{address.port} did not answer the gate "
            f"({first_line(error.orig)}). Start it with `tierhouse up`, then check again."
        ) from error


def refuse_missing_tables(connection: sa.Connection, tables: tuple[Table, ...]) -> None:
    needs = {name: command for table in tables for name, command in table.needs.items()}
    found = connection.execute(sa.select(*(sa.func.to_regclass(name) for name in needs))).one()
    for (name, command), oid in zip(needs.items(), found, strict=True):
        if oid is None:
            raise GateError(f"There is no table {name} yet: run `{command}` first.")


def has_day(connection: sa.Connection, table: Table, scope: Scope) -> bool:
    schema, _, name = table.full_name.partition(".")
    dated = sa.table(name, sa.column("as_of_date"), schema=schema)
    rows = sa.select(sa.literal(1)).select_from(dated).where(dated.c.as_of_date == scope.day)
    return bool(connection.scalar(sa.select(rows.exists())))


def columns_of(connection: sa.Connection, table: Table) -> Columns:
    schema, _, name = table.full_name.partition(".")
    return [column["name"] for column in sa.inspect(connection).get_columns(name, schema)]


def validate_table(
    context: EphemeralDataContext,
    source: PostgresDatasource,
    table: Table,
    scope: Scope,
    columns: Columns,
) -> list[Result]:
    query = f"select * from ({table.facts(scope, columns)}) as facts"
    validation = gx.ValidationDefinition(
        name=table.name,
        data=source.add_query_asset(table.name, query).add_batch_definition("facts"),
        suite=context.suites.add(table.suite(columns)),
    )
    try:
        # BASIC: the observed number of a fact. A suite of bounds on facts has no rows to sample.
        outcomes = context.validation_definitions.add(validation).run(result_format="BASIC").results
    except (GreatExpectationsError, SQLAlchemyError) as error:
        raise shut(table.name, error) from error
    return [result_of(table.name, outcome) for outcome in outcomes]


def result_of(table_name: str, outcome: ExpectationValidationResult) -> Result:
    expectation = outcome.expectation_config
    if expectation is None or (broken := exception_of(outcome.exception_info)) is not None:
        raise shut(table_name, broken if expectation else "a result without its expectation")
    return Result(
        table_name=table_name,
        expectation=expectation.type,
        column=expectation.kwargs["column"],
        severity=expectation.severity.value,
        success=bool(outcome.success),
        expected=bounds_of(expectation.kwargs),
        observed=json_able(outcome.result.get("observed_value")),
        note=str(expectation.notes or ""),
    )


def exception_of(info: dict) -> str | None:
    """The message when an expectation itself broke. GX gives one record of what was raised, or
    one by metric."""
    records = [info] if "raised_exception" in info else list(info.values())
    raised = [record for record in records if record["raised_exception"]]
    return raised[0]["exception_message"] if raised else None


def shut(table_name: str, error: object) -> GateError:
    return GateError(
        f"The gate of {table_name} could not be run, so it stays shut: {first_line(error)}"
    )


def first_line(error: object) -> str:
    """What went wrong, without the statement and the row that may follow."""
    return str(error).strip().partition("\n")[0]


def bounds_of(kwargs: dict) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    parts = []
    if low is not None:
        parts.append(f"{'more than' if kwargs.get('strict_min') else 'at least'} {low:g}")
    if high is not None:
        parts.append(f"{'less than' if kwargs.get('strict_max') else 'at most'} {high:g}")
    return " and ".join(parts)


def json_able(value: object) -> float | int | str | None:
    """A number as JSON has it. Texts never occur in a suite of bounds, so none may pass: they
    could only be somebody's data."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        return round(number, 6) if math.isfinite(number) else str(number)
    raise GateError(f"A gate measures numbers, and got a {type(value).__name__}.")
