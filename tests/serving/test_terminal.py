import csv
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from rich.console import Console

from ml.baselines import BASELINES
from serving import terminal
from warehouse.loading import Report, TableReport

TRICKY = [
    None, "", "plain", 'say "hi"', "a,b", "two\nlines", "[bold]tag[/bold]", "[/end]", "naïve ☕",
    Decimal("0.10"), Decimal("-1234567890123456.78"), Decimal("NaN"), 1.5, -0.0,
    date(2018, 1, 1), datetime.fromisoformat("2018-01-01T23:59:59.999999"), True, 7,
]  # fmt: skip
COLUMNS = [f"column {n}" for n in range(len(TRICKY))]


def shown(table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def strict(text: str):
    """JSON as the standard has it, numbers with every digit that was written."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse, parse_float=Decimal)


def test_csv_comes_back_as_it_went_in():
    text = terminal.as_csv(COLUMNS, [TRICKY, [1] * len(TRICKY)])
    header, first, second = csv.reader(io.StringIO(text, newline=""))
    assert header == COLUMNS
    assert first == ["" if value is None else str(value) for value in TRICKY]
    assert second == ["1"] * len(TRICKY)
    assert "\r" not in text


def test_csv_of_no_rows_is_the_header():
    assert terminal.as_csv(["a", "b"], []) == "a,b\n"


def test_json_keeps_text_nulls_truth_and_days():
    (row,) = strict(terminal.as_json(COLUMNS, [TRICKY]))
    assert list(row) == COLUMNS
    found = dict(zip(map(repr, TRICKY), row.values(), strict=True))
    assert found["None"] is None
    assert found["True"] is True
    for text in (value for value in TRICKY if isinstance(value, str)):
        assert found[repr(text)] == text
    assert found[repr(date(2018, 1, 1))] == "2018-01-01"
    assert found[repr(TRICKY[15])] == "2018-01-01T23:59:59.999999"


@pytest.mark.parametrize("number", ["0.10", "-1234567890123456.78", "123456789012345678901", "0"])
def test_json_keeps_every_digit_of_a_numeric(number):
    ((row),) = strict(terminal.as_json(["n"], [[Decimal(number)]]))
    assert Decimal(row["n"]) == Decimal(number)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), Decimal("NaN")])
def test_json_of_what_is_no_number_is_still_json(value):
    ((row),) = strict(terminal.as_json(["n"], [[value]]))
    assert row["n"] is None or isinstance(row["n"], str)


@pytest.mark.parametrize(
    "value", [time(1, 2), timedelta(days=1), b"\x00", [1, None], {"a": [Decimal("1.5")]},
              datetime(2018, 1, 1, tzinfo=UTC)],
)  # fmt: skip
def test_json_of_whatever_postgresql_answers_is_json(value):
    strict(terminal.as_json(["v"], [[value]]))


def test_no_column_is_lost_where_two_have_one_name():
    (row,) = strict(terminal.as_json(["count", "count"], [[1, 2]]))
    assert sorted(row.values()) == [1, 2]


def test_a_table_shows_what_is_in_a_cell_and_reads_nothing_into_it():
    for value in ("[bold]tag[/bold]", "[/end]", "[red]", "[link=http://x]y[/link]"):
        assert value in shown(terminal.result([value], [[value]]))
        assert shown(terminal.result([value], [[value]])).count(value) == 2
    assert "None" not in shown(terminal.result(["a"], [[None]]))


def test_a_load_says_where_every_row_went_why_rows_were_refused_and_what_it_left_alone():
    report = Report(
        [
            TableReport("order_lines", 2, 1_234_567, 1_233_067, 40, 900, 30, 100,
                        {"orphan_product": 498, "missing_key": 2}),
            TableReport("campaign_contacts", 1, 7, 7, 0, 0, 0, 0, {}),
        ],
        ["[/old].csv"],
        ["[/new].csv: not read: [bold]colour[/bold]"],
    )  # fmt: skip
    text = shown(terminal.loaded(report))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()[:1]}
    assert rows["order_lines"] == ["1,234,567", "1,233,067", "40", "900", "100", "500"]
    assert rows["campaign_contacts"] == ["7", "7", "0", "0", "0", "0"]
    assert "order_lines: 498 orphan_product" in text
    assert "order_lines: 2 missing_key" in text
    # Whatever files and their columns are called.
    assert "[/new].csv: not read: [bold]colour[/bold]" in text
    assert text.count("[/old].csv") == 1
    assert max(map(len, text.splitlines())) <= 80


def test_a_load_of_nothing_new_shows_no_empty_table():
    text = shown(terminal.loaded(Report([], ["a.csv", "b.csv"], [])))
    assert text == "Loaded before, so left alone: a.csv, b.csv.\n"


def scores(**changed: float | None) -> dict[str, float | None]:
    good = {
        "normalized_gini": 0.812, "capture_top10": 0.345, "spearman": 0.5, "auroc_active": 0.75,
        "sum_ratio": 1.02, "mae": 1234.56,
    }  # fmt: skip
    return good | changed


def board(pooled: dict[str, dict]) -> dict:
    days = ["2017-07-03", "2017-08-02", "2017-09-01", "2017-10-01"]
    return {
        "horizon_days": 90,
        "pooled": pooled,
        "origins": [{"as_of_date": day, "models": pooled} for day in days],
    }


def test_the_scoreboard_shows_every_model_whole_in_80_columns():
    names = [*BASELINES, "lightgbm_hurdle"]
    text = shown(terminal.scoreboard(board({name: scores() for name in names})))
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()[:1]}
    for name in names:
        for cell in ("0.812", "0.345", "0.500", "0.750", "1.02", "1,234.6"):
            assert cell in rows[name]
    assert "means over 4 origins" in text
    for day in ("2017-07-03", "2017-10-01"):
        assert day in text


def test_the_scoreboard_ends_with_the_best_and_marks_the_best_of_each_column():
    """A ratio of sums is best near 1, an error where it is small."""
    pooled = {
        "much": scores(normalized_gini=0.9, sum_ratio=1.3, mae=9.0),
        "close": scores(normalized_gini=0.1, sum_ratio=0.9, mae=8.0),
        "exact": scores(normalized_gini=0.2, sum_ratio=2.0, mae=1.0),
    }
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(terminal.scoreboard(board(pooled)))
    lines = console.file.getvalue().splitlines()
    order = [n for line in lines for n in pooled if line.strip().startswith(n)]
    assert order == ["close", "exact", "much"]
    bold = {"much": "0.900", "close": "0.90", "exact": "1.0"}
    for name, value in bold.items():
        (line,) = (line for line in lines if line.strip().startswith(name))
        assert f"\x1b[1m{value}\x1b[0m" in line


def gained(metric: str, *ends: float | None) -> dict[str, float | None]:
    return dict(zip((f"{metric}_gain{end}" for end in ("", "_low", "_high")), ends, strict=True))


def test_the_scoreboard_says_what_the_model_gains_with_its_interval_in_80_columns():
    model = scores(
        **gained("normalized_gini", 0.0112, 0.009, 0.0131),
        **gained("capture_top10", 0.0, -0.0021, 0.003),
        **gained("auroc_active", None, None, None),
        **gained("mae", 1.0, 0.5, 1.5),
    )
    pooled = {"mean": scores(), "lightgbm_hurdle": model}
    rows = [
        (name, None, 90, metric, value)
        for name, metrics in pooled.items()
        for metric, value in metrics.items()
        if value is not None
    ]
    for told in (board(pooled), terminal.judged(rows)):
        text = shown(terminal.scoreboard(told))
        lines = [line.strip() for line in text.splitlines()]
        place = lines.index("lightgbm_hurdle against the best baseline (90 % interval):")
        assert lines[place + 1 : place + 3] == [
            "Gini +0.011 (+0.009 to +0.013)",
            "top 10 % +0.000 (-0.002 to +0.003)",
        ]
        assert text.count("against the best baseline") == 1
        assert "all predicted over all actual" in " ".join(lines)
        assert max(map(len, text.splitlines())) <= 80
        for silent in ("Spearman +", "AUROC +", "MAE +", "None"):
            assert silent not in text


def test_what_a_model_cannot_have_is_a_dash():
    pooled = {"ranks_only": scores(sum_ratio=None, mae=None), "model": scores()}
    text = shown(terminal.scoreboard(board(pooled)))
    (line,) = (line for line in text.splitlines() if "ranks_only" in line)
    assert line.count("–") == 2

    nothing = board({"undefined": scores(normalized_gini=None), "model": scores()})
    assert "undefined" in shown(terminal.scoreboard(nothing))


def test_the_rows_of_the_warehouse_are_the_json_of_a_backtest():
    """Metrics that are not finite are not in the warehouse at all."""
    rows = [
        ("model", None, 90, "mae", 2.0),
        ("model", date(2017, 9, 1), 90, "mae", 3.0),
        ("model", date(2017, 8, 1), 90, "mae", 1.0),
        ("mean", None, 90, "normalized_gini", 0.0),
    ]
    judged = terminal.judged(rows)
    assert judged["horizon_days"] == 90
    assert judged["pooled"] == {"model": {"mae": 2.0}, "mean": {"normalized_gini": 0.0}}
    assert [origin["as_of_date"] for origin in judged["origins"]] == ["2017-08-01", "2017-09-01"]
    assert judged["origins"][0]["models"] == {"model": {"mae": 1.0}}
    assert "model" in shown(terminal.scoreboard(judged))


def test_tiers_are_shown_in_80_columns_with_and_without_a_held_out_window():
    row = {
        "tier": "platinum", "customers": 12_345_678, "expected_spend": Decimal("987654321.00"),
        "expected_share": Decimal("0.4321"), "as_of_date": date(2018, 1, 1), "horizon_days": 90,
        "evaluated_as_of_date": date(2017, 10, 3), "evaluated_expected_share": Decimal("0.4"),
        "evaluated_realised_share": None,
    }  # fmt: skip
    text = shown(terminal.tiers([row]))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("platinum", "12,345,678", "987,654,321", "43.2 %", "40.0 %", "–", "2017-10-03"):
        assert part in text
    assert "drawn on 2017-10-03" in text
    assert "drawn on" not in shown(terminal.tiers([row | {"evaluated_as_of_date": None}]))
