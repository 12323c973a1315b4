"""Look at the rows that were refused. `loading.replay` tries them again."""

from warehouse.connections import connect

Rows = tuple[list[str], list[tuple]]


def overview(url: str) -> Rows:
    """How many rows wait, by table, reason, column and file; the most frequent first.

    load: the day of the delivery, or that the load was refused as a whole.
    """
    return _read(
        url,
        "select table_name as table, reason, column_name as column, count(*) as rows, "
        "rows.file_name as file, min(source_row) as first_row, "
        "coalesce(delivered_at::date::text, 'refused') as load "
        "from quarantine.rows left join ops.files using (file_id) "
        "group by table_name, reason, column_name, rows.file_name, rows.file_hash, file_id, "
        "delivered_at "
        "order by count(*) desc, 1, 2, 3, 5",
    )


def rows(url: str, table: str | None, reason: str | None, limit: int) -> Rows:
    """The first rows that wait, with what the file says; personal columns were never kept."""
    return _read(
        url,
        "select file_name as file, source_row as row, reason, column_name as column, raw_row::text "
        "from quarantine.rows where (%(table)s::text is null or table_name = %(table)s) "
        "and (%(reason)s::text is null or reason = %(reason)s) "
        "order by file_name, source_row, table_name limit %(limit)s",
        {"table": table, "reason": reason, "limit": limit},
    )


def _read(url: str, query: str, parameters: dict | None = None) -> Rows:
    with connect(url) as connection:
        cursor = connection.execute(query.encode(), parameters)
        return [column.name for column in cursor.description or ()], cursor.fetchall()
