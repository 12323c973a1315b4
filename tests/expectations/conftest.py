import psycopg
import pytest
import shops


@pytest.fixture
def url(urls):
    return urls.warehouse


@pytest.fixture
def grocery(url):
    with psycopg.connect(url, autocommit=True) as connection:
        shops.open_shop(connection, shops.grocery_lines(), is_online=True)
        yield connection


@pytest.fixture
def gift_wholesale(url):
    with psycopg.connect(url, autocommit=True) as connection:
        shops.open_shop(connection, shops.gift_wholesale_lines(), is_online=False)
        yield connection
