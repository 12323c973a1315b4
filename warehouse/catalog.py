"""One page that tells of every table and column that dbt makes, and of what is made from which."""

from pathlib import Path

from warehouse import building
from warehouse.connections import Urls
from warehouse.settings import Settings, TierhouseError, one_line

# The SQL on the page has to be of some day; nothing of that day is read.
EXAMPLE_DAY = "2018-01-01"


def generate(urls: Urls, settings: Settings) -> Path:
    """Write the page into the home, in one file that needs neither a server nor the web.

    Types and comments of what was built are the warehouse's own.
    Raises TierhouseError: dbt could not make the page.
    """
    from dbt.cli.main import dbtRunner  # slow to import

    work = settings.home / "dbt" / "docs"
    page = settings.home / "docs" / "index.html"
    building.set_environment(urls, settings.home)
    outcome = dbtRunner().invoke(
        ["docs", "generate", "--static",
         "--project-dir", str(building.DBT_PROJECT),
         "--profiles-dir", str(building.DBT_PROJECT),
         "--target-path", str(work),
         "--log-path", str(settings.home / "dbt" / "logs"),
         "--log-level", "none",
         "--vars", f"{{as_of_dates: ['{EXAMPLE_DAY}']}}"]
    )  # fmt: skip
    if not outcome.success:
        said = one_line(outcome.exception or "a model does not compile")
        raise TierhouseError(
            f"dbt could not make the page: {said} The log is in {settings.home / 'dbt' / 'logs'}."
        )
    page.parent.mkdir(parents=True, exist_ok=True)
    return (work / "static_index.html").replace(page)
